"""The CPU's forms of the convolutions equal the plain ones, forward and backward."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_jax.ops import dispatch
from deeplab_jax.ops.conv import conv, spatial_pads
from deeplab_jax.ops.cpu import kernel_gradient, pointwise_product, shifted_conv
from deeplab_jax.ops.dispatch import depthwise_conv, pointwise_conv
from deeplab_jax.ops.resize import scale_dimension


def plain_depthwise(x: Any, kernel: Any, stride: int, rate: int, pads: Any) -> Any:
    return conv(x, kernel, stride, rate, pads, groups=x.shape[-1])


@pytest.mark.gpu
@settings(max_examples=10, deadline=None)  # each compiles anew
@given(
    st.integers(4, 12),
    st.integers(4, 12),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 3, 6]),
    st.booleans(),
    st.sampled_from([3, 5]),
)
def test_depthwise_equals_the_plain_form_and_so_do_its_gradients(
    h: int, w: int, stride: int, rate: int, tf_same: bool, k: int
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, h, w, 3)).astype(np.float32)
    kernel = rng.normal(size=(k, k, 1, 3)).astype(np.float32)
    pads = spatial_pads((h, w), k, stride, rate, tf_same)
    out = jax.eval_shape(lambda: plain_depthwise(x, kernel, stride, rate, pads))
    dy = rng.normal(size=out.shape).astype(np.float32)

    @jax.jit
    def every_form(x: Any, kernel: Any, dy: Any) -> Any:
        def run(f: Any) -> Any:
            y, vjp = jax.vjp(lambda x, k: f(x, k, stride, rate, pads), x, kernel)
            return y, *vjp(dy)

        return run(depthwise_conv), run(shifted_conv), run(plain_depthwise)

    chosen, shifted, want = every_form(x, kernel, dy)
    chex.assert_trees_all_close(chosen, want, atol=1e-4)
    chex.assert_trees_all_close(shifted, want, atol=1e-4)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))  # by taps: where devices share rows
    dk = jax.jit(partial(kernel_gradient, size=(k, k), stride=stride, rate=rate))(padded, dy)
    np.testing.assert_allclose(dk.reshape(kernel.shape), want[2], atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_equals_the_plain_form_and_so_do_its_gradients(stride: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 5))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, 5, 4))
    want, want_vjp = jax.vjp(lambda x, k: conv(x, k, stride), x, kernel)
    for form in (pointwise_conv, pointwise_product):
        y, vjp = jax.vjp(lambda x, k, form=form: form(x, k, stride), x, kernel)
        chex.assert_trees_all_close((y, *vjp(y)), (want, *want_vjp(want)), atol=1e-4)


@pytest.mark.gpu
def test_a_convolution_is_its_formula() -> None:
    """The sum over a kernel's positions, with a stride, a rate and padding, by NumPy."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 9, 8, 3)), rng.normal(size=(3, 3, 3, 2))
    pads = spatial_pads((9, 8), 3, 2, 2, tf_same=False)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    want = sum(
        padded[:, 2 * u : 2 * u + 9 : 2, 2 * v : 2 * v + 8 : 2] @ kernel[u, v]
        for u in range(3)
        for v in range(3)
    )
    np.testing.assert_allclose(
        conv(jnp.float32(x), jnp.float32(kernel), 2, 2, pads), want, atol=1e-4
    )


@pytest.mark.parametrize(("platform", "grouped"), [("cpu", False), ("gpu", True), ("tpu", True)])
def test_a_known_platform_traces_its_own_form_alone(
    platform: str, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "ambient_platform", lambda: platform)
    x, kernel = jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 1, 3))
    traced = str(
        jax.make_jaxpr(lambda x, k: depthwise_conv(x, k, 1, 1, ((1, 1), (1, 1))))(x, kernel)
    )
    assert ("conv_general_dilated" in traced) == grouped
    traced = str(jax.make_jaxpr(lambda x, k: pointwise_conv(x, k, 2))(x, jnp.ones((1, 1, 3, 2))))
    assert ("conv_general_dilated" in traced) == grouped


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from([1, 2, 3, 6]))
def test_explicit_padding_at_a_stride_is_stride_one_subsampled(n: int, k2: int, rate: int) -> None:
    kernel, stride = 2 * k2 + 1, 2
    ((before, after), _) = spatial_pads((n, n), kernel, stride, rate, tf_same=False)
    assert before + after == (kernel - 1) * rate
    assert (n + before + after - (kernel - 1) * rate - 1) // stride + 1 == scale_dimension(
        n, stride
    )


def test_a_rate_for_height_and_one_for_width() -> None:
    """As one convolution with zeros between the kernel's taps, forward and backward."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 11, 13, 4)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 1, 4)), jnp.float32)
    pads, rate = spatial_pads((11, 13), 3, 1, (3, 2), tf_same=False), (3, 2)
    assert pads == ((3, 3), (2, 2))

    def spread(x: Any, kernel: Any) -> Any:
        wide = jnp.zeros((7, 5, 1, 4)).at[::3, ::2].set(kernel)
        return plain_depthwise(x, wide, 1, 1, pads)

    y, pull = jax.vjp(spread, x, kernel)
    dy = jnp.asarray(rng.standard_normal(y.shape), jnp.float32)
    for form in (plain_depthwise, shifted_conv):
        ours, back = jax.vjp(lambda x, k, form=form: form(x, k, 1, rate, pads), x, kernel)
        np.testing.assert_allclose(ours, y, atol=1e-4)
        for a, b in zip(back(dy), pull(dy), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)
