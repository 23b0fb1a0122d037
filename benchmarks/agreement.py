"""Every head on three backbones at full width in every format: agreement with ours, time, size.

    pip install onnx onnxruntime openvino flatbuffers tensorflow-cpu ai-edge-litert
    python -m benchmarks.agreement [--size 257] [--backbones mobilenet_v2 ...] [--formats onnx ...]

Each file is written and compared as `deeplab export` does, on two images of *scenes*: the largest
difference in parts of the largest logit, the time of an image beside ours, MB. Weights are random,
of He's deviations, with BatchNorm as after training, which makes rounding grow more than trained
weights do: `lax` is our own network by XLA with its convolutions in the plain form, so that sums
have another order and nothing else.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import numpy as np

from benchmarks.peers import lax_convolutions
from deeplab_jax import ModelConfig, TaskConfig
from deeplab_jax.config.cell import Branch
from deeplab_jax.export import proof
from deeplab_jax.export.artefact import ENDINGS, PACKAGES, WRITERS
from deeplab_jax.export.prediction import Prediction
from deeplab_jax.lowering.session import check_installed
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.weights.files import Weights

BACKBONES = ("xception_65", "resnet_v1_50", "mobilenet_v2")
CELL = (Branch("conv", -1, (1, 1)), Branch("conv", 0, (3, 3), (1, 6)), Branch("pyramid_pooling"))
HEADS: dict[str, dict[str, Any]] = {
    "deeplabv3plus": {},
    "deeplabv3": {"head": "deeplabv3"},
    "deeplabv2": {"head": "deeplabv3", "aspp_form": "deeplabv2", "logits_kernel": 3},
    "cell": {"head": "deeplabv3", "dense_prediction_cell": CELL},
    "pspnet": {"head": "pspnet"},
    "unet": {"head": "unet"},
    "classifier": {"head": "classifier"},
}
FORMATS = ("onnx", "litert", "stablehlo", "openvino")
BATCH_NORM = {"scale": (0.5, 1.5), "var": (0.5, 1.5), "bias": (-0.2, 0.5), "mean": (-0.2, 0.5)}


def make_weights(model: ModelConfig, size: tuple[int, int]) -> Weights:
    """Random weights, with BatchNorm as after training."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, x: np.ndarray) -> np.ndarray:
        if path[-1].key in BATCH_NORM:
            return rng.uniform(*BATCH_NORM[path[-1].key], x.shape).astype(np.float32)
        fan_in = np.prod(x.shape[:2]) if x.shape[-2] == 1 else np.prod(x.shape[:-1])
        return rng.normal(0, np.sqrt(2 / fan_in), x.shape).astype(np.float32)

    names = tuple(f"class {i}" for i in range(model.classes))
    variables = jax.tree.map_with_path(leaf, abstract_variables(model))
    return Weights(model, TaskConfig(classes=names, eval_size=size), variables)


def agreement(form: str, weights: Weights) -> str:
    """The largest difference of the logits, in parts of the largest; a file's time and size too."""
    prediction = Prediction(weights, "labels", weights.task.eval_size)
    images, _ = proof.read_images(prediction, None)
    if form == "lax":
        ours = logits_of(prediction, images)
        with lax_convolutions():
            return f"{np.abs(logits_of(prediction, images) - ours).max() / np.abs(ours).max():.1e}"
    with tempfile.TemporaryDirectory() as folder, patch.object(proof, "TOLERANCE", 1.0):
        file = Path(folder) / f"model.{ENDINGS.get(form, 'onnx')}"
        found = WRITERS[form](file, prediction, images)
    labels = f"{100 * found.same:.2f} %"  # all that some formats can be asked for
    close = f"{found.difference:.1e}" if found.difference else labels
    return f"{close}; {found.seconds / found.our_seconds:.2f}; {found.megabytes:.1f}"


def logits_of(prediction: Prediction, images: list[np.ndarray]) -> np.ndarray:
    """Our network's, image by image."""
    run = proof.compile_ours(prediction)
    return np.stack([np.asarray(run(image)[0]) for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=257)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    args = parser.parse_args()
    for form in args.formats:
        check_installed(*PACKAGES[form])
    print("| head | backbone | lax | " + " | ".join(args.formats) + " |")
    print("|---" * (3 + len(args.formats)) + "|")
    for head, options in HEADS.items():
        for backbone in args.backbones:
            model = ModelConfig(backbone=backbone, num_classes=21, **options)
            weights = make_weights(model, (args.size, args.size))
            row = [agreement(form, weights) for form in ("lax", *args.formats)]
            print(f"| {head} | {backbone} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
