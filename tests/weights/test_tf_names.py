"""Names of the official checkpoints: complete, readable errors, folded BatchNorm."""

import dataclasses

import chex
import numpy as np
import official
import pytest
from conftest import TINY_MODEL
from flax.traverse_util import flatten_dict
from synthetic import random_variables

from deeplab_jax import ModelConfig, UserError
from deeplab_jax.weights import from_tf_variables
from deeplab_jax.weights.tf_names import tf_names, unused_variables

CASES = ["mobilenet_v2_os16_v3", "mobilenet_v2_os8", "resnet_v1_50_beta_os16", "xception_65_os16"]


@pytest.mark.parametrize("name", CASES)
def test_names_are_those_of_the_official_graph(name: str) -> None:
    case = official.load_case(name)
    ours = set(tf_names(official.model_config(case)).values())
    assert ours == set(case["variables"]) - {"global_step"}


@pytest.mark.parametrize("backbone", ["xception_41", "xception_71", "mobilenet_v2"])
def test_every_variable_has_a_name_of_its_own(backbone: str) -> None:
    config = ModelConfig(backbone=backbone, decoder_strides=(8, 4))  # type: ignore[arg-type]
    names = list(tf_names(config).values())
    assert len(names) == len(set(names))
    assert "decoder/decoder_conv1_1_depthwise/depthwise_weights" in names


def tiny_arrays(model: ModelConfig = TINY_MODEL) -> dict[str, np.ndarray]:
    """Arrays under TF names that fit the tiny network."""
    flat, names = flatten_dict(random_variables(model)), tf_names(model)
    return {
        names[path]: np.moveaxis(np.asarray(a), 2, 3) if "depthwise_w" in names[path] else a
        for path, a in flat.items()
    }


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return tiny_arrays()


def test_missing_and_wrong_variables_are_listed(arrays: dict[str, np.ndarray]) -> None:
    broken = dict(arrays)
    del broken["aspp0/weights"]
    broken["MobilenetV2/Conv/weights"] = np.zeros((5, 5, 3, 3), np.float32)
    with pytest.raises(UserError) as error:
        from_tf_variables(broken, TINY_MODEL)
    text = str(error.value)
    assert "missing (1)" in text and "aspp0/weights" in text
    assert "MobilenetV2/Conv/weights: file [5, 5, 3, 3], model [3, 3, 3, 3]" in text


def test_another_class_count_says_what_to_do(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(UserError, match=r"logits/semantic/weights.*\n(.*\n)*.*--fresh-logits"):
        from_tf_variables(arrays, dataclasses.replace(TINY_MODEL, num_classes=7))


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
    assert unused_variables(extra, TINY_MODEL) == ["aspp0/weights/Momentum", "global_step"]
