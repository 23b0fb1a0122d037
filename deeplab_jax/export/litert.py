"""A network as a TFLite file, which LiteRT runs on phones and small computers; and its proof."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of TensorFlow's messages the errors
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from deeplab_jax.errors import UserError, first_line
from deeplab_jax.export.precision import Candidate
from deeplab_jax.export.prediction import Prediction
from deeplab_jax.export.proof import Run, Scores
from deeplab_jax.lowering.tensorflow import lower

LOGITS = "network"  # its own logits, beside the output


def write_tflite(prediction: Prediction) -> bytes:
    """The prediction as a TFLite file: from `image` to an output of the name of what it is.

    `half` are weights of float16; the arithmetic is the runtime's choice.
    """
    content, _ = write_floats(prediction, in_float32(prediction).predict, [prediction.output])
    return content


def write_floats(
    prediction: Prediction, function: Any, outputs: Sequence[str], *, layers: bool = False
) -> tuple[bytes, list[str]]:
    """A function of the prediction's images as a file, and its layers; as `lower` takes them."""
    lowered, names = lower(function, prediction.image, outputs, layers=layers)
    converter = make_converter(lowered)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]  # and none of Flex
    if prediction.half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return convert(converter), names


def write_int8(prediction: Prediction, images: Sequence[np.ndarray]) -> bytes:
    """The prediction in whole numbers of 8 bits, by the range of each value in these images.

    They are [1, h, w, c], as the file takes them. Where these are u8, all of it is in whole
    numbers, as accelerators want it; an image of more bits is read as it is, and then rounded.
    """
    whole, image = in_float32(prediction), prediction.image
    eight_bits = image.dtype == np.uint8
    if eight_bits:  # the converter makes u8 of it again
        image = jax.ShapeDtypeStruct(image.shape, np.float32)
    lowered, _ = lower(whole.predict, image, [whole.output])
    converter = make_converter(lowered)

    def examples() -> Iterator[list[np.ndarray]]:
        for given in images:
            example = given.astype(image.dtype)
            if eight_bits:  # the whole range, so that a step is one grey value
                example[0, 0, :2] = [[0], [255]]
            yield [example]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = examples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if eight_bits:
        converter.inference_input_type = tf.uint8
    return convert(converter)


def in_float32(prediction: Prediction) -> Prediction:
    """What is lowered: whatever is of fewer bits, the converter makes so."""
    return prediction._replace(half=False)


def make_converter(function: Any) -> Any:
    """Of a `ConcreteFunction`; with a module, if empty, the file has names for what it takes."""
    return tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())


def convert(converter: Any) -> bytes:
    """The file of a converter.

    Raises:
      UserError: it has operations that no TFLite file has, with the converter's words.
    """
    try:
        return bytes(converter.convert())
    except Exception as error:  # classes of its own
        raise UserError(f"TensorFlow cannot write it as TFLite: {first_line(error)}") from error


def open_file(content: bytes) -> Callable[..., dict[str, np.ndarray]]:
    """A file in LiteRT, on all cores: from `image=` to a dictionary of what it tells."""
    interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
    return interpreter.get_signature_runner()


def candidate(name: str, content: bytes, prediction: Prediction) -> Candidate:
    """A file, to be measured."""
    return Candidate(name, run_output(content, prediction), len(content) / 1e6)


def run_output(content: bytes, prediction: Prediction) -> Run:
    """A file in LiteRT, which tells its output alone."""
    call = open_file(content)

    def run(image: np.ndarray) -> Scores:
        return None, call(image=image)[prediction.output]

    return run


def run_logits(prediction: Prediction) -> Callable[[np.ndarray], np.ndarray]:
    """The network's own logits in LiteRT, of a second file: of one, no value inside is told."""
    function = partial(in_float32(prediction).with_logits, blocks=False)
    content, _ = write_floats(prediction, function, [LOGITS, prediction.output])
    call = open_file(content)
    return lambda image: call(image=image)[LOGITS]


def run_layers(prediction: Prediction, image: np.ndarray) -> dict[str, np.ndarray]:
    """The last value of each layer in LiteRT, in their order, of a file that tells them."""
    function, outputs = in_float32(prediction).predict, [prediction.output]
    content, layers = write_floats(prediction, function, outputs, layers=True)
    found = open_file(content)(image=image)
    return {layer: found[layer] for layer in layers}
