"""The fast forms of the convolutions equal XLA's own, forward and backward."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from deeplab_jax.models.layers import (
    NO_PADS,
    BatchNorm,
    ConvBN,
    batch_norm,
    cudnn_kernel_gradient,
    cudnn_pointwise,
    depthwise_conv,
    pointwise_conv,
    resize_bilinear,
    scale_dimension,
    spatial_pads,
    sums_in_pairs,
)


def lax_depthwise(x: Any, kernel: Any, stride: int, rate: int, pads: Any) -> Any:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(rate, rate),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@settings(max_examples=10, deadline=None)  # each compiles anew
@given(
    st.integers(4, 12),
    st.integers(4, 12),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 3, 6]),
    st.booleans(),
    st.sampled_from([3, 5]),
)
def test_depthwise_equals_lax_and_so_do_its_gradients(
    h: int, w: int, stride: int, rate: int, tf_same: bool, k: int
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, h, w, 3)).astype(np.float32)
    kernel = rng.normal(size=(k, k, 1, 3)).astype(np.float32)
    pads = spatial_pads((h, w), k, stride, rate, tf_same)
    out = jax.eval_shape(lambda: lax_depthwise(x, kernel, stride, rate, pads))
    dy = rng.normal(size=out.shape).astype(np.float32)

    @jax.jit
    def both(x: Any, kernel: Any, dy: Any) -> Any:
        def run(f: Any) -> Any:
            y, vjp = jax.vjp(lambda x, k: f(x, k, stride, rate, pads), x, kernel)
            return y, *vjp(dy)

        return run(depthwise_conv), run(lax_depthwise)

    for ours, want in zip(*both(x, kernel, dy), strict=True):
        np.testing.assert_allclose(ours, want, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_equals_lax(stride: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 5))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, 5, 4))
    want = lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(pointwise_conv(x, kernel, stride), want, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from([1, 2, 3, 6]))
def test_explicit_padding_at_a_stride_is_stride_one_subsampled(n: int, k2: int, rate: int) -> None:
    kernel, stride = 2 * k2 + 1, 2
    ((before, after), _) = spatial_pads((n, n), kernel, stride, rate, tf_same=False)
    assert before + after == (kernel - 1) * rate
    assert (n + before + after - (kernel - 1) * rate - 1) // stride + 1 == scale_dimension(
        n, stride
    )


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


def test_batch_norm_normalises_in_training_and_uses_averages_otherwise() -> None:
    norm = BatchNorm(features=5, decay=0.9, epsilon=1e-5)
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 6, 6, 5))
    variables = norm.init(jax.random.key(1), x, train=False)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.apply(variables, x, train=False), x, atol=1e-3)


def test_batch_norms_own_gradient_is_autodiffs() -> None:
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 6, 4))
    scale, bias = jnp.array([1.0, 2.0, -0.5, 0.1]), jnp.arange(4.0)
    dy = jax.random.normal(jax.random.key(1), x.shape)

    def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return jnp.sum(dy * ((x - mean) / jnp.sqrt(var + 1e-3) * scale + bias))

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.sum(dy * batch_norm(x, scale, bias, 1e-3)[0])

    want = jax.jit(jax.grad(plain, (0, 1, 2)))(x, scale, bias)
    chex.assert_trees_all_close(jax.jit(jax.grad(ours, (0, 1, 2)))(x, scale, bias), want, atol=1e-4)


def test_batch_norm_survives_one_pixel() -> None:
    """A batch of one pooled image: variance 0, and no division by it."""
    layer = ConvBN(4)
    x = jnp.ones((1, 1, 1, 3))
    variables = layer.init(jax.random.key(0), x, train=False)
    y, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    assert np.isfinite(y).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_cudas_pointwise_and_kernel_gradient_are_the_others(stride: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 5))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, 5, 4))
    y, ours = jax.vjp(lambda x, k: cudnn_pointwise(x, k, stride), x, kernel)
    want_y, want = jax.vjp(lambda x, k: pointwise_conv(x, k, stride), x, kernel)
    chex.assert_trees_all_close((y, *ours(y)), (want_y, *want(y)), atol=1e-4)

    y, vjp = jax.vjp(lambda k: depthwise_conv(x, k, stride, 1, NO_PADS), jnp.ones((3, 3, 1, 5)))
    dy = jax.random.normal(jax.random.key(2), y.shape)
    (want_dw,) = vjp(dy)
    dw = cudnn_kernel_gradient(x, dy, size=(3, 3), stride=stride)
    np.testing.assert_allclose(dw.reshape(3, 3, 1, 5), want_dw, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_sums_in_pairs_are_sums(n: int) -> None:
    arrays = jax.random.normal(jax.random.key(0), (n, 2, 5, 6, 4))
    for ours, x in zip(sums_in_pairs(*arrays), arrays, strict=True):
        np.testing.assert_allclose(ours, x.sum((0, 1, 2)), atol=1e-5)
