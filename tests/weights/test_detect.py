"""The network of official variables is read off their names and shapes."""

import dataclasses
from typing import Any

import official
import pytest

from deeplab_jax import ModelConfig, UserError
from deeplab_jax.config.cell import read_cell
from deeplab_jax.weights import official_config
from deeplab_jax.weights.detect import HEAD, TOLD, UNTOLD, detect_network, find_untold
from deeplab_jax.weights.official import CITYSCAPES_CELL
from deeplab_jax.weights.tf_names import tf_slots

MOBILE = ModelConfig(backbone="mobilenet_v2")
SEGMENTS = ModelConfig(head="deeplabv3", num_classes=21)
Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: ModelConfig) -> Shapes:
    """What a checkpoint of a network holds."""
    names = {slot.name: slot.file_shape for slot in tf_slots(model).values()}
    return names | {"global_step": (), "image_pooling/weights/Momentum": (3,)}


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(backbone="xception_41", num_classes=19, width=0.1),
        dataclasses.replace(MOBILE, num_classes=151, decoder_separable=False),
        ModelConfig(backbone="resnet_v1_101", num_classes=21, head="deeplabv3", width=0.3),
        dataclasses.replace(SEGMENTS, backbone="resnet_v1_18", channels=4, aspp_separable=False),
        ModelConfig(backbone="xception_41", num_classes=1001, head="classifier", output_stride=32),
        dataclasses.replace(
            MOBILE, num_classes=1001, head="classifier", width=1.4, output_stride=32
        ),
        *(
            dataclasses.replace(MOBILE, num_classes=21, head="deeplabv3", atrous_rates=(), width=w)
            for w in (0.35, 0.5, 1.3)
        ),
        *(
            dataclasses.replace(MOBILE, num_classes=21, width=w, width_divisor=8)
            for w in (0.35, 0.5)
        ),
        dataclasses.replace(MOBILE, num_classes=5, mobilenet_endpoints="blocks"),
        dataclasses.replace(SEGMENTS, backbone="mobilenet_v3_large_seg", width=0.8),
        dataclasses.replace(SEGMENTS, backbone="mobilenet_v3_small_minimalistic", width=0.75),
        dataclasses.replace(
            SEGMENTS, backbone="mobilenet_edgetpu", width=0.75, whole_top=True, output_stride=32
        ),
        ModelConfig(
            backbone="mobilenet_edgetpu",
            num_classes=9,
            head="classifier",
            width=0.75,
            output_stride=32,
        ),
        ModelConfig(
            backbone="resnet_v1_18_beta",
            num_classes=3,
            image_pooling=False,
            aspp_channels=64,
            decoder_low_level_channels=16,
            decoder_channels=32,
            decoder_convs=1,
            decoder_kernel=5,
            decoder_strides=(8, 4),
        ),
    ],
    ids=lambda m: f"{m.backbone}-{m.head}-{m.width}",
)
def test_what_variables_tell_is_found(model: ModelConfig) -> None:
    assert detect_network(shapes_of(model), "x", {}) == model


def case_of(name: str) -> tuple[ModelConfig, Shapes]:
    """The network of an official case, and what the official code had as its variables."""
    case = official.load_case(name)
    model = official_config(case)
    shapes = {name: tuple(shape) for name, shape in case["variables"].items()}
    return dataclasses.replace(model, num_classes=model.classes), shapes


@pytest.mark.parametrize("name", official.cases())
def test_every_official_case_is_told(name: str) -> None:
    """But what is never told; and of two, of which nothing such is published, what to say."""
    model, shapes = case_of(name)
    kept = {field: getattr(model, field) for field in UNTOLD}
    assert detect_network(shapes, name, kept) == model
    field = {
        "mobilenet_v2_cell_pyramid": "dense_prediction_cell",
        "mobilenet_v2_no_projection": "atrous_rates",
    }.get(name)
    if field:
        with pytest.raises(UserError, match=rf"{name} holds .*: say them by --model\.{field}"):
            detect_network(shapes, name, {})
    found = detect_network(shapes, name, {field: kept[field]} if field else {})
    assert {f: getattr(found, f) for f in TOLD} == {f: getattr(model, f) for f in TOLD}


