"""Evaluation of a whole split, and what is written of it."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from deeplab_jax import pictures
from deeplab_jax.config import Config
from deeplab_jax.data.decode import decode_image
from deeplab_jax.data.pipeline import eval_batches, network_size
from deeplab_jax.data.sources import Source
from deeplab_jax.metrics import Counts, Scores, boundary_iou, mean_of_defined, scores
from deeplab_jax.models import mean_pixel
from deeplab_jax.progress import Ticker
from deeplab_jax.sharding import check_batch_size, place_batch
from deeplab_jax.step import Batch, compile_eval_step

EvalStep = Callable[[Any, Batch], tuple[Counts, Array]]


class Evaluation(NamedTuple):
    """What was counted over a split, int64, and how; c classes, n pictures.

    confusion [c c]; trimaps: width -> the same within so many pixels of a boundary; boundary
    [c+1 c+1], as in `Counts`, or None; pictures [n 2]: correct and counted pixels of each;
    predictions: some, by index, u8 [h w] at the pictures' own sizes. seconds_per_picture leaves out
    the first batch, which may compile, where there are more.

    With `one_label` a picture counts as one pixel, and a prediction is u16 [1 1].
    """

    config: Config
    confusion: np.ndarray
    trimaps: dict[int, np.ndarray]
    boundary: np.ndarray | None
    pictures: np.ndarray
    predictions: dict[int, np.ndarray]
    seconds: float
    seconds_per_picture: float

    @property
    def one_label(self) -> bool:
        """Whether a classifier was evaluated."""
        return self.config.data.one_label

    @property
    def scores(self) -> Scores:
        """The measures that follow from the confusion matrix."""
        return scores(self.confusion)

    @property
    def trimap_miou(self) -> dict[int, float]:
        """mIoU within each width of a boundary."""
        return {width: scores(counts).miou for width, counts in self.trimaps.items()}

    @property
    def boundary_iou(self) -> np.ndarray | None:
        """Boundary IoU of each class f64 [c], nan for an absent one; None: not measured."""
        return None if self.boundary is None else boundary_iou(self.boundary)

    @property
    def picture_accuracy(self) -> np.ndarray:
        """Share of each picture's counted pixels that is right f64 [n]; nan where none counts."""
        with np.errstate(invalid="ignore"):
            return self.pictures[:, 0] / self.pictures[:, 1]

    @property
    def headline(self) -> str:
        """The scores in a line."""
        s = self.scores
        accuracy = f"accuracy {100 * s.pixel_accuracy:.2f} %"
        return accuracy if self.one_label else f"mIoU {100 * s.miou:.2f} %, pixel {accuracy}"


class Evaluator:
    """A split, ready to be evaluated again and again with one compiled program."""

    def __init__(self, config: Config, source: Source, mesh: Mesh) -> None:
        check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
        self.config, self.source, self.mesh = config, source, mesh
        self.input_size = network_size(config.data, source, config.model.output_stride)
        self.step: EvalStep = compile_eval_step(config, mesh, source.ignore_label)
        # Spread evenly: neighbours are often frames of one film. One host shows what it evaluated.
        spread = np.linspace(0, len(source) - 1, min(config.eval.pictures, len(source)))
        self.shown = set(spread.astype(int).tolist()) if jax.process_count() == 1 else set()

    def __call__(self, variables: Any) -> Evaluation:
        """Evaluate variables (replicated over the mesh) at the pictures' original resolution."""
        c, n, size = self.config, len(self.source), self.config.eval.batch_size
        hosts = jax.process_count()
        batches = eval_batches(
            self.source,
            c.data,
            batch_size=size,
            input_size=self.input_size,
            host=jax.process_index(),
            hosts=hosts,
            fill=mean_pixel(c.model.backbone),
        )
        sums: Any = None
        each: list[np.ndarray] = []
        predictions: dict[int, np.ndarray] = {}
        ends = [time.monotonic()]
        with Ticker("evaluate", n, unit="picture") as ticker:
            for i, batch in enumerate(batches):
                counts, labels = self.step(variables, place_batch(batch, self.mesh))
                *new, right = jax.tree.map(lambda x: np.asarray(x, np.int64), counts)
                sums = new if sums is None else jax.tree.map(np.add, sums, new)
                # A host has every hosts-th picture, but its own stand together in the batch.
                each += list(right.reshape(hosts, -1, 2).swapaxes(0, 1).reshape(-1, 2))
                for index in self.shown & set(range(i * size, (i + 1) * size)):
                    h, w = batch["size"][index - i * size]
                    predictions[index] = np.asarray(labels[index - i * size])[:h, :w]
                ends.append(time.monotonic())
                ticker.tick(min((i + 1) * size, n))
        confusion, trimaps, boundary = sums
        return Evaluation(
            c,
            confusion,
            dict(zip(c.eval.trimap_widths, trimaps, strict=True)),
            boundary,
            np.array(each[:n]),
            predictions,
            ends[-1] - ends[0],
            (ends[-1] - ends[1]) / (n - size) if n > size else (ends[-1] - ends[0]) / n,
        )


