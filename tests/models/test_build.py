"""What a network is made of, whatever its weights."""

import dataclasses
from functools import partial

import jax
import pytest
from conftest import TINY_MODEL
from flax.traverse_util import flatten_dict

from deeplab_jax import ModelConfig, build_model
from deeplab_jax.models.build import abstract_variables


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [("xception_65", 41_055_413), ("xception_41", 28_109_000), ("xception_71", 43_478_000)],
)
def test_parameter_counts_are_the_published_ones(backbone: str, parameters: int) -> None:
    params = abstract_variables(ModelConfig(backbone=backbone))["params"]  # type: ignore[arg-type]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert abs(count - parameters) < (1 if backbone == "xception_65" else 500)


@pytest.mark.parametrize("backbone", ["xception_41", "mobilenet_v2"])
@pytest.mark.parametrize("size", [(65, 97), (64, 96), (51, 70)])
def test_one_variable_tree_serves_every_output_stride(backbone: str, size: tuple[int, int]) -> None:
    base = dataclasses.replace(TINY_MODEL, backbone=backbone)
    variables = abstract_variables(base)
    image = jax.ShapeDtypeStruct((2, *size, 3), "float32")
    for stride in (8, 16, 32):
        model = build_model(dataclasses.replace(base, output_stride=stride))
        logits = jax.eval_shape(partial(model.apply, train=False), variables, image)
        assert logits.shape == (2, (size[0] - 1) // 4 + 1, (size[1] - 1) // 4 + 1, 3)


def test_deeplabv3_has_no_decoder() -> None:
    config = ModelConfig(backbone="mobilenet_v2", head="deeplabv3")
    assert set(abstract_variables(config)["params"]) == {"backbone", "aspp", "logits"}


def test_bfloat16_keeps_parameters_and_logits_in_float32() -> None:
    config = dataclasses.replace(TINY_MODEL, dtype="bfloat16")
    variables = abstract_variables(config)
    assert {str(v.dtype) for v in flatten_dict(variables).values()} == {"float32"}
    image = jax.ShapeDtypeStruct((1, 33, 33, 3), "float32")
    logits = jax.eval_shape(
        lambda v, x: build_model(config).apply(v, x, train=False), variables, image
    )
    assert logits.dtype == "float32"
