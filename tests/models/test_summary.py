"""The summary's figures: against the paper's, the network's own variables, and real gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY_MODEL

from deeplab_jax import ModelConfig, UserError, build_model
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.models.summary import (
    format_summary,
    multiply_adds,
    parameters,
    summarise,
    trace,
)
from deeplab_jax.ops.resize import scale_dimension
from deeplab_jax.weights import official_config

XCEPTION = ModelConfig(backbone="xception_65", num_classes=21)
PLAIN = dataclasses.replace(XCEPTION, aspp_separable=False, decoder_separable=False)
NO_DECODER = dataclasses.replace(PLAIN, head="deeplabv3")
NETWORKS = [
    ModelConfig(backbone="xception_41", head="pspnet", width=0.05, output_stride=32),
    ModelConfig(backbone="resnet_v1_50", head="deeplabv3", multi_grid=(1, 2, 4)),
    ModelConfig(backbone="resnet_v1_50_beta", head="unet", output_stride=8),
    ModelConfig(backbone="resnet_50", head="unet", output_stride=16, multi_grid=(2, 1, 1)),
    ModelConfig(backbone="mobilenet_v2", head="classifier", num_classes=1001),
    ModelConfig(backbone="unet", head="unet", width=0.1, dtype="bfloat16"),
    ModelConfig(backbone="resnet_v1_18_beta", multi_grid=(1, 2, 1), aspp_form="concat"),
    ModelConfig(backbone="mobilenet_v3_small", head="classifier", output_stride=32),
    ModelConfig(backbone="mobilenet_edgetpu", head="unet", output_stride=8),
    ModelConfig(backbone="mobilenet_v3_small_seg", decoder_merge="sum", decoder_logits=True),
    ModelConfig(backbone="mobilenet_v2", aspp_form="deeplabv2", logits_kernel=3),
    dataclasses.replace(TINY_MODEL, decoder_strides=(8, 4), image_pooling_crop_size=(33, 33)),
]


def size_of(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("config", "output_stride", "ideal", "padded", "paper"),
    [  # billions; the last column is the paper's Table 5
        (XCEPTION, 16, 54.04, 54.05, 54.17),
        (XCEPTION, 8, 176.85, 176.96, 177.10),
        (PLAIN, 16, 86.68, 89.61, 89.76),
        (PLAIN, 8, 248.78, 262.42, 262.59),
        (NO_DECODER, 16, 64.92, 67.85, 68.00),
        (NO_DECODER, 8, 227.04, 240.67, 240.85),
    ],
)
def test_multiply_adds_are_the_paper_s(
    config: ModelConfig, output_stride: int, ideal: float, padded: float, paper: float
) -> None:
    convolutions = trace(dataclasses.replace(config, output_stride=output_stride), (513, 513))
    counted = sum(c.padded_multiply_adds for c in convolutions) / 1e9
    assert round(sum(c.multiply_adds for c in convolutions) / 1e9, 2) == ideal
    assert round(counted, 2) == padded
    assert 0 < paper - counted < 0.003 * paper


@pytest.mark.parametrize(
    ("backbone", "count"), [("resnet_50", 25_557_032), ("resnet_101", 44_549_160)]
)
def test_pytorchs_resnets_have_their_published_size(backbone: str, count: int) -> None:
    config = ModelConfig(backbone=backbone, head="classifier", num_classes=1000)  # type: ignore[arg-type]
    assert parameters(config) == count


def test_resnet_101_with_multi_grid_has_the_paper_s_multiply_adds() -> None:
    """Table 3, without decoder: the beta stem, plain convolutions, multi-grid (1, 2, 4)."""
    base = dataclasses.replace(NO_DECODER, backbone="resnet_v1_101_beta", multi_grid=(1, 2, 4))
    for output_stride, paper in ((32, 52.43), (16, 81.02), (8, 276.18)):
        config = dataclasses.replace(base, output_stride=output_stride)
        counted = sum(c.padded_multiply_adds for c in trace(config, (513, 513))) / 1e9
        assert 0 < paper - counted < 0.005 * paper


DPC = [  # the top-1 cell of official `dense_prediction_cell_branch5_top1_cityscapes.json`
    *({"kernel": 3, "rate": [1, 6], "input": -1}, {"kernel": 3, "rate": [18, 15], "input": 0}),
    *({"kernel": 3, "rate": [6, 3], "input": 1}, {"kernel": 3, "rate": [1, 1], "input": 0}),
    {"kernel": 3, "rate": [6, 21], "input": 0},
]
CITYSCAPES_DPC = {
    "model_variant": "xception_71",
    "num_classes": 19,
    "decoder_output_stride": [4],
    "dense_prediction_cell": DPC,
}
V3 = {
    "model_variant": "mobilenet_v3_large_seg",
    "num_classes": 19,
    "output_stride": 32,
    "image_pooling_crop_size": [769, 769],
    "image_pooling_stride": [4, 5],
    "aspp_convs_filters": 128,
    "aspp_with_concat_projection": False,
    "aspp_with_squeeze_and_excitation": True,
    "decoder_output_stride": [8],
    "decoder_use_sum_merge": True,
    "decoder_filters": 19,
    "decoder_output_is_logits": True,
}
EDGETPU = {"model_variant": "mobilenet_edgetpu", "num_classes": 19, "output_stride": 32}
SLIM = {**EDGETPU, "depth_multiplier": 0.75, "aspp_convs_filters": 128}
R18 = {"atrous_rates": [6, 12, 18], "decoder_output_stride": [4]}
IMAGENET = {"task": "classification", "num_classes": 1001, "finegrain_classification_mode": True}


@pytest.mark.parametrize(
    ("flags", "count", "billions"),
    [  # multiply-adds of Cityscapes' 1025 x 2049, EdgeTPU's of 513 x 513
        (CITYSCAPES_DPC, 41_608_523, 501.81),  # published: 502.07
        (V3, 1_507_198, 7.583),
        ({**V3, "model_variant": "mobilenet_v3_small_seg"}, 468_830, 1.964),
        (EDGETPU, 3_603_283, 5.488),  # published: 5.6
        ({**EDGETPU, "output_stride": 16}, 3_603_283, 7.069),  # 7.1
        (SLIM, 1_942_187, 3.402),  # 3.5
        ({**SLIM, "output_stride": 16}, 1_942_187, 4.221),  # 4.3
        ({**R18, "model_variant": "resnet_v1_18_beta"}, 12_320_309, None),
        ({**R18, "model_variant": "resnet_v1_18"}, 12_338_629, None),
        ({**IMAGENET, "model_variant": "mobilenet_v3_large"}, 5_484_313, None),
        ({**IMAGENET, "model_variant": "mobilenet_v3_small"}, 2_543_881, None),
        (
            {**IMAGENET, "model_variant": "mobilenet_v3_small", "depth_multiplier": 0.75},
            2_042_897,
            None,
        ),
        ({**IMAGENET, "model_variant": "mobilenet_v3_large_minimalistic"}, 3_925_569, None),
        ({**IMAGENET, "model_variant": "mobilenet_edgetpu"}, 4_092_713, None),
    ],
    ids=lambda value: value.get("model_variant") if isinstance(value, dict) else str(value),
)
def test_the_official_networks_have_their_published_size(
    flags: dict[str, Any], count: int, billions: float | None
) -> None:
    config = official_config(flags)
    assert parameters(config) == count
    if billions is not None:
        size = (513, 513) if config.backbone == "mobilenet_edgetpu" else (1025, 2049)
        assert round(multiply_adds(config, size) / 1e9, 3 if billions < 100 else 2) == billions


def test_a_cell_sees_farther_along_the_wider_rates() -> None:
    """Chain 0 -> 1 of the official cell: 39 features high, 43 wide (1 + 2 * 6 + 2 * 15)."""
    config = official_config({**CITYSCAPES_DPC, "dense_prediction_cell": DPC[:2]})
    config = dataclasses.replace(config, backbone="mobilenet_v2", head="deeplabv3")
    features, cell = [
        [r for r in summarise(config, (65, 65)) if r.section == section]
        for section in ("backbone", "meta_architecture")
    ]
    chain = next(r for r in cell if r.name == "branch1").receptive_field
    assert features[-1].receptive_field is not None
    assert chain == features[-1].receptive_field + 42 * 16


def test_a_gate_shows_each_pixel_the_whole_image() -> None:
    rows = summarise(official_config({**V3, "image_pooling_crop_size": None}), (65, 65))
    fields = {r.name or r.section: r.receptive_field for r in rows}
    # Units 0 to 2 have no squeeze-and-excitation.
    assert fields["expanded_conv_2"] == 19 and fields["expanded_conv_3"] is None


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: f"{c.backbone}-{c.head}")
def test_rows_cover_the_network(config: ModelConfig) -> None:
    size = (97, 130)
    rows = summarise(config, size)
    variables = abstract_variables(config)
    for section, params in variables["params"].items():
        here = [r for r in rows if r.section == section]
        statistics = variables["batch_stats"].get(section, {})
        assert sum(r.parameters for r in here) == size_of(params)
        assert sum(r.statistics for r in here) == size_of(statistics)
    last = [r for r in rows if r.section == "backbone"][-1]
    assert last.stride == config.output_stride
    assert last.size == tuple(scale_dimension(n, config.output_stride) for n in size)
    assert all(r.padded_multiply_adds >= r.multiply_adds for r in rows)
    table = format_summary(config, size, rows)
    assert max(len(line) for line in table.splitlines()) <= 100


def test_totals_are_the_sums_of_the_rows() -> None:
    rows = summarise(TINY_MODEL, (65, 50))
    assert sum(r.multiply_adds for r in rows) == multiply_adds(TINY_MODEL, (65, 50))
    assert sum(r.parameters for r in rows) == parameters(TINY_MODEL)


def test_one_convolution_by_hand() -> None:
    """The stem's second 3x3, 32 to 64 channels; after it, each pixel sees 3 + 2 * 2 pixels."""
    row = summarise(XCEPTION, (65, 97))[1]
    assert (row.section, row.name) == ("backbone", "entry_flow_conv1_2")
    assert (row.size, row.channels, row.stride, row.rate) == ((33, 49), 64, 2, 1)
    assert row.receptive_field == 7
    assert row.parameters == 9 * 32 * 64 + 2 * 64 and row.statistics == 2 * 64
    assert row.multiply_adds == 33 * 49 * 9 * 32 * 64


