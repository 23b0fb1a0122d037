"""PSPNet: context by region (Zhao et al. 2017, arXiv 1612.01105, section 3.2).

The features are averaged over grids of 1x1, 2x2, 3x3 and 6x6 regions, so that each pixel is told
what surrounds it: an object on water is not a car.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.models.layers import (
    ConvBN,
    adaptive_average_pool,
    height_width,
    relu,
    resize_bilinear,
)

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """Features [b, h, w, c] -> [b, h, w, c / 4].

    A 1x1 convolution reduces each pooled grid to c / 4 channels; all are upsampled, joined to the
    features and merged by a 3x3 convolution. The paper's auxiliary loss is left out.
    """

    decay: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, dropout: bool) -> Array:
        norm = {
            "activation": relu,
            "decay": self.decay,
            "epsilon": 1e-5,
            "kernel_init": nn.initializers.he_normal(),
            "dtype": self.dtype,
        }
        channels = x.shape[-1] // len(BINS)
        levels = [x]
        for bins in BINS:
            pooled = adaptive_average_pool(x, bins)
            pooled = ConvBN(channels, 1, name=f"pool{bins}", **norm)(pooled, train=train)
            levels.append(resize_bilinear(pooled, height_width(x)))
        merged = jnp.concatenate(levels, axis=-1)
        merged = ConvBN(channels, 3, name="merge", **norm)(merged, train=train)
        return nn.Dropout(0.1, deterministic=not dropout)(merged)
