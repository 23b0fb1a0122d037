"""The flags of the official scripts become the network that they mean, or are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from deeplab_jax import ModelConfig, UserError
from deeplab_jax.config.cell import Branch
from deeplab_jax.weights import official_config

V3 = {  # model_zoo.md's for deeplab_mnv3_large_cityscapes_trainfine, as they are typed
    "model_variant": "mobilenet_v3_large_seg",
    "num_classes": 19,
    "output_stride": 32,
    "image_pooling_crop_size": "769,769",
    "image_pooling_stride": "4,5",
    "aspp_convs_filters": 128,
    "aspp_with_concat_projection": 0,
    "aspp_with_squeeze_and_excitation": 1,
    "decoder_use_sum_merge": 1,
    "decoder_filters": 19,
    "decoder_output_is_logits": 1,
    "image_se_uses_qsigmoid": 1,
    "decoder_output_stride": 8,
}
CELL = [
    {"kernel": 3, "rate": [1, 6], "op": "conv", "input": -1},
    {"op": "pyramid_pooling", "grid_size": [2, 4], "input": 0},
]


def test_no_flag_is_the_official_default() -> None:
    assert official_config({}) == ModelConfig(
        backbone="mobilenet_v2", head="deeplabv3", atrous_rates=()
    )


def test_flags_as_they_are_typed() -> None:
    assert official_config(V3) == ModelConfig(
        backbone="mobilenet_v3_large_seg",
        num_classes=19,
        output_stride=32,
        atrous_rates=(),
        aspp_form="concat",
        aspp_channels=128,
        image_pooling_crop_size=(769, 769),
        image_pooling_stride=(4, 5),
        image_pooling_gate="hard_sigmoid",
        decoder_strides=(8,),
        decoder_channels=19,
        decoder_separable=False,
        decoder_merge="sum",
        decoder_logits=True,
    )


def test_the_cell_is_json_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "cell.json"
    file.write_text(json.dumps(CELL))
    wanted = (
        Branch("conv", -1, (3, 3), (1, 6)),
        Branch("pyramid_pooling", 0, grid_size=(2, 4)),
    )
    for flags in (
        {"dense_prediction_cell": CELL},
        {"dense_prediction_cell_config": json.dumps(CELL)},
        {"dense_prediction_cell_json": str(file)},
    ):
        assert official_config(flags).dense_prediction_cell == wanted


def test_what_official_code_takes_no_notice_of_is_left_alone() -> None:
    flags = {"multi_grid": [1, 2, 4], "height": 33, "merge_method": "avg", "logits_stride": [2, 2]}
    assert official_config(flags) == official_config({})
    flags = {"model_variant": "xception_65", "depth_multiplier": 0.5, "divisible_by": 8}
    assert official_config(flags) == official_config({"model_variant": "xception_65"})
    ours = official_config({"model_variant": "resnet_v1_18_beta", "multi_grid": [1, 2]})
    assert ours.multi_grid == (1, 2, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model_variant": "nas_hnasnet"}, "model_variant = 'nas_hnasnet' .* choose one of"),
        ({"model_variant": "unet"}, "model_variant = 'unet' "),
        ({"model_variant": "resnet_50"}, "model_variant = 'resnet_50' "),
        ({"image_pyramid": [0.5, 1.0]}, "image_pyramid = .* one scale alone"),
        ({"output_stride": 64}, "output_stride = 64 "),
        ({"output_stride": "x"}, "output_stride = 'x' .* a whole number"),
        ({"aspp_convs_filters": 2**40}, "aspp_convs_filters = .* 1 to 8192"),
        ({"aspp_with_batch_norm": "maybe"}, "aspp_with_batch_norm = 'maybe' .* True or False"),
        ({"image_pooling_stride": [1, 2, 3]}, "image_pooling_stride = .* 2 numbers"),
        ({"logits_kernel_size": 3}, "logits_kernel_size = 3 "),
        ({"decoder_output_is_logits": True}, "decoder_output_is_logits = True .* without"),
        ({**V3, "decoder_filters": 256}, "decoder_filters = 256 .* 19, as many as classes"),
        ({**V3, "atrous_rates": [6, 12]}, r"atrous_rates = \(6, 12\) .* one branch"),
        (
            {"model_variant": "resnet_v1_18_beta", "multi_grid": [1, 2, 4]},
            "multi_grid .* 2 factors",
        ),
        (
            {"model_variant": "mobilenet_edgetpu", "decoder_output_stride": [4]},
            "decoder_output_stride .* no low-level features",
        ),
        (
            {"task": "classification", "depth_multiplier": 0.75},
            "finegrain_classification_mode = False",
        ),
        ({"outputs_to_num_classes": {"a": 2, "b": 3}}, "outputs_to_num_classes .* one output"),
        ({"dense_prediction_cell": "[{"}, "dense_prediction_cell = .* JSON"),
        ({"dense_prediction_cell": [{"op": "nas"}]}, r"dense_prediction_cell.*'nas'"),
        ({"dense_prediction_cell": [{"input": 0}]}, "dense_prediction_cell .* an earlier one"),
        ({"dense_prediction_cell": [{"kernel": [9, 9]}]}, "dense_prediction_cell.kernel .* 1 to 7"),
        ({"dense_prediction_cell": [{"size": 1}]}, r"dense_prediction_cell\[0\].size"),
        ({"dense_prediction_cell": CELL, "output_stride": 32}, "output_stride = 32 .* cell"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        official_config(flags)
    assert "model." not in str(error.value)