def summary(result: Evaluation) -> dict[str, float]:
    """The numbers of an evaluation as they stand in metrics.jsonl."""
    s, boundary = result.scores, result.boundary_iou
    numbers = {
        "eval/miou": s.miou,
        "eval/pixel_accuracy": s.pixel_accuracy,
        "eval/mean_accuracy": s.mean_accuracy,
        "eval/frequency_weighted_iou": s.frequency_weighted_iou,
    }
    if boundary is not None:
        numbers["eval/boundary_iou"] = mean_of_defined(boundary)
    return numbers | {f"eval/trimap_{w}_miou": x for w, x in result.trimap_miou.items()}


def protocol(config: Config) -> dict[str, Any]:
    """How an evaluation is made, as it stands in evaluation.json."""
    return {"output_stride": config.model.output_stride, **dataclasses.asdict(config.eval)}


def to_json(result: Evaluation, class_names: tuple[str, ...]) -> dict[str, Any]:
    """An evaluation, but for its predictions, as JSON-ready dictionaries; null: undefined."""

    def defined(x: float) -> float | None:
        return None if np.isnan(x) else float(x)

    def by_class(values: np.ndarray) -> dict[str, float | None]:
        return {name: defined(x) for name, x in zip(class_names, values, strict=True)}

    c = result.config
    boundary: dict[str, Any] = {}
    if result.boundary is not None:
        hits = result.boundary.diagonal()
        union = result.boundary.sum(0) + result.boundary.sum(1) - hits
        boundary = {
            "iou": by_class(boundary_iou(result.boundary)),
            "intersection": hits[:-1].tolist(),
            "union": union[:-1].tolist(),
        }
    return {
        **{name: defined(x) for name, x in summary(result).items()},
        "protocol": protocol(c),
        "iou": by_class(result.scores.iou),
        "accuracy": by_class(result.scores.accuracy),
        "boundary": boundary,
        "trimaps": {
            width: {"miou": defined(scores(m).miou), "confusion": m.tolist()}
            for width, m in result.trimaps.items()
        },
        "confusion": result.confusion.tolist(),
        "picture_accuracy": [defined(x) for x in result.picture_accuracy],
        "pictures": len(result.pictures),
        "seconds": result.seconds,
        "seconds_per_picture": result.seconds_per_picture,
    }


def measures(result: Evaluation) -> str:
    """The measures beside the table of classes, a line each."""
    s, boundary, c = result.scores, result.boundary_iou, result.config.eval
    lines = [
        f"mean accuracy {100 * s.mean_accuracy:.2f} %,"
        f" frequency-weighted IoU {100 * s.frequency_weighted_iou:.2f} %"
    ]
    if boundary is not None:
        share = f"boundaries of {100 * c.boundary:g} % of the diagonal"
        lines.append(f"boundary IoU {100 * mean_of_defined(boundary):.2f} % ({share})")
    if result.trimaps:
        bands = [f"{100 * x:.2f} % ({width} px)" for width, x in result.trimap_miou.items()]
        lines.append(f"mIoU near boundaries {', '.join(bands)}")
    return "\n".join(lines)


def write_evaluation(result: Evaluation, source: Source, directory: Path) -> str:
    """Write evaluation.json, per_class.txt, per_class.png and predictions.png; return the table.

    A classifier has no per_class.png, and of its table, a thousand lines, only the means return.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table = pictures.class_table(result.confusion, source.class_names)
    (directory / "per_class.txt").write_text(table + "\n")
    numbers = to_json(result, source.class_names)
    (directory / "evaluation.json").write_text(json.dumps(numbers) + "\n")
    shown = [source[i] for i in sorted(result.predictions)]
    images = [decode_image(e["image"], e["id"]) for e in shown]
    labels = [e["label"] for e in shown]
    predictions = [result.predictions[i] for i in sorted(result.predictions)]
    if result.one_label:
        names = [[source.class_names[x.item()] for x in row] for row in (predictions, labels)]
        titles = [f"{p}, truly {t}" for p, t in zip(*names, strict=True)]
        pictures.contact_sheet(images, titles).save(directory / "predictions.png")
        header, *_, means = table.splitlines()
        return f"{header}\n{means}"
    pictures.class_bars(
        result.confusion, source.class_names, source.colors, directory / "per_class.png"
    )
    sheet = pictures.comparison(
        images,
        labels,
        predictions,
        [e["id"] for e in shown],
        source.colors,
        source.class_names,
        source.ignore_label,
    )
    sheet.save(directory / "predictions.png")
    return f"{table}\n\n{measures(result)}"
