"""Batch normalisation by a batch's own statistics.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias

Statistics are float32. Under `jit` with the batch split over devices a mean is that of the *global*
batch: what other frameworks call synchronised BatchNorm needs no further code.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance of x [..., c] over all but the last axis, in one pass: f32 [c]."""
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axes)
    return mean, jnp.maximum(0.0, jnp.mean(jnp.square(x), axes) - jnp.square(mean))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, tuple[Array, Array]]:
    """x [..., c] by its own mean and variance, scaled and shifted; and these two moments.

    The moments feed the running averages and carry no gradient. Backward needs x alone: autodiff
    would keep two float32 arrays of its size besides.
    """
    return _batch_norm_fwd(x, scale, bias, epsilon)[0]


def _batch_norm_fwd(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, tuple[Array, Array]], tuple[Array, ...]]:
    mean, var = checkpoint_name(moments(x), "moments")
    inverse = lax.rsqrt(var + epsilon)
    inverse, gain = checkpoint_name((inverse, scale * inverse), "moments")
    y = ((x - mean) * gain + bias).astype(x.dtype)
    return (y, (mean, var)), (x, mean, inverse, gain)


def _batch_norm_bwd(
    epsilon: float, residuals: tuple[Array, ...], cotangents: tuple[Array, Any]
) -> tuple[Array, Array, Array]:
    """With x^ = (x - mean) / deviation: dx = scale / deviation (dy - mean(dy) - x^ mean(dy x^))."""
    x, mean, inverse, gain = residuals
    dy = cotangents[0].astype(jnp.float32)
    count, axes = x.size // x.shape[-1], tuple(range(x.ndim - 1))
    normal = (x - mean) * inverse
    dbias, dscale = jnp.sum(dy, axes), jnp.sum(dy * normal, axes)
    dx = (dy - dbias / count - normal * (dscale / count)) * gain
    return dx.astype(x.dtype), dscale, dbias


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)
