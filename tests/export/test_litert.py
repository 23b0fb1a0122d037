"""TFLite files: their sizes, whole numbers of 8 bits, and what is said of a broken one."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from conftest import TINY_UNET
from networks import differ
from synthetic import random_variables, square_image

from deeplab_jax import UserError
from deeplab_jax.config import TaskConfig
from deeplab_jax.export.artefact import PACKAGES, Request, export_weights
from deeplab_jax.export.prediction import Prediction
from deeplab_jax.export.proof import bring, compile_ours
from deeplab_jax.weights.files import Weights

for package in PACKAGES["litert"]:
    if importlib.util.find_spec(package) is None:
        pytest.skip("pip install tensorflow-cpu ai-edge-litert", allow_module_level=True)

from deeplab_jax.export import litert  # noqa: E402

TASK = TaskConfig(classes=("grey", "red", "blue"), eval_size=(49, 65))
WEIGHTS = Weights(TINY_UNET, TASK, random_variables(TINY_UNET))
PREDICTION = Prediction(WEIGHTS, "logits", (49, 65))
IMAGES = [bring(square_image(i)[0], PREDICTION)[None] for i in range(3)]


@pytest.fixture(scope="module")
def whole() -> bytes:
    return litert.write_tflite(PREDICTION)


def test_float16_is_half_as_large(whole: bytes) -> None:
    assert len(litert.write_tflite(PREDICTION._replace(half=True))) < 0.7 * len(whole)


def test_whole_numbers_of_8_bits_from_pixels_on(whole: bytes) -> None:
    content = litert.write_int8(PREDICTION, IMAGES)
    assert len(content) < 0.5 * len(whole)
    ours, run = compile_ours(PREDICTION), litert.run_output(content, PREDICTION)
    for image in IMAGES:
        assert image.dtype == np.uint8
        assert differ(run(image)[1], ours(image)[1]) < 0.1


def test_several_images_at_once(whole: bytes) -> None:
    run = litert.run_output(whole, PREDICTION)
    apart = [run(image)[1] for image in IMAGES]
    assert differ(run(np.concatenate(IMAGES))[1], np.concatenate(apart)) < 1e-5


def test_a_broken_file_is_found_and_the_layer_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deeplab_jax.lowering import tensorflow

    emit, layer = tensorflow.emit_operations, "Network/backbone/down4/conv1"

    def emit_wrongly(last: Any, where: str, name: str, equation: Any, operands: Any) -> Any:
        if (where, name) == (layer, "conv_general_dilated"):
            operands = [operands[0], operands[1] * np.float32(1.01)]
        return emit(last, where, name, equation, operands)

    monkeypatch.setattr(tensorflow, "emit_operations", emit_wrongly)
    with pytest.raises(UserError, match=f"{layer} is the first layer that"):
        export_weights(WEIGHTS, Request("litert", tmp_path))
    assert list(tmp_path.iterdir()) == []
