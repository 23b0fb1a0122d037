"""Every format and precision of `deeplab export` beside ours in float32, on labelled images.

    pip install onnx onnxruntime openvino flatbuffers tensorflow-cpu ai-edge-litert
    python -m benchmarks.formats WEIGHTS ... --root PATH/VOCdevkit [--images N]

The images are those of VOC's val that are there, and int8 is calibrated on 16 of its train. They
are brought to `task.eval_size`, which the weights need; the files take turns at each. Labels are
compared without the padding, and mIoU is counted as `evaluate` does, at the images' own sizes. What
is not installed is left out.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deeplab_jax import build_model
from deeplab_jax.arguments import read_config
from deeplab_jax.config import Config
from deeplab_jax.data.batches import eval_batches, for_device, plan_evaluation
from deeplab_jax.data.settle import open_data
from deeplab_jax.data.source import Source
from deeplab_jax.export.precision import Candidate, Row, format_rows
from deeplab_jax.export.prediction import Prediction
from deeplab_jax.export.proof import MOST_IMAGES, compile_ours
from deeplab_jax.inference.metrics import scores
from deeplab_jax.inference.results import on_data
from deeplab_jax.inference.step import ONE_VIEW, count_labels
from deeplab_jax.models import mean_pixel
from deeplab_jax.weights.files import Weights, load_weights

Images = Sequence[np.ndarray]


def read_split(source: Source, config: Config, count: int) -> Iterator[dict[str, np.ndarray]]:
    """So many images, evenly spaced, one to a batch, as `evaluate` has them."""
    only = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int))
    task, plan = config.task, partial(plan_evaluation, source, config.model, config.task)
    rows = plan(batch_size=1, only=only.tolist())
    return eval_batches(source, task, rows, fill=mean_pixel(config.model))


def onnx_files(prediction: Prediction, calibration: Images, folder: Path) -> list[Candidate]:
    from deeplab_jax.export import int8, onnx_file

    whole, half = (
        onnx_file.lower_prediction(p).model for p in (prediction, prediction._replace(half=True))
    )
    models = {"float32": whole, "float16": half, "int8": int8.quantise(whole, calibration)}
    return [onnx_file.candidate(f"onnx, {bits}", model) for bits, model in models.items()]


def openvino_files(prediction: Prediction, calibration: Images, folder: Path) -> list[Candidate]:
    from deeplab_jax.export import openvino_file

    found = []
    for half, bits in ((False, "float32"), (True, "float16")):
        file = folder / f"{bits}.xml"
        openvino_file.write_files(file, prediction._replace(half=half))
        found.append(openvino_file.candidate(f"openvino, {bits}", file))
    return found


def litert_files(prediction: Prediction, calibration: Images, folder: Path) -> list[Candidate]:
    from deeplab_jax.export import litert

    contents = {
        "float32": litert.write_tflite(prediction),
        "float16": litert.write_tflite(prediction._replace(half=True)),
        "int8": litert.write_int8(prediction, calibration),
    }
    return [
        Candidate(f"litert, {bits}", litert.run_output(content, prediction), len(content) / 1e6)
        for bits, content in contents.items()
    ]


def stablehlo_file(prediction: Prediction, calibration: Images, folder: Path) -> list[Candidate]:
    from deeplab_jax.export import stablehlo

    file = folder / "model.stablehlo"
    file.write_bytes(stablehlo.serialize(prediction))
    run = stablehlo.run_file(file)
    return [Candidate("stablehlo, float32", run, file.stat().st_size / 1e6)]


MAKERS: tuple[Callable[[Prediction, Images, Path], list[Candidate]], ...] = (
    onnx_files,
    openvino_files,
    litert_files,
    stablehlo_file,
)


def make_candidates(weights: Weights, calibration: Images) -> list[Candidate]:
    """Ours, then each file that can be had here, in its runtime."""
    prediction = Prediction(weights, "labels", weights.task.eval_size)
    found = [Candidate("ours, float32", compile_ours(prediction), float("nan"))]
    with tempfile.TemporaryDirectory() as folder:
        for make in MAKERS:
            try:
                found += make(prediction, calibration, Path(folder))
            except ImportError as error:
                print(f"left out: {make.__name__}: {error}", flush=True)
    return found


def measure(
    candidates: Sequence[Candidate], batches: Iterator[dict[str, Any]], count: Callable[..., Any]
) -> list[Row]:
    """One row a candidate; `count` counts the labels of a batch."""
    times: list[list[float]] = []
    same: list[list[float]] = []
    confusion: Any = 0
    for batch in batches:
        (h, w), took, labels = batch["scaled"][0], list[float](), list[np.ndarray]()
        for candidate in candidates:
            if not times:
                candidate.run(batch["image"])  # compiles
            start = time.monotonic()
            labels.append(candidate.run(batch["image"])[1])
            took.append(time.monotonic() - start)
        times.append(took)
        same.append([np.mean(x[:, :h, :w] == labels[0][:, :h, :w]) for x in labels])
        counts = (count(x, for_device(batch))[0][0] for x in labels)
        confusion = confusion + np.stack([np.asarray(x, np.int64) for x in counts])
    mean, worst, seconds = np.mean(same, axis=0), np.min(same, axis=0), np.median(times, axis=0)
    return [
        Row(c.name, mean[i], worst[i], seconds[i], c.megabytes, scores(confusion[i]).miou)
        for i, c in enumerate(candidates)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", nargs="+", metavar="WEIGHTS")
    parser.add_argument("--root", required=True, metavar="VOCdevkit")
    parser.add_argument("--images", type=int, default=10**6, help="so many of them [all]")
    args = parser.parse_args()
    base = read_config("voc", [f"--machine.root={args.root}"])
    for name in args.weights:
        weights = load_weights(name)
        if weights.task.eval_size is None or weights.task.resize != "fit":
            parser.error(f"{name}: convert them with --task.resize=fit --task.eval_size H W")
        sections = {part: getattr(base, part) for part in ("data", "machine", "eval", "mesh")}
        config = on_data(weights, **sections)
        training = read_split(open_data(config, "train"), config, MOST_IMAGES)
        candidates = make_candidates(weights, [batch["image"] for batch in training])
        source = open_data(config, config.data.eval_split)
        counting = partial(count_labels, model=build_model(weights.model), protocol=ONE_VIEW)
        count = jax.jit(partial(counting, ignore_label=source.ignore_label))
        rows = measure(candidates, read_split(source, config, args.images), count)
        print(f"\n{name}: {min(args.images, len(source))} images\n{format_rows(rows)}", flush=True)


if __name__ == "__main__":
    main()
