"""Which network official variables are of: read off their names and shapes.

What these cannot tell (rates, output stride, multi-grid, sizes) is left at the official default.
"""

import re
from collections.abc import Mapping
from typing import Any, get_args

from deeplab_jax.config import ModelConfig
from deeplab_jax.config.model import Backbone
from deeplab_jax.errors import UserError
from deeplab_jax.weights.tf_names import tf_slots

Shapes = Mapping[str, tuple[int, ...]]

# The fields that variables decide; a flag that says otherwise is wrong.
TOLD = (
    *("backbone", "head", "num_classes", "width", "width_divisor", "aspp_channels"),
    "mobilenet_form",
    *("aspp_separable", "image_pooling", "decoder_low_level_channels", "decoder_channels"),
    *("decoder_convs", "decoder_kernel", "decoder_separable"),
)
LAST_CHANNELS = 320  # of MobileNetV2's last block, at width 1


def detect_network(shapes: Shapes, origin: str) -> ModelConfig:
    """The network of variables under official TF names.

    Raises:
      UserError: they are of no network that is known; `origin` is named.
    """
    fields = detect_backbone(shapes, origin) | detect_head(shapes)
    model = ModelConfig(**fields)
    if model.backbone == "mobilenet_v2" and not _stem_fits(model, shapes):
        model = ModelConfig(**fields, width_divisor=8)
    return model


def detect_backbone(shapes: Shapes, origin: str) -> dict[str, Any]:
    """The fields of the backbone."""
    scopes = {name.partition("/")[0] for name in shapes}
    if "MobilenetV2" in scopes:
        last = _channels(shapes, "MobilenetV2/expanded_conv_16/project")
        return {"backbone": "mobilenet_v2", "width": round(last / LAST_CHANNELS, 4)}
    for scope in scopes:
        beta = f"{scope}_beta" if f"{scope}/conv1_1/weights" in shapes else scope
        for name in (beta, scope):
            if name in get_args(Backbone):
                return {"backbone": name}
    known = ", ".join(get_args(Backbone))
    some = ", ".join(sorted(scopes)[:6])
    raise UserError(f"{origin}: holds variables of {some}, and of none of the networks {known}")


def _stem_fits(model: ModelConfig, shapes: Shapes) -> bool:
    stem = next(
        s.shape[-1] for s in tf_slots(model).values() if s.name == "MobilenetV2/Conv/weights"
    )
    return bool(stem == _channels(shapes, "MobilenetV2/Conv"))


def detect_head(shapes: Shapes) -> dict[str, Any]:
    """The fields of what stands on the backbone; {}: nothing does."""
    classes = _channels(shapes, "logits/semantic")
    if not classes:
        scopes = [re.match(r".*/(?:Logits/Conv2d_1c_1x1|logits)(?=/weights$)", n) for n in shapes]
        found = next((match[0] for match in scopes if match), "")
        classes = _channels(shapes, found)
        return {"head": "classifier", "num_classes": classes} if classes else {}
    fields: dict[str, Any] = {
        "head": "deeplabv3plus"
        if _channels(shapes, "decoder/feature_projection0")
        else "deeplabv3",
        "num_classes": classes,
        "image_pooling": "image_pooling/weights" in shapes,
        "aspp_channels": _channels(shapes, "aspp0") or _channels(shapes, "concat_projection"),
    }
    separable = "aspp1_depthwise/depthwise_weights" in shapes
    if separable or "aspp1/weights" in shapes:
        fields["aspp_separable"] = separable
    else:
        fields["atrous_rates"] = ()
    return fields | (detect_decoder(shapes) if fields["head"] == "deeplabv3plus" else {})


def detect_decoder(shapes: Shapes) -> dict[str, Any]:
    """The fields of the decoder's first stage, which the others are like."""
    separable = "decoder/decoder_conv0_pointwise/weights" in shapes
    form = r"decoder/decoder_conv(\d+)_depthwise/depthwise_weights"
    if not separable:
        form = r"decoder/decoder_conv0/decoder_conv0_(\d+)/weights"
    convs = [name for name in shapes if re.fullmatch(form, name)]
    stages = {m[1] for n in shapes if (m := re.match(r"decoder/feature_projection0(_\d+)?/", n))}
    first = (
        "decoder/decoder_conv0_pointwise" if separable else "decoder/decoder_conv0/decoder_conv0_1"
    )
    fields = {
        "decoder_low_level_channels": _channels(shapes, "decoder/feature_projection0"),
        "decoder_convs": len(convs),
        "decoder_separable": separable,
        "decoder_strides": (4,) if len(stages) < 2 else (16, 8, 4)[-len(stages) :],
    }
    if convs:
        fields["decoder_kernel"] = shapes[convs[0]][0]
        fields["decoder_channels"] = _channels(shapes, first)
    return fields


def _channels(shapes: Shapes, scope: str) -> int:
    """How many channels a convolution gives; 0: there is none of this scope."""
    return shapes.get(f"{scope}/weights", (0,))[-1]


def check_told(asked: Mapping[str, Any], found: ModelConfig, origin: str) -> None:
    """Raise UserError where a setting that was asked for is not what variables tell."""
    for name, value in asked.items():
        theirs = getattr(found, name)
        if name in TOLD and value != theirs:
            raise UserError(
                f"model.{name} = {value!r} is not what {origin} holds: {theirs!r}; leave it out"
            )
