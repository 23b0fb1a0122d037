"""The official logits in `../shared/reference`, and the weights that made them."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeplab_jax import ModelConfig

SHARED = Path(__file__).resolve().parents[2] / "shared"
REFERENCE = SHARED / "reference"


def shared(*parts: str) -> Path:
    """A file or folder of `../shared`; the test is skipped where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs ../shared/{'/'.join(parts)}, which is not here")
    return path


def load_case(name: str) -> dict[str, Any]:
    manifest = json.loads(shared("reference", "manifest.json").read_text())
    return manifest[name]


def tf_variables(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every variable follows from its name and shape (../shared/README.md)."""
    return {name: weight(name, tuple(shape)) for name, shape in case["variables"].items()}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    z = z.standard_normal(size=shape).astype(np.float32)
    last = name.rsplit("/", 1)[-1]
    if last in ("gamma", "moving_variance"):
        return 1 + np.float32(0.1) * np.abs(z)
    if last in ("beta", "moving_mean", "biases"):
        return np.float32(0.1) * z
    fan_in = shape[0] * shape[1] * (1 if last == "depthwise_weights" else shape[2])
    return z * np.float32(np.sqrt(1 / fan_in))


def image(case: dict[str, Any]) -> np.ndarray:
    g = np.random.Generator(np.random.PCG64(case["image_seed"]))
    return g.uniform(0, 255, size=(1, case["height"], case["width"], 3)).astype(np.float32)


def model_config(case: dict[str, Any]) -> ModelConfig:
    stages = case["decoder_output_stride"]
    return ModelConfig(
        backbone=case["model_variant"],
        head="deeplabv3plus" if stages else "deeplabv3",
        num_classes=21,
        output_stride=case["output_stride"],
        atrous_rates=tuple(case["atrous_rates"] or ()),
        multi_grid=tuple(case["multi_grid"] or (1, 1, 1)),
        decoder_strides=tuple(stages or (4,)),
    )