def test_what_variables_do_not_tell_is_as_published() -> None:
    _, shapes = case_of("xception_71_dpc_os16")
    found = detect_network(shapes, "x", {})
    assert found.dense_prediction_cell == read_cell(CITYSCAPES_CELL, "")
    assert "branch5_top1_cityscapes" in find_untold(found)["dense_prediction_cell"]
    _, shapes = case_of("mobilenet_v3_small_seg_os32")
    told = find_untold(detect_network(shapes, "x", {}))
    assert told["image_pooling_crop_size"] == (769, 769) and told["output_stride"] == 32
    assert told["image_pooling_gate"] == "hard_sigmoid" and "atrous_rates" not in told
    _, shapes = case_of("resnet_v1_50_beta_os16")
    assert find_untold(detect_network(shapes, "x", {}))["multi_grid"] == (1, 2, 4)


CELL = [{"op": "conv", "kernel": 3, "input": -1}, {"op": "conv", "kernel": 3, "input": 0}]


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("mobilenet_v2_os8", {"width": 0.5}, r"model\.width = 0\.5 is not what ckpt holds: 1\.0"),
        ("mobilenet_v2_os8", {"channels": 1}, "channels = 1 .* holds: 3"),
        ("mobilenet_v2_os8", {"head": "deeplabv3"}, "holds: 'deeplabv3plus'"),
        ("mobilenet_v2_os8", {"decoder_strides": (8,)}, "low-level features of 144 channels"),
        ("mobilenet_v2_os8", {"atrous_rates": (2, 4)}, r"\(2, 4\) is not .*: 3 atrous rates"),
        ("mobilenet_v2_os8", {"image_pooling_gate": "sigmoid"}, "holds: 'none'"),
        ("mobilenet_v2_se_sigmoid", {"image_pooling_gate": "none"}, "holds: a gate"),
        ("xception_65_os16", {"dense_prediction_cell": read_cell(CELL, "")}, r"holds: \(\)"),
        (
            "xception_71_dpc_os16",
            {"dense_prediction_cell": read_cell([*CELL, CELL[0], CELL[1], CELL[1]], "")},
            "holds: a cell of 3x3 on 2048 channels, 3x3 on 256 channels, 3x3 on 256",
        ),
    ],
)
def test_a_wrong_setting_is_contradicted(name: str, asked: dict[str, Any], message: str) -> None:
    _, shapes = case_of(name)
    with pytest.raises(UserError, match=message):
        detect_network(shapes, "ckpt", asked)


def test_right_settings_and_what_is_not_told_are_taken() -> None:
    _, shapes = case_of("mobilenet_v2_os8")
    asked = {"output_stride": 8, "channels": 3, "width_divisor": 8, "atrous_rates": (1, 2, 3)}
    assert vars(detect_network(shapes, "x", asked)).items() >= asked.items()


def test_a_backbone_alone_and_strangers() -> None:
    _, shapes = case_of("mobilenet_v2_os8")
    alone = {name: shape for name, shape in shapes.items() if name.startswith("MobilenetV2/")}
    assert detect_network(alone, "x", {}).backbone == "mobilenet_v2"
    # Of what is not taken, anything may be asked for.
    asked = {"num_classes": 5, "aspp_channels": 64, "atrous_rates": (2,)}
    free = detect_network(shapes, "x", asked, HEAD)
    assert free == ModelConfig(backbone="mobilenet_v2", **asked)
    assert detect_network(shapes, "x", {"num_classes": 5}, {"num_classes"}).classes == 5
    with pytest.raises(UserError, match=r"ckpt: holds variables of InceptionV3, .*xception_65"):
        detect_network({"InceptionV3/Conv/weights": (3, 3, 3, 32)}, "ckpt", {})


def test_arrays_of_other_ranks_are_no_fault_of_ours() -> None:
    """They are what `fill` then names, or no network that can be had."""
    for name in ("xception_71_dpc_os16", "mobilenet_v2_deeplab_v2_aspp", "mobilenet_v2_os8"):
        _, shapes = case_of(name)
        for changed in ((), (7,), (1, 2, 3, 4, 5)):
            try:
                detect_network(dict.fromkeys(shapes, changed), name, {})
            except UserError as error:
                assert name in str(error) or "model." in str(error)
