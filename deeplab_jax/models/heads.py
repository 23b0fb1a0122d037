"""What stands on a backbone: ASPP and decoder (paper section 3.1; official `model.py`), PSPNet's
pyramid, and every network's logits.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.layers import (
    BiasConv,
    ConvBN,
    Gate,
    LayerOptions,
    SeparableConv,
    hard_sigmoid,
    relu,
    relu6,
)
from deeplab_jax.ops.pool import adaptive_average_pool, average_pool
from deeplab_jax.ops.resize import Size, height_width, resize_bilinear, scale_size

BINS = (1, 2, 3, 6)  # of PSPNet's grids


def conv_block(
    features: int,
    kernel: int = 1,
    rate: int = 1,
    *,
    separable: bool,
    inner_norm: bool,
    activation: Callable[[Array], Array],
    options: LayerOptions,
    name: str,
) -> nn.Module:
    """A k x k convolution with BatchNorm and activation, separable or plain."""
    if separable and kernel > 1:
        return SeparableConv(features, kernel, rate, activation, options, inner_norm, name=name)
    return ConvBN(features, kernel, 1, rate, activation, options, name=name)


def activation_of(config: ModelConfig) -> Callable[[Array], Array]:
    """The activation of ASPP and decoder."""
    return relu6 if config.activation == "relu6" else relu


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: features [b, h, w, c] -> [b, h, w, channels].

    Branches in the order of the official concat: the pooled image, 1x1, one 3x3 for each rate.
    The pooled image may be a gate on the output instead.
    """

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool, dropout: bool) -> Array:
        c, size, branches = self.config, height_width(x), list[Array]()
        block = partial(
            conv_block,
            c.aspp_channels,
            separable=c.aspp_separable,
            inner_norm=c.separable_norm,
            activation=activation_of(c),
            options=self.options,
        )
        gated = c.image_pooling and c.image_pooling_gate != "none"
        if c.image_pooling:
            crop = c.image_pooling_crop_size
            window = scale_size(crop, c.output_stride) if crop else size
            pooled = average_pool(x, window, c.image_pooling_stride).astype(x.dtype)
            if gated:
                conv = BiasConv(c.aspp_channels, options=self.options, name="image_pooling")
                gate = conv(pooled)
            else:  # never bounded
                level = block(activation=relu, name="image_pooling")(pooled, train=train)
                branches.append(resize_bilinear(level, size))
        branches.append(block(name="aspp0")(x, train=train))
        for i, rate in enumerate(c.rates, start=1):
            branches.append(block(3, rate, name=f"aspp{i}")(x, train=train))
        x = jnp.concatenate(branches, axis=-1)
        if c.aspp_form == "projection":
            x = block(name="concat_projection")(x, train=train)
            x = nn.Dropout(0.1, deterministic=not dropout)(x)
        if gated:
            sigmoid = hard_sigmoid if c.image_pooling_gate == "hard_sigmoid" else nn.sigmoid
            x = Gate(sigmoid, name="gate")(x, gate)
        for i in range(c.aspp_convs_after):
            x = block(3, name=f"after{i}")(x, train=train)
        return x


class Decoder(nn.Module):
    """One stage of the v3+ decoder: encoder features and a low-level map -> [b, *size, channels].

    The low-level map is reduced by a 1x1 convolution (48 channels in the paper), joined to the
    upsampled encoder features, and refined by a few 3x3 convolutions (two of 256 in the paper).
    Or, with `decoder_merge` = sum, it is added to these features as one convolution has left them.
    """

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, low_level: Array, size: Size, *, train: bool) -> Array:
        c = self.config
        summed = c.decoder_merge == "sum"
        channels = c.classes if c.decoder_logits else c.decoder_channels
        projected = channels if summed else c.decoder_low_level_channels
        low_level = self.layer(low_level, projected, 1, "feature_projection", train)
        x, low_level = resize_bilinear(x, size), resize_bilinear(low_level, size)
        if summed:
            kernel = 1 if c.decoder_logits else c.decoder_kernel
            return self.layer(x, channels, kernel, "conv0", train) + low_level
        x = jnp.concatenate([x, low_level], axis=-1)
        for i in range(c.decoder_convs):
            x = self.layer(x, channels, c.decoder_kernel, f"conv{i}", train)
        return x

    @nn.nowrap
    def layer(self, x: Array, features: int, kernel: int, name: str, train: bool) -> Array:
        """A convolution with BatchNorm and activation; with neither where logits are made."""
        c = self.config
        if c.decoder_logits:
            options = replace(self.options, dtype=jnp.float32)
            return BiasConv(features, kernel, options=options, name=name)(x)
        block = conv_block(
            features,
            kernel,
            separable=c.decoder_separable,
            inner_norm=c.separable_norm,
            activation=activation_of(c),
            options=self.options,
            name=name,
        )
        y: Array = block(x, train=train)
        return y


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


def class_layers(config: ModelConfig) -> tuple[str, ...]:
    """The modules whose shapes follow from the number of classes."""
    if config.head == "deeplabv3plus" and config.decoder_logits:
        return tuple(f"decoder{i}" for i in range(len(config.decoder_strides)))
    return ("logits",)


def logits_layer(config: ModelConfig, options: LayerOptions) -> nn.Module:
    """The last convolution, with a bias and without BatchNorm, computed in float32."""
    options = replace(options, dtype=jnp.float32)
    conv = partial(BiasConv, config.classes, options=options, kernel_init=options.inits.logits)
    if config.head in ("deeplabv3", "deeplabv3plus") and config.sums_logits:
        return SummedLogits(config, conv, name="logits")
    return conv(name="logits")


class SummedLogits(nn.Module):
    """The ASPP of DeepLab v2 (arXiv 1606.00915): the sum of one classifier for each rate."""

    config: ModelConfig
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c, maps = self.config, list[Array]()
        for i, rate in enumerate(c.rates):
            name = "semantic" + (f"_{i}" if i else "")
            maps.append(self.conv(kernel=c.logits_kernel, rate=rate, name=name)(x))
        return sum(maps[1:], start=maps[0])
