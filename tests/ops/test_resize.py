"""Bilinear resizing with aligned corners."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_jax.ops import dispatch
from deeplab_jax.ops.resize import resize_bilinear


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(2, 20), st.integers(2, 20))
def test_resize_keeps_corners_and_planes(h: int, w: int, oh: int, ow: int) -> None:
    """Bilinear with aligned corners reproduces a plane exactly, whatever the sizes."""

    def plane(h: int, w: int) -> np.ndarray:
        return np.linspace(0, 1, h)[:, None] + 2 * np.linspace(0, 1, w)[None]

    x = jnp.asarray(plane(h, w), jnp.float32)[None, :, :, None]
    out = jax.jit(resize_bilinear, static_argnums=1)(x, (oh, ow))[0, :, :, 0]
    np.testing.assert_allclose(out, plane(oh, ow), atol=1e-5)


def test_resize_by_a_whole_factor_keeps_the_samples() -> None:
    x = jax.random.normal(jax.random.key(0), (1, 9, 13, 2))
    np.testing.assert_allclose(resize_bilinear(x, (33, 49))[:, ::4, ::4], x, atol=1e-5)


def test_a_gpu_s_products_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((2, 5, 7, 3), (4, 5), (9, 7))  # x, rows, columns
    arguments = [jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]
    results = []
    for platform in ("gpu", "tpu"):
        monkeypatch.setattr(dispatch, "ambient_platform", lambda platform=platform: platform)
        y, vjp = jax.vjp(dispatch.apply_matrices, *arguments)
        results.append((y, *vjp(y)))
    chex.assert_trees_all_close(*results, atol=1e-4)
