"""Names of the official checkpoints: complete, both ways, readable errors, folded BatchNorm."""

import dataclasses
from typing import Any, get_args

import chex
import jax
import numpy as np
import official
import pytest
from conftest import TINY_MODEL
from synthetic import random_variables

from deeplab_jax import ModelConfig, UserError
from deeplab_jax.config import Backbone
from deeplab_jax.config.cell import Branch
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.weights import from_tf_variables, official_config, to_tf_variables
from deeplab_jax.weights.slots import find_unused
from deeplab_jax.weights.tf_names import tf_slots


@pytest.mark.parametrize("name", official.cases())
def test_names_are_those_of_the_official_graph(name: str) -> None:
    case = official.load_case(name)
    ours = {slot.name for slot in tf_slots(official_config(case)).values()}
    assert ours == set(case["variables"]) - {"global_step"}


@pytest.mark.parametrize("backbone", ["xception_41", "xception_71", "mobilenet_v2"])
def test_every_variable_has_a_name_of_its_own(backbone: str) -> None:
    config = ModelConfig(backbone=backbone, decoder_strides=(8, 4))  # type: ignore[arg-type]
    names = [slot.name for slot in tf_slots(config).values()]
    assert len(names) == len(set(names))
    assert "decoder/decoder_conv1_1_depthwise/depthwise_weights" in names


def narrow(backbone: str, **fields: Any) -> ModelConfig:
    return dataclasses.replace(TINY_MODEL, backbone=backbone, **fields)


BACKBONES = [b for b in get_args(Backbone) if b != "unet"]
ROUND_TRIPS = [
    *(narrow(backbone, decoder_strides=(8, 4)) for backbone in BACKBONES),
    *(narrow(b, head="classifier") for b in ("xception_41", "resnet_v1_50_beta", "mobilenet_v2")),
    narrow("xception_41", decoder_strides=(8, 4), decoder_separable=False, aspp_separable=False),
    narrow("mobilenet_v2", head="deeplabv3", image_pooling=False, atrous_rates=()),
    narrow("mobilenet_v2", mobilenet_endpoints="blocks"),
    narrow("resnet_v1_50", head="pspnet"),
    narrow("mobilenet_v3_small", head="classifier"),
    narrow("mobilenet_v3_small_seg", decoder_merge="sum", decoder_logits=True),
    narrow("mobilenet_v2", decoder_strides=(8, 4), decoder_logits=True),
    narrow("mobilenet_v2", decoder_strides=(8, 4), decoder_merge="sum"),
    narrow("mobilenet_v2", aspp_form="deeplabv2", logits_kernel=3),
    narrow("mobilenet_v2", dense_prediction_cell=(Branch(), Branch(kernel=(3, 3), input=0))),
    narrow("mobilenet_v2", head="unet"),
    narrow("unet", head="unet"),
]


@pytest.mark.parametrize("config", ROUND_TRIPS, ids=lambda c: f"{c.backbone}-{c.head}")
def test_there_and_back_is_the_identity(config: ModelConfig) -> None:
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.standard_normal(x.shape, np.float32), abstract_variables(config)
    )
    arrays = to_tf_variables(variables, config)
    assert set(arrays) == {slot.name for slot in tf_slots(config).values()}
    chex.assert_trees_all_equal(from_tf_variables(arrays, config), variables)


def test_a_backbone_alone_goes_to_tf() -> None:
    variables = random_variables(TINY_MODEL)
    backbone = {k: {"backbone": v["backbone"]} for k, v in variables.items()}
    assert all(n.startswith("MobilenetV2/") for n in to_tf_variables(backbone, TINY_MODEL))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return to_tf_variables(random_variables(TINY_MODEL), TINY_MODEL)


def test_missing_and_wrong_variables_are_listed(arrays: dict[str, np.ndarray]) -> None:
    broken = dict(arrays)
    del broken["aspp0/weights"]
    broken["MobilenetV2/Conv/weights"] = np.zeros((5, 5, 3, 3), np.float32)
    broken["aspp9/weights"] = np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(UserError) as error:
        from_tf_variables(broken, TINY_MODEL)
    text = str(error.value)
    assert "aspp0/weights: file has none, model [1, 1, " in text
    assert "without a place (1):\n    aspp9/weights [1, 1, 2, 2]" in text
    assert "MobilenetV2/Conv/weights: file [5, 5, 3, 3], model [3, 3, 3, 3]" in text


@pytest.mark.parametrize(
    ("config", "logits"),
    [
        (TINY_MODEL, "logits/semantic/biases"),
        (narrow("xception_41", head="classifier"), "xception_41/logits/biases"),
        (narrow("mobilenet_v2", head="classifier"), "MobilenetV2/Logits/Conv2d_1c_1x1/biases"),
    ],
)
def test_another_class_count_says_what_to_do(config: ModelConfig, logits: str) -> None:
    arrays = to_tf_variables(random_variables(config), config)
    with pytest.raises(UserError, match="--fresh-logits") as error:
        from_tf_variables(arrays, dataclasses.replace(config, num_classes=7))
    assert f"{logits}: file [3], model [7]" in str(error.value)


def test_a_file_with_a_backbone_alone_says_what_to_do(arrays: dict[str, np.ndarray]) -> None:
    backbone = {name: a for name, a in arrays.items() if name.startswith("MobilenetV2/")}
    with pytest.raises(UserError, match="--backbone-only"):
        from_tf_variables(backbone, TINY_MODEL)
    with pytest.raises(UserError, match=r"configuration \(backbone, head, width\)"):
        from_tf_variables(arrays, dataclasses.replace(TINY_MODEL, width=0.3))


def test_a_folded_convolution_computes_convolution_plus_bias(
    arrays: dict[str, np.ndarray],
) -> None:
    scope = "aspp0"
    folded = {k: v for k, v in arrays.items() if not k.startswith(f"{scope}/BatchNorm")}
    folded[f"{scope}/biases"] = bias = np.linspace(-1, 1, 8, dtype=np.float32)
    norm = from_tf_variables(folded, TINY_MODEL)["params"]["aspp"]["aspp0"]["norm"]
    stats = from_tf_variables(folded, TINY_MODEL)["batch_stats"]["aspp"]["aspp0"]["norm"]
    gain = norm["scale"] / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(gain, 1, rtol=1e-6)
    np.testing.assert_allclose(norm["bias"] - stats["mean"] * gain, bias, rtol=1e-6)


def test_extra_variables_are_left_alone(arrays: dict[str, np.ndarray]) -> None:
    extra = {**arrays, "global_step": np.zeros(()), "aspp0/weights/Momentum": np.zeros(1)}
    chex.assert_trees_all_equal(
        from_tf_variables(extra, TINY_MODEL), from_tf_variables(arrays, TINY_MODEL)
    )
    shapes = {name: array.shape for name, array in extra.items()}
    names = {slot.name for slot in tf_slots(TINY_MODEL).values()}
    assert find_unused(shapes, names) == ["aspp0/weights/Momentum [1]", "global_step []"]
