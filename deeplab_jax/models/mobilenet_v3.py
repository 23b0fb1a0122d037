"""MobileNetV3 and MobileNet-EdgeTPU as atrous encoders (arXiv 1905.02244; slim `mobilenet_v3.py`).

Found by search: some units have 5x5 kernels, squeeze-and-excitation, or h-swish for ReLU. In the
segmentation form the units behind the last stride have half the channels (the paper's section
6.4; official `core/feature_extractor.py`). EdgeTPU's first units fuse expansion and depthwise
convolution into one 3x3 convolution; its only activation is ReLU.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.inverted_residual import FusedResidual, InvertedResidual, make_divisible
from deeplab_jax.models.layers import ConvBN, LayerOptions, apply_unit, hard_swish, relu


class Unit(NamedTuple):
    """A row of the paper's tables 1 and 2: "bneck"."""

    expansion: float
    channels: int
    kernel: int = 3
    stride: int = 1
    squeeze: bool = False
    h_swish: bool = False
    residual: bool = True
    fused: bool = False


class Layout(NamedTuple):
    """A network: its stem of 3x3, its units and the 1x1 convolution on top."""

    stem: int
    units: tuple[Unit, ...]
    top: int
    h_swish: bool = True
    """The activation of stem and top."""
    hidden: int | None = None
    """Channels of the layer between a classifier's mean image and its logits; None: no layer."""


SE, HS = {"squeeze": True}, {"h_swish": True}
LARGE = (
    *(Unit(1, 16), Unit(4, 24, stride=2), Unit(3, 24)),
    *(Unit(3, 40, 5, 2, **SE), Unit(3, 40, 5, **SE), Unit(3, 40, 5, **SE)),
    *(Unit(6, 80, 3, 2, **HS), Unit(2.5, 80, **HS), Unit(184 / 80, 80, **HS)),
    *(Unit(184 / 80, 80, **HS), Unit(6, 112, **SE, **HS), Unit(6, 112, **SE, **HS)),
)
LARGE_TAIL = (Unit(6, 160, 5, 2, **SE, **HS), *[Unit(6, 160, 5, **SE, **HS)] * 2)
LARGE_SEG_TAIL = (Unit(3, 80, 5, 2, **SE, **HS), *[Unit(6, 80, 5, **SE, **HS)] * 2)
SMALL = (
    *(Unit(1, 16, 3, 2, **SE), Unit(72 / 16, 24, 3, 2), Unit(88 / 24, 24)),
    *(Unit(4, 40, 5, 2, **SE, **HS), *[Unit(6, 40, 5, **SE, **HS)] * 2),
    *[Unit(3, 48, 5, **SE, **HS)] * 2,
)
SMALL_TAIL = (Unit(6, 96, 5, 2, **SE, **HS), *[Unit(6, 96, 5, **SE, **HS)] * 2)
SMALL_SEG_TAIL = (Unit(3, 48, 5, 2, **SE, **HS), *[Unit(6, 48, 5, **SE, **HS)] * 2)
EDGETPU = (
    Unit(1, 16, fused=True),
    *(Unit(8, 32, stride=2, fused=True), *[Unit(4, 32, fused=True)] * 3),
    *(Unit(8, 48, stride=2, fused=True), *[Unit(4, 48, fused=True)] * 3),
    *(Unit(8, 96, stride=2), *[Unit(4, 96)] * 3),
    *(Unit(8, 96, residual=False), *[Unit(4, 96)] * 3),
    *(Unit(8, 160, 5, 2), *[Unit(4, 160, 5)] * 3, Unit(8, 192)),
)


def minimalistic(units: tuple[Unit, ...]) -> tuple[Unit, ...]:
    """Without what is slow on some hardware: 5x5, squeeze-and-excitation, h-swish."""
    return tuple(unit._replace(kernel=3, squeeze=False, h_swish=False) for unit in units)


LAYOUTS = {
    "mobilenet_v3_large_seg": Layout(16, LARGE + LARGE_SEG_TAIL, 480, hidden=1280),
    "mobilenet_v3_small_seg": Layout(16, SMALL + SMALL_SEG_TAIL, 288, hidden=1024),
    "mobilenet_v3_large": Layout(16, LARGE + LARGE_TAIL, 960, hidden=1280),
    "mobilenet_v3_small": Layout(16, SMALL + SMALL_TAIL, 576, hidden=1024),
    "mobilenet_v3_large_minimalistic": Layout(
        16, minimalistic(LARGE + LARGE_TAIL), 960, h_swish=False, hidden=1280
    ),
    "mobilenet_v3_small_minimalistic": Layout(
        16, minimalistic(SMALL + SMALL_TAIL), 576, h_swish=False, hidden=1024
    ),
    "mobilenet_edgetpu": Layout(32, EDGETPU, 1280, h_swish=False),
}


class MobileNetV3(nn.Module):
    """MobileNetV3: image [b, h, w, c] in [-1, 1] -> (features, {2, 4, 8, 16: low-level features}).

    The low-level features are the depthwise outputs of the last units before a stride, as in
    official DeepLab.
    """

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        c, layout = self.config, LAYOUTS[self.config.backbone]
        layer = partial(
            ConvBN, activation=hard_swish if layout.h_swish else relu, options=self.options
        )
        x = layer(make_divisible(layout.stem * c.width, 8), 3, 2, name="Conv")(x, train=train)
        low_levels, units = {2: x}, layout.units
        plan = atrous_plan([unit.stride for unit in units], 2, c.output_stride)
        for i, (row, step) in enumerate(zip(units, plan, strict=True)):
            name, features = "expanded_conv" + (f"_{i}" if i else ""), row.channels * c.width
            unit = self.unit(row, make_divisible(features, 8), step.stride, step.rate, name)
            x, low_level = apply_unit(unit, x, train=train, remat=c.remat)
            if units[i + 1 :] and units[i + 1].stride == 2:
                low_levels[step.natural_stride * row.stride] = low_level
        # Narrow released classifiers without a hidden layer keep the width of the top (slim
        # `finegrain_classification_mode`); those with one keep that layer's.
        whole = c.whole_top or (c.head == "classifier" and layout.hidden is None)
        top = layout.top if whole else make_divisible(layout.top * c.width, 8)
        return layer(top, name="Conv_1")(x, train=train), low_levels

    @nn.nowrap
    def unit(self, row: Unit, features: int, stride: int, rate: int, name: str) -> nn.Module:
        """A row of the table as it is at this output stride."""
        if row.fused:
            return FusedResidual(row.expansion, features, stride, self.options, name=name)
        return InvertedResidual(
            row.expansion,
            features,
            stride,
            rate,
            hard_swish if row.h_swish else relu,
            self.options,
            row.kernel,
            row.squeeze,
            row.residual,
            name=name,
        )
