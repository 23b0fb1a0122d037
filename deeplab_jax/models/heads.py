"""What stands on a backbone: ASPP and decoder (paper section 3.1; official `model.py`), PSPNet's
pyramid, and every network's logits.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.layers import ConvBN, KernelInits, LayerOptions, relu
from deeplab_jax.ops.pool import adaptive_average_pool, average_pool
from deeplab_jax.ops.resize import Size, height_width, resize_bilinear, scale_size

BINS = (1, 2, 3, 6)  # of PSPNet's grids


class SeparableConv(nn.Module):
    """Depthwise k x k and pointwise convolution, each with BatchNorm and ReLU.

    The official checkpoints name them `{name}_depthwise` and `{name}_pointwise`.
    """

    features: int
    kernel: int
    rate: int
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        layer = partial(ConvBN, activation=relu, options=self.options)
        x = layer(None, self.kernel, rate=self.rate, name="depthwise")(x, train=train)
        init = self.options.inits.pointwise
        return layer(self.features, kernel_init=init, name="pointwise")(x, train=train)


def conv_block(
    features: int,
    kernel: int = 1,
    rate: int = 1,
    *,
    separable: bool,
    options: LayerOptions,
    name: str,
) -> nn.Module:
    """A k x k convolution with BatchNorm and ReLU, separable or plain."""
    if separable and kernel > 1:
        return SeparableConv(features, kernel, rate, options, name=name)
    return ConvBN(features, kernel, 1, rate, relu, options, name=name)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: features [b, h, w, c] -> [b, h, w, channels].

    Branches in the order of the official concat: the pooled image, 1x1, one 3x3 for each rate.
    """

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool, dropout: bool) -> Array:
        c, size = self.config, height_width(x)
        block = partial(
            conv_block, c.aspp_channels, separable=c.aspp_separable, options=self.options
        )
        branches = []
        if c.image_pooling:
            crop = c.image_pooling_crop_size
            window = scale_size(crop, c.output_stride) if crop else size
            pooled = average_pool(x, window).astype(x.dtype)
            branches.append(resize_bilinear(block(name="image_pooling")(pooled, train=train), size))
        branches.append(block(name="aspp0")(x, train=train))
        for i, rate in enumerate(c.rates, start=1):
            branches.append(block(3, rate, name=f"aspp{i}")(x, train=train))
        x = block(name="concat_projection")(jnp.concatenate(branches, axis=-1), train=train)
        return nn.Dropout(0.1, deterministic=not dropout)(x)


class Decoder(nn.Module):
    """One stage of the v3+ decoder: encoder features and a low-level map -> [b, *size, channels].

    The low-level map is reduced by a 1x1 convolution (48 channels in the paper), joined to the
    upsampled encoder features, and refined by a few 3x3 convolutions (two of 256 in the paper).
    """

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, low_level: Array, size: Size, *, train: bool) -> Array:
        c = self.config
        block = partial(conv_block, separable=c.decoder_separable, options=self.options)
        project = block(c.decoder_low_level_channels, name="feature_projection")
        low_level = project(low_level, train=train)
        x = jnp.concatenate([resize_bilinear(x, size), resize_bilinear(low_level, size)], axis=-1)
        for i in range(c.decoder_convs):
            x = block(c.decoder_channels, c.decoder_kernel, name=f"conv{i}")(x, train=train)
        return x


class PyramidPooling(nn.Module):
    """PSPNet's context by region (arXiv 1612.01105, section 3.2): [b, h, w, c] -> [b, h, w, c / 4].

    The features are averaged over grids of regions, so that each pixel is told what surrounds it;
    each grid is reduced to c / 4 channels and upsampled, and all are joined to the features and
    merged by a 3x3 convolution. The paper's auxiliary loss is left out.
    """

    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool, dropout: bool) -> Array:
        layer = partial(ConvBN, x.shape[-1] // len(BINS), activation=relu, options=self.options)
        levels = [x]
        for bins in BINS:
            pooled = layer(name=f"pool{bins}")(adaptive_average_pool(x, bins), train=train)
            levels.append(resize_bilinear(pooled, height_width(x)))
        merged = layer(3, name="merge")(jnp.concatenate(levels, axis=-1), train=train)
        return nn.Dropout(0.1, deterministic=not dropout)(merged)


class Logits(nn.Module):
    """The last 1x1 convolution, with a bias and without BatchNorm, computed in float32."""

    num_classes: int
    inits: KernelInits

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.inits.logits, (1, 1, x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return x.astype(jnp.float32) @ kernel[0, 0] + bias
