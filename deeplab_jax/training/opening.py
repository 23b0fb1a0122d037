"""What a run says at its beginning: its data, what was chosen and why, and its arithmetic."""

import sys
from typing import Any

import jax

from deeplab_jax.config import Config
from deeplab_jax.data.settle import Choices, format_choices
from deeplab_jax.data.source import Source
from deeplab_jax.parallel.processes import writes

PRODUCTS = {"gpu": "TF32 where the GPU has it", "tpu": "bfloat16"}  # JAX's default for float32


def print_opening(config: Config, chosen: Choices, source: Source, eval_source: Source) -> None:
    """Print it, on the error stream of the process that writes."""
    precision = describe_precision(config.model.dtype, jax.default_backend())
    lines = (describe_data(config, source, eval_source), format_choices(chosen), precision)
    for line in lines:
        if line and writes():
            print(line, file=sys.stderr)


def describe_data(config: Config, source: Source, eval_source: Source) -> str:
    """'data: my_data, 12 images to train on and 5 to evaluate, 3 classes (grey, red, blue)'."""
    name = config.machine.root if config.data.source == "folder" else config.data.source
    names = source.class_names
    first = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return (
        f"data: {name}, {len(source)} images to train on and {len(eval_source)} to evaluate,"
        f" {len(names)} classes ({first})"
    )


def describe_value(field: str, value: Any) -> str:
    """33 x 49 for a size, 0 to 4095 for a range."""
    if not isinstance(value, list):
        return str(value)
    return (" to " if field == "task.range" else " x ").join(f"{x:.6g}" for x in value)


def describe_precision(dtype: str, platform: str) -> str:
    """A line on what a step computes in, "" where that is float32: `step.py` says more."""
    products = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    products = products or PRODUCTS.get(platform, "float32")
    if dtype != "float32":
        return f"precision: the network computes in {dtype}; parameters and loss are float32"
    if products in ("highest", "float32"):
        return ""
    return (
        f"precision: products of float32 numbers in {products}, their sums in float32;"
        " JAX_DEFAULT_MATMUL_PRECISION=highest makes both float32"
    )
