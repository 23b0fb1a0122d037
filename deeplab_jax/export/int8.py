"""A file of ONNX in int8: onnxruntime rounds weights and maps to 8 bits, by images of yours."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnxruntime import quantization

from deeplab_jax.lowering.walk import IMAGE


class Examples(quantization.CalibrationDataReader):
    """Images one after the other, as onnxruntime asks for them."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self._images: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image; None: there is none."""
        image = next(self._images, None)
        return None if image is None else {IMAGE: image}


def quantise(model: onnx.ModelProto, images: Sequence[np.ndarray]) -> onnx.ModelProto:
    """The model with the weights and maps between its first and last convolution in 8 bits.

    Both unsigned, with a range for each array: on a CPU without VNNI, sums of products by signed
    weights saturate (docs/export.md). The range of each map is that over `images` [1, h, w, c].
    What scales pixels, and what follows the last convolution, stays in float32.
    """
    convolutions = [i for i, node in enumerate(model.graph.node) if node.op_type == "Conv"]
    first, last = convolutions[0], convolutions[-1]
    inside = [node.name for node in model.graph.node[first : last + 1]]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # advice to run a tool before, which has nothing to do here
    try:
        with tempfile.TemporaryDirectory() as folder:
            whole, file = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, whole)
            quantization.quantize_static(
                whole,
                file,
                Examples(images),
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QUInt8,
                nodes_to_quantize=inside,
            )
            quantised = onnx.load(file)
    finally:
        logging.disable(before)
    helper.set_model_props(quantised, {p.key: p.value for p in model.metadata_props})
    return quantised
