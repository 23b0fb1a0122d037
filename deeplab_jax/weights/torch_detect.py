"""Which network a state dict of PyTorch is of: read off its names and shapes.

What these cannot tell (output stride, rates) is as the library has it by default.
"""

import re
from collections.abc import Mapping, Set
from typing import Any

from deeplab_jax.config import ModelConfig
from deeplab_jax.errors import UserError
from deeplab_jax.models.resnet import LAYOUTS
from deeplab_jax.models.xception import blocks
from deeplab_jax.weights.detect import HEAD, UNTOLD
from deeplab_jax.weights.detect_head import Shapes
from deeplab_jax.weights.torch_names import LAST_LAYERS, STAGES, STEMS, find_prefix

KNOWN = (
    "timm's xception41, 65 and 71, its mobilenetv2_035 to _140 without depth multiplier, its or"
    " torchvision's resnet50 and resnet101, and, on these two, torchvision's DeepLabV3 and SMP's"
    " DeepLabV3Plus"
)
TORCHVISION, SMP = "classifier.0.convs.0.0", "decoder.aspp.0.convs.0.0"  # the ASPPs' 1x1 branches
SMP_ENCODER = (
    "SMP's encoder is none of resnet50, resnet101, tu-resnet50 and tu-resnet101: of others the"
    " rates or the low-level features are not those of a network here"
)
# What stands on a backbone and cannot be had here, by how its names begin.
REFUSED = {
    "decoder.aspp.convs.": "SMP's DeepLabV3, which lets the first unit of a block dilate too",
    "decoder.": "a decoder of SMP's that is not DeepLabV3Plus's",
    "classifier.": "torchvision's FCN",
}
RESNETS = {layout.units: name for name, layout in LAYOUTS.items() if layout.torch}
NORMS = {"bn1", "bn2", "bn3"}
RESNET_LAYERS = {"conv1", "conv2", "conv3", "downsample.0", "downsample.1", *NORMS}
MOBILE_LAYERS = {"conv_pw", "conv_dw", "conv_pwl", *NORMS}
XCEPTIONS = {
    sum(block.units for block in blocks(name)): name
    for name in ("xception_41", "xception_65", "xception_71")
}
MOBILE_UNITS = [sum(s == stage for s, _ in STAGES) for stage in range(STAGES[-1][0] + 1)]
LAST_CHANNELS = 320  # of MobileNetV2's last unit, at width 1


def detect_torch_network(
    shapes: Shapes, origin: str, asked: Mapping[str, Any], free: Set[str] = frozenset()
) -> ModelConfig:
    """The network of a state dict with the settings that were asked for.

    Fields that are `free` may be asked for as one likes; if those of the `HEAD` are, and one of
    them is asked for, nothing of it is read off.

    Raises:
      UserError: the state dict, of `origin`, is of no network that is known, and in what it
        differs; or it contradicts a setting.
    """
    told, backbone_only = detect_backbone(shapes, origin), free >= HEAD
    if not (backbone_only and asked.keys() & HEAD):
        head = detect_head(shapes, told["backbone"])
        if isinstance(head, str) and not backbone_only:
            raise UserError(f"{origin}: {head}; --backbone-only takes the backbone alone")
        told |= {} if isinstance(head, str) else head
    for name in told.keys() & asked.keys() - free - {*UNTOLD}:
        if asked[name] != told[name]:
            given = f"model.{name} = {asked[name]!r}"
            raise UserError(f"{given} is not what {origin} holds: {told[name]!r}; leave it out")
    return ModelConfig(**{**told, **asked})


def detect_backbone(shapes: Shapes, origin: str) -> dict[str, Any]:
    """The fields of the backbone."""
    prefix = find_prefix(shapes)
    inside = {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}
    stem = next((name for name in STEMS if f"{name}.weight" in inside), None)
    if stem is None and any(name.startswith("encoder.") for name in shapes):
        raise UserError(f"{origin}: {SMP_ENCODER}")
    if stem is None:
        some = ", ".join(sorted(shapes)[:4])
        raise UserError(f"{origin}: holds {some}, and none of the networks: {KNOWN}")
    kinds = {"conv1": detect_resnet, "conv_stem": detect_mobilenet, "stem.0.conv": detect_xception}
    try:
        fields = kinds[stem](inside)
    except UserError as error:
        raise UserError(f"{origin}: {error}; what can be read are {KNOWN}") from error
    channels = _length(inside, stem, 1)
    return fields | ({} if channels == 3 else {"channels": channels})


