"""A network as a file of ONNX, proved by onnxruntime."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from deeplab_jax.export.precision import Candidate
from deeplab_jax.export.prediction import Prediction
from deeplab_jax.export.proof import Run, Scores
from deeplab_jax.lowering.lower import Lowered, lower, lower_for_any_size
from deeplab_jax.lowering.session import open_session
from deeplab_jax.lowering.walk import IMAGE


def lower_prediction(prediction: Prediction) -> Lowered:
    """The prediction in ONNX: from `image` to an output of the name of what it is."""
    function, names = prediction.predict, (prediction.output, prediction.metadata())
    if prediction.size is not None:
        return lower(function, prediction.image, *names)
    stride = prediction.weights.model.output_stride
    return lower_for_any_size(function, prediction.image, stride, *names)


def candidate(name: str, model: onnx.ModelProto) -> Candidate:
    """A file in onnxruntime as a user runs it, to be measured."""
    session = open_session(model)

    def run(image: np.ndarray) -> Scores:
        return None, session.run(None, {IMAGE: image})[0]

    return Candidate(name, run, model.ByteSize() / 1e6)


def run_with_logits(model: onnx.ModelProto, layers: dict[str, str]) -> Run:
    """A file in onnxruntime, which also tells the network's own logits, its last layer."""
    *_, last = layers.values()
    session = watch(model, [last])

    def run(image: np.ndarray) -> Scores:
        output, logits = session.run(None, {IMAGE: image})
        return as_maps(logits), output

    return run


def watch(model: onnx.ModelProto, values: Sequence[str]) -> Any:
    """A session that returns these values too."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in values)
    return open_session(watched)


def as_maps(x: np.ndarray) -> np.ndarray:
    """[b, c, h, w] as [b, h, w, c]; others as they are."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def run_layers(
    model: onnx.ModelProto, layers: dict[str, str], image: np.ndarray
) -> dict[str, np.ndarray]:
    """The last value of each layer of a file, in their order."""
    found = watch(model, [*layers.values()]).run(None, {IMAGE: image})[1:]
    return dict(zip(layers, map(as_maps, found), strict=True))
