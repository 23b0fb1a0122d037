"""U-Net: a skip at every level (Ronneberger et al. 2015, arXiv 1505.04597).

Where the paper crops (its convolutions are not padded), these convolutions keep the size; and each
is followed by BatchNorm. The expanding path stands on the paper's own contracting path or on any
other backbone.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.models.layers import ConvBN, height_width, max_pool, relu, scale_channels

EPSILON = 1e-5
HE_INIT = nn.initializers.he_normal()  # the paper's section 3: standard deviation sqrt(2 / N)


def channels_at(stride: int, width: float) -> int:
    """The paper's channels: 64 at full resolution, doubled with every halving of the size."""
    return scale_channels(64 * stride, width)


class DoubleConv(nn.Module):
    """Two 3x3 convolutions: x [b, h, w, c] -> [b, h, w, features]."""

    features: int
    decay: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        for i in range(2):
            x = ConvBN(
                self.features,
                3,
                activation=relu,
                decay=self.decay,
                epsilon=EPSILON,
                kernel_init=HE_INIT,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x, train=train)
        return x


class ContractingPath(nn.Module):
    """Image [b, h, w, 3] -> (features at stride 16, {1, 2, 4, 8: skip features})."""

    width: float = 1.0
    decay: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        skips: dict[int, Array] = {}
        for stride in (1, 2, 4, 8):
            features = channels_at(stride, self.width)
            x = DoubleConv(features, self.decay, self.dtype, name=f"down{stride}")(x, train=train)
            skips[stride] = x
            x = max_pool(x, 2, 2)
        features = channels_at(16, self.width)
        x = DoubleConv(features, self.decay, self.dtype, name="bottom")(x, train=train)
        return x, skips


class UpConv(nn.Module):
    """The paper's 2x2 up-convolution: each pixel becomes a block of 2x2, by one matrix product.

    x [b, h, w, c] -> [b, *size, features], cut to `size` (at most twice the input's): pixel k lies
    at 2k, as it did on the way down. Where atrous convolution kept the size, each block becomes its
    mean, so that the same weights serve every output stride.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, size: tuple[int, int]) -> Array:
        b, h, w, c = x.shape
        x = x.astype(self.dtype)
        kernel = self.param("kernel", HE_INIT, (2, 2, c, self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        if size == (h, w):
            return x @ jnp.mean(kernel, axis=(0, 1)) + bias
        blocks = jnp.einsum("bhwc,ijcd->bhiwjd", x, kernel) + bias
        return blocks.reshape(b, 2 * h, 2 * w, self.features)[:, : size[0], : size[1]]


class ExpandingPath(nn.Module):
    """Encoder features and every finer skip -> [b, h', w', channels] at the finest skip's size."""

    width: float
    decay: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, skips: dict[int, Array], *, train: bool) -> Array:
        for stride in sorted(skips, reverse=True):
            skip, features = skips[stride], channels_at(stride, self.width)
            x = UpConv(features, self.dtype, name=f"up{stride}")(x, height_width(skip))
            x = jnp.concatenate([skip, x], axis=-1)
            x = DoubleConv(features, self.decay, self.dtype, name=f"merge{stride}")(x, train=train)
        return x
