"""The network of a state dict is read off its names and shapes; others are refused by name."""

import dataclasses
from typing import Any

import pytest
from torch_cases import CASES

from deeplab_jax import ModelConfig, UserError
from deeplab_jax.weights.detect import HEAD
from deeplab_jax.weights.torch_detect import detect_torch_network
from deeplab_jax.weights.torch_names import torch_slots

Shapes = dict[str, tuple[int, ...]]


def shapes_of(name: str, *, headless: bool = False) -> Shapes:
    slots = torch_slots(CASES[name].model, CASES[name].prefix).items()
    return {
        slot.name: slot.file_shape for path, slot in slots if path[1] != "logits" or not headless
    }


@pytest.mark.parametrize("name", CASES)
def test_the_network_of_a_file_is_found(name: str) -> None:
    """But for a classifier's output stride, and the width of others than MobileNetV2."""
    model = CASES[name].model
    found = detect_torch_network(shapes_of(name), "x", {})
    segments = model.head != "classifier"
    untold = {"width": model.width} | ({} if segments else {"output_stride": model.output_stride})
    assert dataclasses.replace(found, **untold) == model
    assert model.backbone != "mobilenet_v2" or found.width == model.width


def test_a_backbone_alone_and_other_channels() -> None:
    shapes = shapes_of("timm_resnet50", headless=True)
    alone = ModelConfig(backbone="resnet_50")
    assert detect_torch_network(shapes, "x", {}) == alone
    shapes["conv1.weight"] = (8, 4, 7, 7)
    four = dataclasses.replace(alone, channels=4, output_stride=8)
    assert detect_torch_network(shapes, "x", {"output_stride": 8}) == four


def test_settings_may_not_contradict_the_file_but_where_they_are_free() -> None:
    shapes = shapes_of("timm_mobilenetv2")
    for setting in ({"width": 1.0}, {"mobilenet_form": "official"}, {"num_classes": 3}):
        with pytest.raises(UserError, match=rf"model\.{next(iter(setting))} .* not what x holds"):
            detect_torch_network(shapes, "x", setting)
    assert detect_torch_network(shapes, "x", {"num_classes": 3}, {"num_classes"}).classes == 3
    backbone = detect_torch_network(shapes, "x", {"head": "pspnet"}, HEAD)
    assert (backbone.head, backbone.num_classes, backbone.width) == ("pspnet", None, 0.1)


def without(shapes: Shapes, part: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if part not in name}


def renamed(shapes: Shapes, part: str, other: str) -> Shapes:
    return {name.replace(part, other): shape for name, shape in shapes.items()}


SMP = shapes_of("smp_deeplabv3plus")
HEAD_OF_SMP = {name: shape for name, shape in SMP.items() if name.startswith("decoder.")}
RESNET, MOBILE = shapes_of("timm_resnet50"), shapes_of("timm_mobilenetv2")
STRANGERS: list[tuple[Any, str]] = [
    (without(RESNET, ".conv3."), "without bottleneck"),
    (RESNET | {"layer1.0.se.fc1.weight": (4, 8, 1, 1)}, r"more than bottlenecks have \(se\.fc1\)"),
    (RESNET | {"layer1.0.conv2.weight": (8, 2, 3, 3)}, "ResNeXt"),
    (RESNET | {"layer3.35.conv1.weight": (8, 8, 1, 1)}, "3, 4, 36, 3 units"),
    (without(RESNET, "conv1.weight") | {"conv1.0.weight": (8, 3, 3, 3)}, "none of the networks"),
    (MOBILE | {"blocks.1.2.conv_pw.weight": (8, 8, 1, 1)}, "1, 3, 3, 4, 3, 3, 1 units, where"),
    (MOBILE | {"blocks.1.1.se.conv_reduce.weight": (8, 8, 1, 1)}, r"\(se\.conv_reduce\)"),
    (shapes_of("timm_xception41") | {"stem.1.weight": (8,)}, "xception41p"),
    (shapes_of("timm_xception41") | {"blocks.13.x": (8,)}, "Xception of 14 blocks"),
    ({"features.0.0.weight": (32, 3, 3, 3)}, r"none of the networks: timm's xception41"),
    ({}, "none of the networks"),
    ({"encoder.features.0.0.weight": (32, 3, 3, 3)}, "SMP's encoder is none of resnet50"),
    (
        {f"encoder.model.{name}": shape for name, shape in MOBILE.items()} | HEAD_OF_SMP,
        "encoder is",
    ),
    (renamed(SMP, "decoder.aspp.0.", "decoder.aspp."), "SMP's DeepLabV3, .*--backbone-only"),
    (renamed(SMP, "decoder.aspp.0.", "decoder.blocks."), "a decoder of SMP's"),
    (without(SMP, "convs.1.0.0"), "with plain branches"),
    (SMP | {"segmentation_head.0.weight": (1, 32, 1, 1)}, "one logit for one class"),
    (renamed(shapes_of("torchvision_deeplabv3"), "classifier.0.", "classifier."), "FCN"),
]


@pytest.mark.parametrize(("shapes", "message"), STRANGERS, ids=[m for _, m in STRANGERS])
def test_other_networks_are_refused_by_name(shapes: Shapes, message: str) -> None:
    with pytest.raises(UserError, match=rf"^x\.safetensors: .*{message}"):
        detect_torch_network(shapes, "x.safetensors", {})
