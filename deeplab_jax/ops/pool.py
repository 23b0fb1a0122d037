"""Pooling of feature maps [b, h, w, c]."""

import jax.numpy as jnp
from jax import Array, lax

from deeplab_jax.ops.conv import spatial_pads
from deeplab_jax.ops.dispatch import apply_matrices


def max_pool(x: Array, window: int, stride: int, *, tf_same: bool = True) -> Array:
    """Maximum over window x window: -> [b, ceil(h / s), ceil(w / s), c].

    Padded by TensorFlow's SAME, or on all sides by window // 2, as PyTorch's ResNets do it.
    """
    pads = spatial_pads((x.shape[1], x.shape[2]), window, stride, 1, tf_same)
    sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, ((0, 0), *pads, (0, 0)))


def average_pool(x: Array, window: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> Array:
    """Mean over every whole window (VALID), in float32; a larger window is cut to x."""
    x = x.astype(jnp.float32)
    h, w = min(window[0], x.shape[1]), min(window[1], x.shape[2])
    if (h, w) == x.shape[1:3]:
        return jnp.mean(x, axis=(1, 2), keepdims=True)
    return lax.reduce_window(x, 0.0, lax.add, (1, h, w, 1), (1, *stride, 1), "VALID") / (h * w)


def adaptive_average_pool(x: Array, bins: int) -> Array:
    """Means over a grid of bins x bins regions that cover x; -> [b, bins, bins, c].

    Region i of n pixels goes from floor(i n / bins) up to ceil((i + 1) n / bins), as in PSPNet's
    public implementations.
    """

    def means(n: int) -> Array:
        i, pixel = jnp.arange(bins)[:, None], jnp.arange(n)[None, :]
        inside = (pixel >= i * n // bins) & (pixel < -(-(i + 1) * n // bins))
        return inside / jnp.sum(inside, axis=1, keepdims=True)

    pooled = apply_matrices(x.astype(jnp.float32), means(x.shape[1]), means(x.shape[2]))
    return pooled.astype(x.dtype)
