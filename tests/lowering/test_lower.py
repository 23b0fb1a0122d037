"""Every network in ONNX: the same logits as ours, from one definition of each."""

import re
from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import NETWORKS, differ, like, make, random_images

from deeplab_jax import UserError
from deeplab_jax.inference.step import window_logits

onnx = pytest.importorskip("onnx", reason="pip install onnx")
pytest.importorskip("onnxruntime", reason="pip install onnxruntime")

from deeplab_jax.lowering.lower import lower, lower_for_any_size  # noqa: E402
from deeplab_jax.lowering.session import open_session  # noqa: E402

# What onnxruntime's list of operators for phones lacks, beside ArgMax, which makes labels; the last
# in PSPNet and U-Net.
OTHERS = {"Expand", "Shape", "Einsum"}


def for_phones() -> set[str]:
    """The operators that Android's NNAPI takes from onnxruntime, as that lists them."""
    tools = resources.files("onnxruntime.tools.mobile_helpers")
    text = (tools / "nnapi_supported_ops.md").read_text(encoding="utf-8")
    return {*re.findall(r"^\|ai\.onnx:(\w+)\|", text, re.MULTILINE)}


def compare(model: Any, function: Callable[..., Any], image: np.ndarray) -> float:
    (found,) = open_session(model).run(None, {"image": image})
    return differ(found, np.asarray(jax.jit(function)(image)))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_ours(name: str) -> None:
    network, variables = make(NETWORKS[name])
    image = random_images(2, (65, 65), network.config.image_channels)
    function = partial(window_logits, variables, model=network)
    lowered = lower(function, like(image))
    assert compare(lowered.model, function, image) <= 1e-5
    assert {n.op_type for n in lowered.model.graph.node} <= for_phones() | OTHERS


def test_one_file_for_any_size() -> None:
    """Of the sizes k * stride + 1; proved by two traces that give the same graph."""
    network, variables = make(NETWORKS["small"])
    function = partial(window_logits, variables, model=network)
    lowered = lower_for_any_size(function, like(random_images(1, (4, 4), 3)), 16)
    session = open_session(lowered.model)
    for size in [(33, 33), (49, 97), (65, 129), (113, 81), (161, 145)]:
        image = random_images(1, size, 3)
        (found,) = session.run(None, {"image": image})
        ours = np.asarray(jax.jit(function)(image))
        assert differ(found, ours) <= 1e-5
        middle = ours.mean((0, 1, 2))  # of random weights one class fills the image
        labels = (ours - middle).argmax(-1)
        assert len(np.unique(labels)) > 1
        assert np.mean((found - middle).argmax(-1) == labels) > 0.999


def test_what_depends_on_the_size_otherwise_is_refused() -> None:
    network, variables = make(NETWORKS["pooling window"])
    function = partial(window_logits, variables, model=network)
    with pytest.raises(UserError, match="depends on the image's size"):
        image = like(random_images(1, (4, 4), 3))
        lower_for_any_size(function, image, network.config.output_stride)


def test_an_unknown_operation_is_named() -> None:
    def function(image: jax.Array) -> jax.Array:
        return jnp.tan(image)

    with pytest.raises(UserError, match=r"the operation 'tan' has no row in .*table"):
        lower(function, like(random_images(1, (4, 4), 3)))


def test_operations_as_no_network_has_them() -> None:
    matrix = np.random.default_rng(0).uniform(size=(5, 4)).astype(np.float32)

    def function(image: jax.Array) -> jax.Array:
        x = jnp.einsum("nh,bhwc->bnwc", matrix, image).swapaxes(1, 2)
        x = x[:, ::-2, 1:4] - jnp.sum(image, axis=1)[:, :3, None, :] / 5
        a, b, c = jnp.unstack(x, axis=1)
        return jnp.stack([a, c, b], axis=2).reshape(len(x), 3, 9)

    image = random_images(2, (4, 6), 3)
    lowered = lower(function, like(image))
    assert compare(lowered.model, function, image) <= 1e-6
