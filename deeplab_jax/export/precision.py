"""Files of fewer bits: their labels, time and score beside ours and float32's, in one run."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from deeplab_jax.config import Config
from deeplab_jax.errors import UserError
from deeplab_jax.export.prediction import Prediction
from deeplab_jax.export.proof import SAME_LABELS, Run, compile_ours
from deeplab_jax.inference.evaluate import Evaluator
from deeplab_jax.inference.results import open_split
from deeplab_jax.parallel.mesh import device_mesh, place

Bits = Literal["float32", "float16", "int8"]
# The least share of pixels with our label, of all images and of the worst one; else --force.
LEAST: dict[Bits, tuple[float, float]] = {"float16": (SAME_LABELS, 0.90), "int8": (0.98, 0.90)}


class Candidate(NamedTuple):
    """A file, such as "onnx, int8", as its own runtime runs it."""

    name: str
    run: Run
    megabytes: float


class Row(NamedTuple):
    """What was measured of a candidate; the first is our prediction in float32, by XLA."""

    name: str
    same: float
    """Share of pixels with our label, over all images; and in the worst of them."""
    worst: float
    seconds: float
    """Of an image, the median."""
    megabytes: float
    """Of the file; nan where there is none."""
    miou: float | None = None

    def __str__(self) -> str:
        return (
            f"{self.name}: {100 * self.same:.2f} % of labels the same, {100 * self.worst:.2f} % in"
            f" the worst image; {self.seconds:.3f} s an image; {self.megabytes:.1f} MB"
        )


def measure(
    candidates: Sequence[Candidate],
    prediction: Prediction,
    images: Sequence[np.ndarray],
    labelled: Config | None = None,
) -> list[Row]:
    """Our prediction in float32 and candidates, image by image in turns.

    `labelled`: the evaluation by which ours and the last candidate are scored.
    """
    ours = Candidate("ours, float32", compile_ours(prediction), float("nan"))
    everyone = [ours, *candidates]
    for candidate in everyone:
        candidate.run(images[0])  # compiles
    times, same = np.zeros((2, len(everyone), len(images)))
    for j, image in enumerate(images):
        labels = list[np.ndarray]()
        for i, candidate in enumerate(everyone):
            start = time.monotonic()
            output = candidate.run(image)[1]
            times[i, j] = time.monotonic() - start
            labels.append(labels_of(output))
            same[i, j] = np.mean(labels[i] == labels[0])
    miou: list[float | None] = [None] * len(everyone)
    if labelled is not None:
        miou[0], miou[-1] = (score(run, prediction, labelled) for run in (None, candidates[-1].run))
    names, _, sizes = zip(*everyone, strict=True)
    found = names, same.mean(axis=1), same.min(axis=1), np.median(times, axis=1), sizes, miou
    return [Row(*row) for row in zip(*found, strict=True)]


def labels_of(output: np.ndarray) -> np.ndarray:
    """The labels [b, h, w] of an output, which may be scores [b, h, w, classes]."""
    return output if output.ndim == 3 else output.argmax(-1).astype(np.uint8)


def score(run: Run | None, prediction: Prediction, config: Config) -> float:
    """The mIoU of a file, or ours for None, on the labelled images of `config`.

    It has the network and task of the prediction's weights (`results.on_data`).

    Raises:
      UserError: the data cannot be read, or have images that the file's one size does not take.
    """
    size, weights = prediction.size, prediction.weights
    if size is not None:
        config = dataclasses.replace(config, task=dataclasses.replace(config.task, eval_size=size))
    mesh = device_mesh((1, 1, 1), jax.devices()[:1])

    def find_labels(variables: Any, image: Array) -> np.ndarray:
        if size not in (None, image.shape[1:3]):
            have = "the labelled images do not all fit into the file's size"
            raise UserError(f"--data: {have}; --task.resize=fit scales them")
        return labels_of(run(np.asarray(image))[1]) if run else np.empty(0)

    source = open_split(weights, config, "the network")
    evaluator = Evaluator(config, source, mesh, runtime=find_labels if run else "xla")
    return float(evaluator(place(weights.variables, mesh)).scores.miou)


def check(row: Row, bits: Bits, force: bool) -> None:
    """Raise UserError where float16 or int8 changes too many labels, unless forced."""
    least, worst = LEAST[bits]
    if not (row.same >= least and row.worst >= worst) and not force:
        raise UserError(
            f"{row.name} has our label in {100 * row.same:.2f} % of pixels, in"
            f" {100 * row.worst:.2f} % of the worst image's, below {100 * least:g} % or"
            f" {100 * worst:g} %: leave it in float32, or take it with --force"
        )


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as a table; times also beside ours."""
    header = ("", "same labels", "worst image", "s an image", "beside ours", "MB", "mIoU")
    lines = [header]
    for row in rows:
        lines.append(
            (
                row.name,
                f"{100 * row.same:.2f} %",
                f"{100 * row.worst:.2f} %",
                f"{row.seconds:.3f}",
                f"{row.seconds / rows[0].seconds:.2f}",
                "" if math.isnan(row.megabytes) else f"{row.megabytes:.1f}",
                "" if row.miou is None else f"{100 * row.miou:.2f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )
