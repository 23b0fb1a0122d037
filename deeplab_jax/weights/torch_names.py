"""PyTorch's state dicts -> our tree: timm's and torchvision's backbones and classifiers,
torchvision's DeepLab v3, and the v3+ of segmentation_models.pytorch (SMP).

timm's `xception41`, `xception65` and `xception71` are the official networks: the same padding of
strided convolutions on even and odd sizes, ReLUs, epsilon and normalisation. torchvision's and
timm's ResNet-50 and -101 have one form of names, and a form of the network of their own
(`models/resnet.py`); so has timm's MobileNetV2 (`model.mobilenet_form`). Classifiers have 1000
classes, the official ones 1001 (the first is background).
"""

import re
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from deeplab_jax.config import ModelConfig
from deeplab_jax.errors import UserError
from deeplab_jax.models.build import abstract_variables, family
from deeplab_jax.models.mobilenet import LAST_CONV, UNITS
from deeplab_jax.models.xception import blocks
from deeplab_jax.weights.slots import Path, Slot, fill

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
PREFIXES = ("encoder.model.", "encoder.", "backbone.", "")  # SMP's, with timm or not; torchvision's
STEMS = ("conv1", "conv_stem", "stem.0.conv")  # of ResNet, MobileNetV2, Xception
LAST_LAYERS = {"resnet": "fc", "mobilenet": "classifier", "xception": "head.fc"}
# timm's stage of each of MobileNetV2's units, and the unit's number in it: it has the units of as
# many channels in one.
STAGES = [
    (stage, unit)
    for stage, (_, group) in enumerate(groupby(UNITS, key=lambda unit: unit[1]))
    for unit, _ in enumerate(group)
]
Names = tuple[str, str]  # of a convolution, of the BatchNorm behind it


def resnet_layer(parts: list[str]) -> Names:
    """["block2_unit_3", "conv1"] -> "layer2.2.conv1", "layer2.2.bn1"."""
    if parts == ["conv1"]:
        return "conv1", "bn1"
    (block, unit), layer = re.findall(r"\d+", parts[0]), parts[1]
    place = f"layer{block}.{int(unit) - 1}"
    if layer == "shortcut":
        return f"{place}.downsample.0", f"{place}.downsample.1"
    return f"{place}.{layer}", f"{place}.{layer.replace('conv', 'bn')}"


def mobilenet_layer(parts: list[str]) -> Names:
    """["expanded_conv_2", "depthwise"] -> "blocks.1.1.conv_dw", "blocks.1.1.bn2"."""
    if len(parts) == 1:
        return {"Conv": ("conv_stem", "bn1"), LAST_CONV: ("conv_head", "bn2")}[parts[0]]
    index = int(parts[0].removeprefix("expanded_conv").removeprefix("_") or 0)
    (stage, unit), layers = STAGES[index], ["expand", "depthwise", "project"]
    names = ["conv_pw", "conv_dw", "conv_pwl"]
    if UNITS[index][0] == 1:  # the first has no expansion
        layers, names = layers[1:], ["conv_dw", "conv_pw"]
    i = layers.index(parts[1])
    return f"blocks.{stage}.{unit}.{names[i]}", f"blocks.{stage}.{unit}.bn{i + 1}"


def xception_layer(parts: list[str], backbone: str) -> Names:
    """["entry_flow_block2_unit_1", "separable_conv1_depthwise"] -> "blocks.1.stack.conv1.conv_dw",
    "blocks.1.stack.conv1.bn_dw"."""
    if len(parts) == 1:  # entry_flow_conv1_1 and _2
        stem = f"stem.{int(parts[0][-1]) - 1}"
        return f"{stem}.conv", f"{stem}.bn"
    units = [f"{b.name}_unit_{u}" for b in blocks(backbone) for u in range(1, b.units + 1)]
    block = f"blocks.{units.index(parts[0])}"
    if parts[1] == "shortcut":
        return f"{block}.shortcut.conv", f"{block}.shortcut.bn"
    conv, kind = parts[1].removeprefix("separable_").split("_")
    suffix = "dw" if kind == "depthwise" else "pw"
    return f"{block}.stack.{conv}.conv_{suffix}", f"{block}.stack.{conv}.bn_{suffix}"


def head_layer(module: str, parts: list[str], config: ModelConfig) -> Names:
    """["aspp2", "pointwise"] -> "decoder.aspp.0.convs.2.0.1", "decoder.aspp.0.convs.2.1".

    torchvision's names under a v3 head, SMP's under a v3+ head; our own where neither has such a
    layer. In a separable convolution number 0 is depthwise and number 1 pointwise.
    """
    layer, *part = parts or [""]
    half = {"depthwise": ".0", "pointwise": ".1"}.get(part[0], "") if part else ""
    aspp = "decoder.aspp" if config.head == "deeplabv3plus" else "classifier"
    pooled = len(config.rates) + 1
    places = {
        "aspp image_pooling": (f"{aspp}.0.convs.{pooled}.1", f"{aspp}.0.convs.{pooled}.2"),
        "aspp concat_projection": (f"{aspp}.0.project.0", f"{aspp}.0.project.1"),
        "aspp after0": (f"{aspp}.1", f"{aspp}.2"),
        "decoder0 feature_projection": ("decoder.block1.0", "decoder.block1.1"),
        "decoder0 conv0": ("decoder.block2.0", "decoder.block2.1"),
        "logits ": ("segmentation_head.0" if "decoder" in aspp else "classifier.4", ""),
    }
    branches = {
        f"aspp aspp{i}": (f"{aspp}.0.convs.{i}.0", f"{aspp}.0.convs.{i}.1") for i in range(pooled)
    }
    ours = ".".join((module, *parts))
    conv, norm = (places | branches).get(f"{module} {layer}", (ours, f"{ours}.norm"))
    return conv + half, norm


def layer_names(module: str, parts: list[str], config: ModelConfig) -> Names:
    """PyTorch's names of a layer of ours."""
    kind = family(config.backbone)
    if module == "logits" and config.head == "classifier":
        return LAST_LAYERS[kind], ""
    if module != "backbone":
        return head_layer(module, parts, config)
    if kind == "xception":
        return xception_layer(parts, config.backbone)
    return resnet_layer(parts) if kind == "resnet" else mobilenet_layer(parts)


def find_prefix(names: Collection[str]) -> str:
    """What stands before a backbone's names in a state dict."""
    return next((p for p in PREFIXES if any(f"{p}{s}.weight" in names for s in STEMS)), "")


def torch_slots(config: ModelConfig, prefix: str = "") -> dict[Path, Slot]:
    """The array of every leaf in a state dict, of which `prefix` stands before the backbone's."""
    slots = {}
    for path, leaf in flatten_dict(abstract_variables(config)).items():
        _, module, *parts, last = path
        conv, norm = layer_names(module, [part for part in parts if part != "norm"], config)
        name = f"{norm if 'norm' in parts else conv}.{LEAVES[last]}"
        # PyTorch's kernels are [out, in, kh, kw]; its linear layer has [out, in].
        linear = module == "logits" and config.head == "classifier"
        axes = ((3, 2) if linear else (3, 2, 0, 1)) if last == "kernel" else (0,)
        slots[path] = Slot(prefix * (module == "backbone") + name, leaf.shape, axes)
    return slots


def pool_first(
    arrays: Mapping[str, np.ndarray], slots: Mapping[Path, Slot], config: ModelConfig
) -> dict[str, np.ndarray]:
    """The arrays with the ASPP's pooled image as the first of the joined branches, not the last."""
    out, slot = dict(arrays), slots.get(("params", "aspp", "concat_projection", "kernel"))
    if slot is not None and config.image_pooling and slot.name in out:
        out[slot.name] = np.roll(out[slot.name], config.aspp_channels, axis=1)
    return out


def check_form(config: ModelConfig) -> None:
    """Raise UserError if PyTorch's network of this kind is another one than this."""
    if config.torch_form or config.backbone.startswith("xception"):
        return
    reason = "PyTorch's libraries have no such network"
    if config.backbone.startswith("resnet_v1_"):
        reason = (
            "PyTorch's ResNets stride in the first unit of a block, this one in its last: take"
            " resnet_50 or resnet_101"
        )
    if config.backbone == "mobilenet_v2":
        reason = (
            "PyTorch's pads strided convolutions on all sides, the official one as TensorFlow: add"
            " model.mobilenet_form = torch"
        )
    raise UserError(f"model.backbone = {config.backbone}: {reason}")


def from_torch_variables(
    arrays: Mapping[str, np.ndarray], model_config: ModelConfig
) -> dict[str, Any]:
    """Our variables from a state dict of timm, torchvision or SMP.

    Raises:
      UserError: PyTorch's network is another one; or an array is missing or has another shape:
        every such name is listed with its shapes.
    """
    check_form(model_config)
    slots = torch_slots(model_config, find_prefix(arrays))
    return fill(pool_first(arrays, slots, model_config), slots, model_config)
