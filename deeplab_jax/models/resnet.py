"""ResNets as atrous encoders (arXiv 1512.03385; official `core/resnet_v1_beta.py`).

The official ResNet-v1-18/50/101 have two stems: `beta` has three 3x3 convolutions, the plain form
one of 7x7; and the stride stands in the *last* unit of a block. torchvision's and timm's ResNet-50
and -101 (`resnet.py`) have the plain stem, the stride in the *first* unit of a block, pooling that
is padded on all sides, and low-level features behind whole blocks.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.layers import ConvBN, LayerOptions, apply_unit, relu, scale_channels
from deeplab_jax.ops.pool import max_pool

DEPTHS = (64, 128, 256, 512)  # of the 3x3 convolution; a bottleneck's output has four times as many
Stem = tuple[tuple[str, int, int, int], ...]  # name, channels, kernel, stride
PLAIN: Stem = (("conv1", 64, 7, 2),)
BETA: Stem = (("conv1_1", 64, 3, 2), ("conv1_2", 64, 3, 1), ("conv1_3", 128, 3, 1))
LITE_BETA: Stem = (("conv1_1", 16, 3, 2), ("conv1_2", 16, 3, 1), ("conv1_3", 32, 3, 1))


class Layout(NamedTuple):
    """In what the ResNets differ."""

    units: tuple[int, int, int, int]
    """Of blocks 1 to 4."""
    stem: Stem = PLAIN
    lite: bool = False
    """Units of two 3x3 convolutions instead of bottlenecks."""
    torch: bool = False
    """PyTorch's strides, pooling and low-level features."""


LAYOUTS = {
    "resnet_v1_18": Layout((2, 2, 2, 2), lite=True),
    "resnet_v1_50": Layout((3, 4, 6, 3)),
    "resnet_v1_101": Layout((3, 4, 23, 3)),
    "resnet_v1_18_beta": Layout((2, 2, 2, 2), LITE_BETA, lite=True),
    "resnet_v1_50_beta": Layout((3, 4, 6, 3), BETA),
    "resnet_v1_101_beta": Layout((3, 4, 23, 3), BETA),
    "resnet_50": Layout((3, 4, 6, 3), torch=True),
    "resnet_101": Layout((3, 4, 23, 3), torch=True),
}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut, ReLU after the sum.

    Returns the output and the third convolution's output before the sum: a low-level feature for
    the decoder (official `networks_to_feature_maps`).
    """

    depth: int
    stride: int
    rate: int
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        layer, out = partial(ConvBN, options=self.options), 4 * self.depth
        y = layer(self.depth, activation=relu, name="conv1")(x, train=train)
        y = layer(self.depth, 3, self.stride, self.rate, relu, name="conv2")(y, train=train)
        y = layer(out, name="conv3")(y, train=train)
        return relu(y + self.skip(x, out, train)), y

    @nn.nowrap
    def skip(self, x: Array, features: int, train: bool) -> Array:
        """Every stride-th pixel, by a 1x1 convolution where the unit changes the channels."""
        if x.shape[-1] == features:
            return x[:, :: self.stride, :: self.stride]
        conv = ConvBN(features, 1, self.stride, options=self.options, name="shortcut")
        y: Array = conv(x, train=train)
        return y


class LiteBottleneck(Bottleneck):
    """ResNet-18's unit: two 3x3, the second one strided, and a shortcut."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        layer, out = partial(ConvBN, options=self.options), self.depth
        y = layer(out, 3, 1, self.rate, relu, name="conv1")(x, train=train)
        y = layer(out, 3, self.stride, self.rate, name="conv2")(y, train=train)
        return relu(y + self.skip(x, out, train)), y


class ResNet(nn.Module):
    """Normalised image [b, h, w, c] -> (features, {2, 4, 8, 16: low-level features}).

    `multi_grid` multiplies the rates of block 4's units; the released beta checkpoints were trained
    with (1, 2, 4).
    """

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        c, layout = self.config, LAYOUTS[self.config.backbone]
        for name, channels, kernel, stride in layout.stem:
            channels = scale_channels(channels, c.width)
            stem = ConvBN(channels, kernel, stride, 1, relu, self.options, name=name)
            x = stem(x, train=train)
        low_levels = {2: x}
        x = max_pool(x, 3, 2, tf_same=not layout.torch)

        # (block, unit, is it the block's last)
        places = [(b, u, u == n) for b, n in enumerate(layout.units, 1) for u in range(1, n + 1)]
        if layout.torch:  # as their `replace_stride_with_dilation` and `output_stride` have it too
            strides = [2 if unit == 1 and block > 1 else 1 for block, unit, _ in places]
        else:
            strides = [2 if last and block < 4 else 1 for block, _, last in places]
        plan = atrous_plan(strides, 4, c.output_stride)
        for (block, unit, last), step in zip(places, plan, strict=True):
            depth = scale_channels(DEPTHS[block - 1], c.width)
            rate = step.rate * (c.multi_grid[unit - 1] if block == 4 else 1)
            name = f"block{block}_unit_{unit}"
            unit_type = LiteBottleneck if layout.lite else Bottleneck
            block_unit = unit_type(depth, step.stride, rate, self.options, name=name)
            x, inside = apply_unit(block_unit, x, train=train, remat=c.remat)
            # PyTorch's are what the last unit gives; official ones are from inside the one before
            # the stride, which is the last to be kept.
            if block < 4 and last == layout.torch:
                low_levels[step.natural_stride] = x if layout.torch else inside
        return x, low_levels
