"""ResNet-v1-18/50/101 as an atrous encoder (arXiv 1512.03385; official `core/resnet_v1_beta.py`).

Two stems: `beta` has three 3x3 convolutions, the plain form one of 7x7. In both, the stride stands
in the *last* unit of a block (timm's and torchvision's ResNets have it in the first).
"""

from functools import partial

import flax.linen as nn
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.layers import ConvBN, LayerOptions, apply_unit, relu, scale_channels
from deeplab_jax.ops.pool import max_pool

UNITS = {  # of blocks 1 to 4
    "resnet_v1_18": (2, 2, 2, 2),
    "resnet_v1_50": (3, 4, 6, 3),
    "resnet_v1_101": (3, 4, 23, 3),
}
DEPTHS = (64, 128, 256, 512)  # of the 3x3 convolution; a bottleneck's output has four times as many
STEMS = {  # name, channels, kernel, stride
    "beta": (("conv1_1", 64, 3, 2), ("conv1_2", 64, 3, 1), ("conv1_3", 128, 3, 1)),
    "plain": (("conv1", 64, 7, 2),),
    "18_beta": (("conv1_1", 16, 3, 2), ("conv1_2", 16, 3, 1), ("conv1_3", 32, 3, 1)),
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
    """ResNet-v1: normalised image [b, h, w, c] -> (features, {2, 4, 8, 16: low-level features}).

    `multi_grid` multiplies the rates of block 4's units; the released beta checkpoints were trained
    with (1, 2, 4).
    """

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        c = self.config
        variant = c.backbone.removesuffix("_beta")
        small = variant == "resnet_v1_18"
        form = "plain" if variant == c.backbone else "18_beta" if small else "beta"
        for name, channels, kernel, stride in STEMS[form]:
            channels = scale_channels(channels, c.width)
            stem = ConvBN(channels, kernel, stride, 1, relu, self.options, name=name)
            x = stem(x, train=train)
        low_levels = {2: x}
        x = max_pool(x, 3, 2)

        units = UNITS[variant]
        # (block, unit, is it the block's last); every block but the fourth ends in a stride of 2
        places = [(b, u, u == n) for b, n in enumerate(units, 1) for u in range(1, n + 1)]
        strides = [2 if last and b < 4 else 1 for b, _, last in places]
        plan = atrous_plan(strides, 4, c.output_stride)
        for (block, unit, last), step in zip(places, plan, strict=True):
            depth = scale_channels(DEPTHS[block - 1], c.width)
            rate = step.rate * (c.multi_grid[unit - 1] if block == 4 else 1)
            name = f"block{block}_unit_{unit}"
            unit_type = LiteBottleneck if small else Bottleneck
            block_unit = unit_type(depth, step.stride, rate, self.options, name=name)
            x, low_level = apply_unit(block_unit, x, train=train, remat=c.remat)
            if not last and block < 4:  # the one before the stride is the last to be kept
                low_levels[step.natural_stride] = low_level
        return x, low_levels
