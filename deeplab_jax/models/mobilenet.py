"""MobileNetV2 as an atrous encoder (arXiv 1801.04381; official slim `mobilenet_v2.py`)."""

from functools import partial

import flax.linen as nn
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.inverted_residual import InvertedResidual, make_divisible
from deeplab_jax.models.layers import ConvBN, LayerOptions, apply_unit, relu6

# (expansion, channels, stride) of expanded_conv, expanded_conv_1, ... expanded_conv_16
UNITS = (
    *((1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1)),
    *((6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1), (6, 96, 1), (6, 96, 1), (6, 96, 1)),
    *((6, 160, 2), (6, 160, 1), (6, 160, 1), (6, 320, 1)),
)
LAST_CONV = "Conv_1"  # to 1280 channels, under ImageNet's classifier


class MobileNetV2(nn.Module):
    """MobileNetV2: normalised image [b, h, w, c] -> (features, {2, 4, 8, 16: low-level features}).

    The features are the 320-channel layer's, the low-level ones depthwise outputs, as in official
    DeepLab; with `mobilenet_endpoints` = blocks (a classifier: always) the 1280-channel layer's and
    the blocks' outputs.
    """

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        c, layer = self.config, partial(ConvBN, activation=relu6, options=self.options)
        # official feature_extractor: `divisible_by`
        wide = partial(make_divisible, divisor=c.width_divisor or (8 if c.width == 1.0 else 1))
        whole_blocks = c.mobilenet_endpoints == "blocks" or c.head == "classifier"
        x = layer(wide(32 * c.width), 3, 2, name="Conv")(x, train=train)
        low_levels: dict[int, Array] = {}
        plan = atrous_plan([stride for _, _, stride in UNITS], 2, c.output_stride)
        for i, ((expansion, channels, _), step) in enumerate(zip(UNITS, plan, strict=True)):
            name, features = "expanded_conv" + (f"_{i}" if i else ""), wide(channels * c.width)
            unit = InvertedResidual(
                expansion, features, step.stride, step.rate, relu6, self.options, name=name
            )
            x, low_level = apply_unit(unit, x, train=train, remat=c.remat)
            # layer_2, layer_4, layer_7, layer_14, the last three as in `networks_to_feature_maps`
            if i in (0, 2, 5, 12):
                low_levels[step.natural_stride] = x if whole_blocks else low_level
        if whole_blocks:
            # Narrow released networks keep 1280 (slim `finegrain_classification_mode`).
            x = layer(max(1280, make_divisible(1280 * c.width, 8)), name=LAST_CONV)(x, train=train)
        return x, low_levels
