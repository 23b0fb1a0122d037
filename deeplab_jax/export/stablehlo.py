"""A network as a file of StableHLO, which JAX runs without this package, on any platform."""

from pathlib import Path

import jax
import numpy as np
from jax import export

from deeplab_jax.export.prediction import Prediction
from deeplab_jax.export.proof import Run, Scores

PLATFORMS = ("cpu", "cuda", "tpu")


def serialize(prediction: Prediction) -> bytes:
    """The prediction for a batch of any size, with its weights, as `jax.export.deserialize` reads.

    It is traced without a mesh, so that every platform finds its own forms (`ops/dispatch.py`).
    """
    (batch,) = export.symbolic_shape("batch")
    image = jax.ShapeDtypeStruct((batch, *prediction.image.shape), prediction.image.dtype)
    predict = jax.jit(lambda image: prediction.predict(image, blocks=True))
    return bytes(export.export(predict, platforms=PLATFORMS)(image).serialize())


def run_file(file: Path) -> Run:
    """A file in JAX, which tells its output alone."""
    exported = export.deserialize(bytearray(file.read_bytes()))
    call = jax.jit(exported.call)

    def run(image: np.ndarray) -> Scores:
        return None, np.asarray(call(image))

    return run