def detect_resnet(shapes: Shapes) -> dict[str, Any]:
    """The backbone, unless its units are others than those of ResNet-50 and -101."""
    places = _places(r"layer(\d)\.(\d{1,3})", shapes)
    others = sorted({layer for _, _, layer in places} - RESNET_LAYERS)
    units = tuple(_count_units(places, block) for block in (1, 2, 3, 4))
    conv = "layer1.0.conv2"
    if "layer1.0.conv3.weight" not in shapes:
        raise UserError("a ResNet of units without bottleneck (ResNet-18, -34)")
    if others:
        raise UserError(f"a ResNet whose units have more than bottlenecks have ({others[0]})")
    if not _length(shapes, conv, 0) == _length(shapes, conv, 1) == _length(shapes, "conv1", 0):
        raise UserError("a ResNet of groups or of wider units (ResNeXt, wide ResNet)")
    if units not in RESNETS:
        raise UserError(f"a ResNet of {', '.join(map(str, units))} units")
    return {"backbone": RESNETS[units]}


def detect_mobilenet(shapes: Shapes) -> dict[str, Any]:
    """The backbone, unless its units are others than MobileNetV2's."""
    places = _places(r"blocks\.(\d)\.(\d{1,3})", shapes)
    others = sorted({layer for _, _, layer in places} - MOBILE_LAYERS)
    last = max((stage for stage, _, _ in places), default=0)
    units = [_count_units(places, stage) for stage in range(last + 1)]
    if others:
        raise UserError(f"a mobile network whose units have more than MobileNetV2's ({others[0]})")
    if units != MOBILE_UNITS:
        counts, ours = (", ".join(map(str, n)) for n in (units, MOBILE_UNITS))
        raise UserError(f"a mobile network of {counts} units, where MobileNetV2 has {ours}")
    width = round(_length(shapes, "blocks.6.0.conv_pwl", 0) / LAST_CHANNELS, 4)
    divisor = {} if width == 1 else {"width_divisor": 8}
    return {"backbone": "mobilenet_v2", "mobilenet_form": "torch", "width": width} | divisor


def detect_xception(shapes: Shapes) -> dict[str, Any]:
    """The backbone, unless it is one of those with pre-activation."""
    if "stem.1.weight" in shapes:
        raise UserError("xception41p and xception65p are other networks: take xception65")
    count = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    if count not in XCEPTIONS:
        raise UserError(f"an Xception of {count} blocks")
    return {"backbone": XCEPTIONS[count]}


def detect_head(shapes: Shapes, backbone: str) -> dict[str, Any] | str:
    """The fields of what stands on the backbone, {} where nothing does; or why it is refused.

    Output strides, rates and the factors on these are the libraries' defaults. In SMP's own ResNets
    every unit of the last block dilates, in timm's all but the first, as here.
    """
    for name in LAST_LAYERS.values():
        if len(shape := shapes.get(f"{name}.weight", ())) == 2:
            return {"head": "classifier", "num_classes": shape[0], "output_stride": 32}
    aspp = TORCHVISION if f"{TORCHVISION}.weight" in shapes else SMP
    channels = _length(shapes, aspp, 0)
    fields = {"atrous_rates": (12, 24, 36), "aspp_channels": channels, "aspp_convs_after": 1}
    if not channels:
        begun = (part for part in REFUSED if any(name.startswith(part) for name in shapes))
        return REFUSED.get(next(begun, ""), {})
    last = "classifier.4" if aspp == TORCHVISION else "segmentation_head.0"
    fields["num_classes"] = _length(shapes, last, 0)
    if fields["num_classes"] == 1:
        return "one logit for one class, where softmax needs two"
    if aspp == TORCHVISION:
        return fields | {"head": "deeplabv3", "output_stride": 8, "aspp_separable": False}
    if backbone not in RESNETS.values():
        return SMP_ENCODER
    if "decoder.aspp.0.convs.1.0.0.weight" not in shapes:
        return "SMP's DeepLabV3Plus with plain branches has a separable convolution behind them"
    fields |= {"multi_grid": (2, 1, 1)} if find_prefix(shapes) == "encoder." else {}
    return fields | {
        "head": "deeplabv3plus",
        "separable_norm": False,
        "decoder_low_level_channels": _length(shapes, "decoder.block1.0", 0),
        "decoder_channels": channels,
        "decoder_convs": 1,
    }


def _places(pattern: str, shapes: Shapes) -> list[tuple[int, int, str]]:
    """(block, unit, layer) of every array of the blocks."""
    matches = [re.match(rf"{pattern}\.(.+)\.[a-z_]+$", name) for name in shapes]
    return [(int(m[1]), int(m[2]), m[3]) for m in matches if m]


def _count_units(places: list[tuple[int, int, str]], block: int) -> int:
    """How many units a block has."""
    return 1 + max((unit for other, unit, _ in places if other == block), default=-1)


def _length(shapes: Shapes, layer: str, axis: int) -> int:
    """The length of an axis of a convolution's kernel; 0: there is no such convolution."""
    shape = shapes.get(f"{layer}.weight", ())
    return shape[axis] if len(shape) == 4 else 0
