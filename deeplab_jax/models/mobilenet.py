"""MobileNetV2 as an atrous encoder (arXiv 1801.04381; official slim `mobilenet_v2.py`)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.models.layers import ConvBN, apply_unit, atrous_plan, relu6

# (expansion, channels, stride) of expanded_conv, expanded_conv_1, ... expanded_conv_16
UNITS = (
    *((1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1)),
    *((6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1), (6, 96, 1), (6, 96, 1), (6, 96, 1)),
    *((6, 160, 2), (6, 160, 1), (6, 160, 1), (6, 320, 1)),
)
LAST_CONV = "Conv_1"  # to 1280 channels, under ImageNet's classifier


def make_divisible(channels: float, divisor: int) -> int:
    """Nearest positive multiple of `divisor`, never below 90 % (slim `_make_divisible`)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """Expand by 1x1, depthwise 3x3, project by 1x1; the sum where shapes allow.

    Returns the output and the depthwise output: a low-level feature for the decoder.
    """

    expansion: int
    features: int
    stride: int
    rate: int
    decay: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        norm = {"decay": self.decay, "epsilon": 1e-3, "dtype": self.dtype}
        y = x
        if self.expansion > 1:
            inner = make_divisible(self.expansion * x.shape[-1], 8)
            y = ConvBN(inner, activation=relu6, name="expand", **norm)(y, train=train)
        depthwise = ConvBN(
            None, 3, self.stride, self.rate, relu6, tf_same=True, name="depthwise", **norm
        )(y, train=train)
        y = ConvBN(self.features, name="project", **norm)(depthwise, train=train)
        residual = self.stride == 1 and x.shape[-1] == self.features
        return (x + y if residual else y), depthwise


class MobileNetV2(nn.Module):
    """MobileNetV2: image [b, h, w, 3] in [-1, 1] -> (features, {stride: low-level features}).

    The features are the 320-channel layer's, the low-level ones depthwise outputs, as in official
    DeepLab; with `endpoints` = blocks the 1280-channel layer's and the blocks' outputs. Low-level
    features are named by the stride they have without atrous convolution: 2, 4, 8, 16.
    """

    output_stride: int
    width: float = 1.0
    divisor: int | None = None
    endpoints: str = "official"
    decay: float = 0.997
    dtype: Any = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        # official feature_extractor: `divisible_by`
        divisor = self.divisor or (8 if self.width == 1.0 else 1)

        def wide(channels: int) -> int:
            return make_divisible(channels * self.width, divisor)

        x = ConvBN(
            wide(32), 3, 2, 1, relu6, tf_same=True, decay=self.decay, dtype=self.dtype, name="Conv"
        )(x, train=train)
        low_levels: dict[int, Array] = {}
        plan = atrous_plan([stride for _, _, stride in UNITS], 2, self.output_stride)
        for i, ((expansion, channels, _), step) in enumerate(zip(UNITS, plan, strict=True)):
            unit = InvertedResidual(
                expansion,
                wide(channels),
                step.stride,
                step.rate,
                self.decay,
                self.dtype,
                name="expanded_conv" + (f"_{i}" if i else ""),
            )
            x, low_level = apply_unit(unit, x, train=train, remat=self.remat)
            # layer_2, layer_4, layer_7, layer_14, the last three as in `networks_to_feature_maps`
            if i in (0, 2, 5, 12):
                low_levels[step.natural_stride] = x if self.endpoints == "blocks" else low_level
        if self.endpoints == "blocks":
            # Narrow released networks keep 1280 (slim `finegrain_classification_mode`).
            features = max(1280, make_divisible(1280 * self.width, 8))
            x = ConvBN(
                features, activation=relu6, decay=self.decay, dtype=self.dtype, name=LAST_CONV
            )(x, train=train)
        return x, low_levels
