"""The units of MobileNets: inverted residuals, with squeeze-and-excitation or fused (slim
`conv_blocks.py: expanded_conv`, `squeeze_excite`).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.models.layers import BiasConv, ConvBN, Gate, LayerOptions, relu


def make_divisible(channels: float, divisor: int) -> int:
    """Nearest positive multiple of `divisor`, never below 90 % (slim `_make_divisible`)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class SqueezeExcite(nn.Module):
    """Each channel of x [b, h, w, c] times a gate, which the mean image decides (1709.01507)."""

    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, c = partial(BiasConv, options=self.options), x.shape[-1]
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        squeezed = conv(make_divisible(c / 4, 8), activation=relu, name="Conv")(mean)
        return Gate(name="gate")(x, conv(c, name="Conv_1")(squeezed))


class InvertedResidual(nn.Module):
    """Expand by 1x1, depthwise k x k, project by 1x1; the sum where shapes allow.

    Returns the output and the depthwise output: a low-level feature for the decoder.
    """

    expansion: float
    features: int
    stride: int
    rate: int
    activation: Callable[[Array], Array]
    options: LayerOptions
    kernel: int = 3
    squeeze: bool = False
    """Squeeze-and-excitation on the depthwise output."""
    residual: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        y, layer, act = x, partial(ConvBN, options=self.options), self.activation
        if self.expansion > 1:
            inner = make_divisible(self.expansion * x.shape[-1], 8)
            y = layer(inner, activation=act, name="expand")(y, train=train)
        depthwise = layer(None, self.kernel, self.stride, self.rate, act, name="depthwise")
        y = inside = depthwise(y, train=train)
        if self.squeeze:
            y = SqueezeExcite(self.options, name="squeeze_excite")(y)
        y = layer(self.features, name="project")(y, train=train)
        return (x + y if self.residual and fits(x, y, self.stride) else y), inside


class FusedResidual(nn.Module):
    """A 3x3 convolution in place of expansion and depthwise convolution; no rate ever reaches it.

    Returns the output and what is projected: a low-level feature for the decoder.
    """

    expansion: float
    features: int
    stride: int
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        inside, layer = x, partial(ConvBN, options=self.options)
        if self.expansion > 1:
            inner = make_divisible(self.expansion * x.shape[-1], 8)
            expand = layer(inner, 3, self.stride, activation=relu, name="expand")
            inside = expand(x, train=train)
        y = layer(self.features, name="project")(inside, train=train)
        return (x + y if fits(x, y, self.stride) else y), inside


def fits(x: Array, y: Array, stride: int) -> bool:
    """Whether a unit with this stride adds its input: the stride used, not the natural one."""
    return stride == 1 and x.shape[-1] == y.shape[-1]
