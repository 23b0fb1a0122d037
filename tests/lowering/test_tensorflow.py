"""Every network in TensorFlow and, converted, in LiteRT: the same logits, from one definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import NETWORKS, differ, like, make, random_images

from deeplab_jax import UserError
from deeplab_jax.inference.step import window_logits
from deeplab_jax.lowering.walk import Function

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="pip install ai-edge-litert")
tf = pytest.importorskip("tensorflow", reason="pip install tensorflow-cpu")

from deeplab_jax.lowering.tensorflow import lower  # noqa: E402

SIZE = (65, 65)


def check(function: Function, images: np.ndarray, within: float) -> set[str]:
    """Compare a function in LiteRT, as converted by default; returns its operations."""
    concrete, _ = lower(function, like(images), ["result"])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    interpreter = litert.Interpreter(model_content=converter.convert())
    found = interpreter.get_signature_runner()(image=images)["result"]
    assert differ(found, np.asarray(jax.jit(function)(images))) <= within
    return {operation["op_name"] for operation in interpreter._get_ops_details()}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_ours(name: str) -> None:
    """Of as many images as one likes; by operations that every build of LiteRT has, each one of
    ours: a convolution with its rate and its padding, BatchNorm and activation; a resize; a mean.
    """
    network, variables = make(NETWORKS[name])
    images = random_images(2, SIZE, network.config.image_channels)
    found = check(partial(window_logits, variables, model=network), images, 1e-5)
    assert not [name for name in found if name.startswith("Flex")]
    assert not found & {"WHILE", "IF", "SHAPE", "PAD", "SPACE_TO_BATCH_ND", "TILE", "SUM", "DIV"}


def test_an_unknown_operation_is_named() -> None:
    def function(image: jax.Array) -> jax.Array:
        return jnp.tan(image)

    with pytest.raises(UserError, match=r"the operation 'tan' has no row in .*tensorflow_table"):
        lower(function, like(random_images(1, (4, 4), 3)), ["result"])


def test_operations_as_no_network_has_them() -> None:
    matrix = np.random.default_rng(0).uniform(size=(5, 4)).astype(np.float32)

    def function(image: jax.Array) -> jax.Array:
        x = jnp.einsum("nh,bhwc->bnwc", matrix, image).swapaxes(1, 2)
        x = x[:, ::-2, 1:4] - jnp.sum(image, axis=1)[:, :3, None, :] / 5
        padded = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 1, 1), [(0, 0), (2, 1), (1, 1), (0, 0)]
        )
        return (x + padded[:, :1, :1]).reshape(len(x), 3, 9)

    check(function, random_images(2, (4, 6), 3), 1e-6)
