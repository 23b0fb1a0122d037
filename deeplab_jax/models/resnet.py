"""ResNet-v1-50/101 as an atrous encoder (arXiv 1512.03385; official `core/resnet_v1_beta.py`).

Two stems: `beta` has three 3x3 convolutions, the plain form one of 7x7. In both, the stride stands
in the *last* unit of a block (timm's and torchvision's ResNets have it in the first).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.models.layers import (
    ConvBN,
    apply_unit,
    atrous_plan,
    max_pool,
    relu,
    scale_channels,
)

UNITS = {"resnet_v1_50": (3, 4, 6, 3), "resnet_v1_101": (3, 4, 23, 3)}  # of blocks 1 to 4
DEPTHS = (64, 128, 256, 512)  # of the 3x3 convolution; a unit's output has four times as many
EPSILON = 1e-5
HE_INIT = nn.initializers.he_normal()


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut, ReLU after the sum.

    Returns the output and the third convolution's output before the sum: a low-level feature for
    the decoder (official `networks_to_feature_maps`).
    """

    depth: int
    stride: int
    rate: int
    decay: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        norm = {
            "decay": self.decay,
            "epsilon": EPSILON,
            "kernel_init": HE_INIT,
            "dtype": self.dtype,
        }
        out = 4 * self.depth
        y = ConvBN(self.depth, 1, activation=relu, name="conv1", **norm)(x, train=train)
        y = ConvBN(self.depth, 3, self.stride, self.rate, relu, name="conv2", **norm)(
            y, train=train
        )
        y = ConvBN(out, 1, name="conv3", **norm)(y, train=train)
        if x.shape[-1] == out:
            shortcut = x[:, :: self.stride, :: self.stride]
        else:
            shortcut = ConvBN(out, 1, self.stride, name="shortcut", **norm)(x, train=train)
        return relu(y + shortcut), y


class ResNet(nn.Module):
    """ResNet-v1: normalised image [b, h, w, 3] -> (features, {stride: low-level features}).

    Low-level features are named by the stride they have without atrous convolution: 2 (the stem),
    4, 8, 16. `multi_grid` multiplies the rates of block 4's units; the released beta checkpoints
    were trained with (1, 2, 4).
    """

    variant: str
    output_stride: int
    multi_grid: tuple[int, int, int] = (1, 1, 1)
    width: float = 1.0
    decay: float = 0.95
    dtype: Any = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        def wide(depth: int) -> int:
            return scale_channels(depth, self.width)

        norm = {
            "activation": relu,
            "decay": self.decay,
            "epsilon": EPSILON,
            "kernel_init": HE_INIT,
            "dtype": self.dtype,
        }
        if self.variant.endswith("_beta"):
            x = ConvBN(wide(64), 3, 2, name="conv1_1", **norm)(x, train=train)
            x = ConvBN(wide(64), 3, name="conv1_2", **norm)(x, train=train)
            x = ConvBN(wide(128), 3, name="conv1_3", **norm)(x, train=train)
        else:
            x = ConvBN(wide(64), 7, 2, name="conv1", **norm)(x, train=train)
        low_levels = {2: x}
        x = max_pool(x, 3, 2)

        units = UNITS[self.variant.removesuffix("_beta")]
        # (block, unit, is it the block's last); every block but the fourth ends in a stride of 2
        places = [(b, u, u == n) for b, n in enumerate(units, 1) for u in range(1, n + 1)]
        strides = [2 if last and b < 4 else 1 for b, _, last in places]
        plan = atrous_plan(strides, 4, self.output_stride)
        for (block, unit, last), step in zip(places, plan, strict=True):
            grid = self.multi_grid[unit - 1] if block == 4 else 1
            bottleneck = Bottleneck(
                wide(DEPTHS[block - 1]),
                step.stride,
                step.rate * grid,
                self.decay,
                self.dtype,
                name=f"block{block}_unit_{unit}",
            )
            x, low_level = apply_unit(bottleneck, x, train=train, remat=self.remat)
            if not last and block < 4:  # the one before the stride is the last to be kept
                low_levels[step.natural_stride] = low_level
        return x, low_levels
