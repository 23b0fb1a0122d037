"""U-Net: a skip at every level (Ronneberger et al. 2015, arXiv 1505.04597).

Where the paper crops (its convolutions are not padded), these convolutions keep the size; and each
is followed by BatchNorm. The expanding path stands on the paper's own contracting path or on any
other backbone.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.layers import ConvBN, LayerOptions, relu, scale_channels
from deeplab_jax.ops.pool import max_pool
from deeplab_jax.ops.resize import Size, height_width


def channels_at(stride: int, width: float) -> int:
    """The paper's channels: 64 at full resolution, doubled with every halving of the size."""
    return scale_channels(64 * stride, width)


class DoubleConv(nn.Module):
    """Two 3x3 convolutions: x [b, h, w, c] -> [b, h, w, features]."""

    features: int
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        for name in ("conv0", "conv1"):
            layer = ConvBN(self.features, 3, activation=relu, options=self.options, name=name)
            x = layer(x, train=train)
        return x


class ContractingPath(nn.Module):
    """Image [b, h, w, channels] -> (features at stride 16, {1, 2, 4, 8: skip features})."""

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        skips: dict[int, Array] = {}
        for stride, name in ((1, "down1"), (2, "down2"), (4, "down4"), (8, "down8")):
            features = channels_at(stride, self.config.width)
            skips[stride] = DoubleConv(features, self.options, name=name)(x, train=train)
            x = max_pool(skips[stride], 2, 2)
        features = channels_at(16, self.config.width)
        return DoubleConv(features, self.options, name="bottom")(x, train=train), skips


class UpConv(nn.Module):
    """The paper's 2x2 up-convolution: each pixel becomes a block of 2x2, by one matrix product.

    x [b, h, w, c] -> [b, *size, features], cut to `size` (at most twice the input's): pixel k lies
    at 2k, as it did on the way down. Where atrous convolution kept the size, each block becomes its
    mean, so that the same weights serve every output stride.
    """

    features: int
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, size: Size) -> Array:
        b, h, w, c = x.shape
        x = x.astype(self.options.dtype)
        kernel = self.param("kernel", self.options.inits.plain, (2, 2, c, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
        if size == (h, w):
            return x @ jnp.mean(kernel, axis=(0, 1)) + bias
        blocks = jnp.einsum("bhwc,ijcd->bhiwjd", x, kernel) + bias
        return blocks.reshape(b, 2 * h, 2 * w, self.features)[:, : size[0], : size[1]]


class ExpandingPath(nn.Module):
    """Encoder features and every finer skip -> [b, h', w', channels] at the finest skip's size."""

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, skips: dict[int, Array], *, train: bool) -> Array:
        for stride in sorted(skips, reverse=True):
            skip, features = skips[stride], channels_at(stride, self.config.width)
            x = UpConv(features, self.options, name=f"up{stride}")(x, height_width(skip))
            x = jnp.concatenate([skip, x], axis=-1)
            x = DoubleConv(features, self.options, name=f"merge{stride}")(x, train=train)
        return x
