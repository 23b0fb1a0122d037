"""Predictions are computed in float32 where a network is of float32."""

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from conftest import TINY_MODEL
from synthetic import patches

from deeplab_jax import Config, EvalConfig, ModelConfig, build_model
from deeplab_jax.inference.step import compile_eval_step, predict_labels, predict_probabilities
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.parallel.mesh import device_mesh

VIEWS = EvalConfig(scales=(0.5, 1.0), flip=True, window=(33, 33))


def products(program: Any) -> list[str]:
    """The convolutions and matrix products of a lowered program, a line each."""
    return re.findall(r".*stablehlo\.(?:convolution|dot_general)\b.*", program.as_text())


def lower(function: Callable[..., Any], model: ModelConfig) -> Any:
    image = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.uint8)
    step = partial(function, model=build_model(model), protocol=VIEWS)
    return jax.jit(step).lower(abstract_variables(model), image)


@pytest.mark.parametrize("function", [predict_labels, predict_probabilities])
def test_products_of_float32_have_the_highest_precision(function: Callable[..., Any]) -> None:
    """The default is bfloat16 on a TPU and TF32 on recent GPUs."""
    exact = products(lower(function, TINY_MODEL))
    assert len(exact) > 50 and all(line.count("HIGHEST") == 2 for line in exact)
    model: ModelConfig = dataclasses.replace(TINY_MODEL, dtype="bfloat16")
    fast = [line for line in products(lower(function, model)) if "bf16" in line]
    assert len(fast) > 25 and not any("HIGHEST" in line for line in fast)


def test_so_have_those_of_evaluation() -> None:
    step = compile_eval_step(Config(model=TINY_MODEL), device_mesh(), 255)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), patches((65, 65)))
    lines = products(step.lower(abstract_variables(TINY_MODEL), batch))
    assert len(lines) > 25 and all(line.count("HIGHEST") == 2 for line in lines)
