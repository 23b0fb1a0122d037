"""A network as OpenVINO's intermediate representation, model.xml and model.bin, proved by it."""

import sys
from pathlib import Path

import numpy as np

from deeplab_jax.export.onnx_file import as_maps, lower_prediction
from deeplab_jax.export.precision import Candidate
from deeplab_jax.export.prediction import Prediction
from deeplab_jax.export.proof import Run, Scores
from deeplab_jax.lowering.walk import IMAGE

# When imported it reports that to its makers, by a fork, which JAX's threads may hang: not here.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

# Processors with bfloat16 would otherwise compute in it.
CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}


def write_files(file: Path, prediction: Prediction) -> str:
    """Write model.xml, and model.bin beside it; returns the name of the network's logits in there.

    `half` are weights of float16; the arithmetic is the runtime's choice.
    """
    lowered = lower_prediction(prediction._replace(half=False))
    # As `openvino.convert_model` does, which reports it too.
    model = openvino.Core().read_model(lowered.model.SerializeToString())
    for key, text in prediction.metadata().items():
        model.set_rt_info(text, [key])
    openvino.save_model(model, file, compress_to_fp16=prediction.half)
    *_, logits = lowered.layers.values()
    return logits


def run_files(file: Path, logits: str | None = None) -> Run:
    """The two files in OpenVINO on the CPU, which also tells the network's own logits, if named."""
    core = openvino.Core()
    model = core.read_model(file.read_bytes(), file.with_suffix(".bin").read_bytes())
    if logits is not None:
        model.add_outputs([logits])
    compiled = core.compile_model(model, "CPU", CONFIG)

    def run(image: np.ndarray) -> Scores:
        output, *more = compiled({IMAGE: image}).values()
        return (as_maps(more[0]) if more else None), output

    return run


def candidate(name: str, file: Path) -> Candidate:
    """The two files, to be measured."""
    return Candidate(name, run_files(file), megabytes(file))


def megabytes(file: Path) -> float:
    """Of both files."""
    return sum(f.stat().st_size for f in (file, file.with_suffix(".bin"))) / 1e6
