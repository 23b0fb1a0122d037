"""The official logits in `../shared/reference`, and the weights that made them."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
REFERENCE = SHARED / "reference"
FOLDERS = (("reference",), ("reference", "zoo"))


def shared(*parts: str) -> Path:
    """A file or folder of `../shared`; the test is skipped where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs ../shared/{'/'.join(parts)}, which is not here")
    return path


def cases() -> dict[str, dict[str, Any]]:
    """The cases of both manifests that are there, by name; each names its `folder`."""
    found = {}
    for folder in FOLDERS:
        manifest = SHARED.joinpath(*folder, "manifest.json")
        if manifest.is_file():
            entries = json.loads(manifest.read_text())
            found |= {name: {**case, "folder": folder} for name, case in entries.items()}
    return found


def load_case(name: str) -> dict[str, Any]:
    shared("reference", "zoo", "manifest.json")
    return cases()[name]


def stored(name: str, case: dict[str, Any]) -> dict[str, np.ndarray]:
    """Logits and end-points of the official code; of some only every s-th pixel."""
    arrays = dict(np.load(shared(*case["folder"], f"{name}.npz")))
    if "endpoints_file" in case:
        arrays |= dict(np.load(shared(*case["folder"], case["endpoints_file"])))
    return arrays


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
