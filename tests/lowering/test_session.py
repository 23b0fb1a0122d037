"""onnxruntime in place of XLA: the same predictions and scores."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_UNET
from synthetic import patches, random_variables, square_image

from deeplab_jax import Config, EvalConfig, UserError
from deeplab_jax.config import TaskConfig
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.inference.step import compile_eval_step
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.weights.files import Weights

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"pip install {package}")

MODEL = replace(TINY_MODEL, backbone="resnet_v1_18")
TASK = TaskConfig(classes=("a", "b", "c"))
WEIGHTS, UNET = (Weights(m, TASK, random_variables(m)) for m in (MODEL, TINY_UNET))


@pytest.mark.parametrize("protocol", [EvalConfig(), EvalConfig(flip=True)], ids=["once", "flip"])
def test_predictions_are_those_of_xla(protocol: EvalConfig) -> None:
    image, _ = square_image(0)
    ours = Predictor(WEIGHTS, protocol).predict(image, probabilities=True)
    other = Predictor(WEIGHTS, protocol, runtime="onnxruntime")
    np.testing.assert_allclose(other.predict(image, probabilities=True), ours, atol=1e-3)
    assert np.mean(other.predict(image) == ours.argmax(-1)) > 0.999
    assert other.predict(image[:30, :20]).shape == (30, 20)  # another input size


def test_so_are_counts() -> None:
    config, mesh = Config(model=TINY_UNET), device_mesh((1, 1, 1), jax.devices()[:1])
    batch = patches((65, 65))
    counts = [
        np.asarray(compile_eval_step(config, mesh, 255, runtime)(UNET.variables, batch)[0][0])
        for runtime in ("xla", "onnxruntime")
    ]
    assert counts[0].sum() == counts[1].sum() == 8 * 65 * 65
    assert np.abs(counts[0] - counts[1]).sum() < 20


def test_what_it_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"eval.window"):
        Predictor(WEIGHTS, EvalConfig(window=(33, 33)), runtime="onnxruntime")
    with pytest.raises(UserError, match="one CPU"):
        Predictor(WEIGHTS, space=2, runtime="onnxruntime")
    with pytest.raises(UserError, match="runtime = 'tensorrt'"):
        Predictor(WEIGHTS, runtime="tensorrt")