@pytest.mark.parametrize(("backbone", "field"), [("resnet_v1_50", 483), ("resnet_v1_101", 1027)])
@pytest.mark.parametrize("output_stride", [8, 32])
def test_receptive_fields_are_the_published_ones(
    backbone: Any, field: int, output_stride: int
) -> None:
    """https://github.com/google-research/receptive_field, its table; atrous ones keep them."""
    config = ModelConfig(backbone=backbone, head="classifier", output_stride=output_stride)
    rows = summarise(config, (65, 65))
    assert [r.receptive_field for r in rows][-2:] == [field, None]


def positive_variables(config: ModelConfig) -> Any:
    """Kernels that average what they see, BatchNorm that changes nothing: nothing cancels."""

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name == "kernel":
            return jnp.full(leaf.shape, 1 / np.prod(leaf.shape[:-1]))
        return jnp.full(leaf.shape, float(name in ("scale", "var")))

    return jax.tree_util.tree_map_with_path(fill, abstract_variables(config))


def rows_with_gradient(config: ModelConfig, height: int, outputs: int) -> int:
    """The most rows of an image that a row of logits depends on, over some in the middle.

    The image is narrow, and just bright enough to be positive: no ReLU cuts, no ReLU6 saturates.
    """
    model, variables = build_model(config), positive_variables(config)
    image = jnp.full((outputs, height, 17, 3), 127.5 * 1.001)

    @jax.jit
    def gradient(image: jax.Array) -> jax.Array:
        def middle(image: jax.Array) -> jax.Array:
            rows = model.apply(variables, image, train=False).sum(axis=(2, 3))
            each = jnp.arange(outputs)
            return rows[each, rows.shape[1] // 2 + each].sum()

        return jax.grad(middle)(image)

    reached = np.abs(np.asarray(gradient(image))).sum(axis=(2, 3)) > 0
    assert not reached[:, 0].any() and not reached[:, -1].any(), "the image is too low"
    return max(np.ptp(np.flatnonzero(r)) + 1 for r in reached)


TINY_ATROUS = dataclasses.replace(
    TINY_MODEL, output_stride=8, atrous_rates=(2, 5), image_pooling=False
)


@pytest.mark.parametrize(
    ("config", "height"),
    [
        (TINY_ATROUS, 1025),
        (dataclasses.replace(TINY_ATROUS, head="unet", output_stride=16), 1025),
    ],
    ids=["deeplabv3plus", "unet"],
)
def test_receptive_field_is_where_the_gradient_is(config: ModelConfig, height: int) -> None:
    field = summarise(config, (65, 65))[-1].receptive_field
    assert field == rows_with_gradient(config, height, outputs=16)


def test_too_small_an_image() -> None:
    with pytest.raises(UserError, match=r"size = \(16, 513\) .* at least 17"):
        summarise(TINY_MODEL, (16, 513))
