"""Several views of an image: their mean by hand, and windows that agree with the whole."""

import dataclasses
import re
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_UNET
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import random_variables, square_image

from deeplab_jax import EvalConfig, build_model
from deeplab_jax.inference.step import predict_labels, predict_probabilities
from deeplab_jax.inference.tta import at_scale, scaled_size, sliding_logits, window_starts
from deeplab_jax.ops.resize import resize_bilinear

MODEL, VARIABLES = build_model(TINY_MODEL), random_variables(TINY_MODEL)
IMAGE = np.stack([np.pad(square_image(0)[0], ((0, 9), (0, 9), (0, 0)))])  # 49 x 65


@partial(jax.jit, static_argnums=1)
def softmax_by_hand(image: np.ndarray, size: tuple[int, int]) -> jax.Array:
    """The image at one size through the network, its logits back to its own size, softmax."""
    scaled = resize_bilinear(jnp.float32(image), size)
    logits = resize_bilinear(MODEL.apply(VARIABLES, scaled, train=False), image.shape[1:3])
    return jax.nn.softmax(logits)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.5)])
def test_scales_and_flip_are_a_mean_of_probabilities(scales: tuple[float, ...]) -> None:
    """With flip also where the only scale is 1, which the official code ignores."""
    sizes = {0.5: (33, 33), 1.0: (49, 65), 1.5: (65, 97)}
    by_hand = [softmax_by_hand(IMAGE, sizes[s]) for s in scales]
    by_hand += [softmax_by_hand(IMAGE[:, :, ::-1], sizes[s])[:, :, ::-1] for s in scales]
    how = {"model": MODEL, "protocol": EvalConfig(scales=scales, flip=True)}
    ours = jax.jit(partial(predict_probabilities, **how))(VARIABLES, IMAGE)
    np.testing.assert_allclose(ours, np.mean(by_hand, axis=0), atol=1e-4)
    if len(scales) == 1:
        labels = jax.jit(partial(predict_labels, **how))(VARIABLES, IMAGE)
        np.testing.assert_array_equal(labels, np.argmax(ours, axis=-1))


def test_sizes_are_the_official_ones() -> None:
    for scale in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
        official = int((513 - 1) * scale + 1)
        assert scaled_size((513, 513), scale, 16) == (official, official)
    assert scaled_size((368, 480), 1.0, 16) == (368, 480)
    assert scaled_size((368, 480), 0.5, 16) == (177, 241)
    assert scaled_size((17, 17), 0.1, 16) == (17, 17)


def test_the_pooling_window_scales_with_the_image() -> None:
    pooled = dataclasses.replace(TINY_MODEL, image_pooling_crop_size=(513, 513))
    assert at_scale(build_model(pooled), 0.5).config.image_pooling_crop_size == (257, 257)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.floats(0, 0.99), st.sampled_from([8, 16, 32]))
def test_windows_cover_the_image(n: int, k: int, overlap: float, stride: int) -> None:
    size, window = n * stride + 1, min(k, n) * stride + 1
    starts = window_starts(size, window, overlap, stride)
    assert starts[0] == 0 and starts[-1] == size - window
    assert all(s % stride == 0 for s in starts)
    for here, following in pairwise(starts):
        assert here < following <= max(here + stride, here + window * (1 - overlap))


def test_windows_of_a_network_without_context_give_the_whole_image() -> None:
    """Where a logit follows from one pixel, windows must agree with each other and the whole."""
    kernel = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    image = jnp.float32(np.random.default_rng(1).integers(0, 255, (2, 65, 97, 3)))

    def network(x: jax.Array) -> jax.Array:
        return x[:, ::4, ::4] @ kernel

    for window in ((33, 33), (49, 97), (17, 81), (200, 200)):
        ours = sliding_logits(network, image, window, overlap=0.4, output_stride=16)
        np.testing.assert_allclose(ours, network(image), rtol=1e-5, atol=1e-3)


def test_windows_are_averaged_by_how_many_see_a_pixel() -> None:
    """Each window's logits are its own mean brightness: [0, 32] and [16, 48] share [16, 32]."""
    image = jnp.arange(49.0)[None, None, :, None] * jnp.ones((1, 33, 1, 3))

    def network(x: jax.Array) -> jax.Array:
        return jnp.mean(x) * jnp.ones((1, 3, 3, 1))

    ours = sliding_logits(network, image, (33, 33), overlap=0.5, output_stride=16)
    np.testing.assert_allclose(ours[0, :, :, 0], np.tile([16.0, 24.0, 24.0, 32.0], (3, 1)))


def test_a_window_as_large_as_the_image_changes_nothing() -> None:
    whole, window = (
        jax.jit(partial(predict_probabilities, model=MODEL, protocol=EvalConfig(window=w)))
        for w in (None, (81, 65))
    )
    np.testing.assert_array_equal(whole(VARIABLES, IMAGE), window(VARIABLES, IMAGE))


def test_logits_of_the_image_s_size_are_taken_as_they_are() -> None:
    model = build_model(TINY_UNET)
    variables = random_variables(TINY_UNET)
    image = jnp.asarray(square_image(0)[0][None, :33, :49])
    logits = model.apply(variables, image.astype(jnp.float32), train=False)
    assert logits.shape == (1, 33, 49, 3)
    labels = predict_labels(variables, image, model=model)
    np.testing.assert_array_equal(labels, logits.argmax(-1))
    program = jax.jit(partial(predict_labels, model=model)).lower(variables, image).as_text()
    assert "while" not in program  # no blocks of rows, each a product with an identity's


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_means_float32_on_every_platform(dtype: str) -> None:
    """On a TPU, whose default is products in bfloat16, a prediction asks for the highest."""
    config = dataclasses.replace(TINY_MODEL, dtype=dtype)
    predict = jax.jit(partial(predict_probabilities, model=build_model(config)))
    program = predict.trace(VARIABLES, IMAGE).lower(lowering_platforms=("tpu",)).as_text()
    products = [x for x in program.splitlines() if re.search(r"stablehlo\.(convol|dot_gen)", x)]
    precise = [x for x in products if re.search(r"HIGHEST[>\w#. ]*, #?[\w. <]*HIGHEST", x)]
    assert len(products) > 50
    assert (len(precise) == len(products)) == (dtype == "float32")
