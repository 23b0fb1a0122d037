"""Evaluation of a whole split, and what is written of it."""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from PIL import Image

from deeplab_jax import pictures
from deeplab_jax.config import Config, save_json
from deeplab_jax.data.pipeline import BadRecords, eval_batches, for_device, network_size
from deeplab_jax.data.sources import Source, image_of
from deeplab_jax.metrics import Counts, Scores, boundary_iou, mean_of_defined, scores
from deeplab_jax.models import mean_pixel
from deeplab_jax.progress import Ticker
from deeplab_jax.sharding import check_batch_size, host_share, place_batch
from deeplab_jax.step import Batch, compile_eval_step
from deeplab_jax.version import VERSION

REPORT_PIXELS = 720  # longest side of a picture in the report, of which it has twenty
EvalStep = Callable[[Any, Batch], tuple[Counts, Array]]


class Evaluation(NamedTuple):
    """What was counted over a split, int64, and how; c classes, n pictures.

    confusion [c c]; trimaps: width -> the same within so many pixels of a boundary; boundary
    [c+1 c+1], as in `Counts`, or None; pictures [n 2]: correct and counted pixels of each;
    unreadable: names of pictures that could not be read, and count nowhere;
    predictions: from the best picture to the worst, by index, u8 [h w] at the pictures' own sizes.
    seconds_per_picture leaves out the first batch, which may compile, where there are more.

    With `one_label` a picture counts as one pixel, and a prediction is u16 [1 1].
    """

    config: Config
    confusion: np.ndarray
    trimaps: dict[int, np.ndarray]
    boundary: np.ndarray | None
    pictures: np.ndarray
    unreadable: tuple[str, ...]
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
        line = accuracy if self.one_label else f"mIoU {100 * s.miou:.2f} %, pixel {accuracy}"
        left_out = len(self.unreadable)
        return f"{line}, unreadable and not counted: {left_out}" if left_out else line


class Evaluator:
    """A split, ready to be evaluated again and again with one compiled program."""

    def __init__(
        self,
        config: Config,
        source: Source,
        mesh: Mesh,
        between_batches: Callable[[], None] = lambda: None,
    ) -> None:
        check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
        self._between_batches = between_batches
        self.config, self.source, self.mesh = config, source, mesh
        self.input_size = network_size(config.data, source, config.model.output_stride)
        self.step: EvalStep = compile_eval_step(config, mesh, source.ignore_label)

    def compile(self, variables: Any) -> None:
        """Compile now, by evaluating a batch without pictures."""
        past_the_end = [len(self.source)] * self.config.eval.batch_size
        for batch in self.batches(past_the_end):
            jax.block_until_ready(self._evaluate(variables, batch))
        self._between_batches()

    def __call__(self, variables: Any) -> Evaluation:
        """Evaluate variables, put on the mesh by `place`, at the pictures' original resolution.

        Raises:
          UserError: more than `data.max_bad_records` pictures are unreadable.
        """
        c, n, size = self.config, len(self.source), self.config.eval.batch_size
        _, hosts = host_share(self.mesh)
        sums: Any = None
        each: list[np.ndarray] = []
        ends = [time.monotonic()]
        bad = BadRecords(self.source, c.data.max_bad_records)
        with Ticker("evaluate", n, unit="picture") as ticker:
            for i, batch in enumerate(self.batches()):
                self._between_batches()
                bad.note(batch)
                counts, _ = self._evaluate(variables, batch)
                *new, right = jax.tree.map(lambda x: np.asarray(x, np.int64), counts)
                sums = new if sums is None else jax.tree.map(np.add, sums, new)
                # A host has every hosts-th picture, but its own stand together in the batch.
                each += list(right.reshape(hosts, -1, 2).swapaxes(0, 1).reshape(-1, 2))
                ends.append(time.monotonic())
                ticker.tick(min((i + 1) * size, n))
        confusion, trimaps, boundary = sums
        result = Evaluation(
            c,
            confusion,
            dict(zip(c.eval.trimap_widths, trimaps, strict=True)),
            boundary,
            np.array(each[:n]),
            tuple(bad.names.values()),
            {},
            ends[-1] - ends[0],
            (ends[-1] - ends[1]) / (n - size) if n > size else (ends[-1] - ends[0]) / n,
        )
        shown = from_best_to_worst(result.picture_accuracy, c.eval.pictures)
        return result._replace(predictions=self.predict(variables, shown))

    def _evaluate(self, variables: Any, batch: dict[str, np.ndarray]) -> tuple[Counts, Array]:
        return self.step(variables, place_batch(for_device(batch), self.mesh))

    def predict(self, variables: Any, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """The predictions of a few pictures, by index, u8 [h w] at their own sizes.

        Nothing where there are several hosts, none of which has them all.
        """
        predictions: dict[int, np.ndarray] = {}
        if jax.process_count() > 1:
            return predictions
        left = iter(indices)
        for batch in self.batches(indices):
            _, labels = self._evaluate(variables, batch)
            # The batch stands first: zip must not take an index when it is at its end.
            for (h, w), label, index in zip(batch["size"], np.asarray(labels), left, strict=False):
                predictions[index] = label[:h, :w]
        return predictions

    def batches(self, only: Sequence[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
        """The split, or a few of its pictures, in batches of one shape."""
        c, (host, hosts) = self.config, host_share(self.mesh)
        return eval_batches(
            self.source,
            # A few pictures are not worth starting processes for.
            c.data if only is None else dataclasses.replace(c.data, workers=0),
            batch_size=c.eval.batch_size,
            input_size=self.input_size,
            host=host,
            hosts=hosts,
            fill=mean_pixel(c.model.backbone),
            only=only,
        )


def from_best_to_worst(accuracy: np.ndarray, count: int) -> list[int]:
    """Indices of pictures at evenly spaced ranks of their accuracy [n]; nan has no rank."""
    order = np.argsort(-accuracy, kind="stable")[: np.isfinite(accuracy).sum()]
    ranks = np.linspace(0, len(order) - 1, min(count, len(order)))
    return [int(order[round(rank)]) for rank in ranks]


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
        "classes": list(class_names),
        "environment": environment(),
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
        "unreadable": list(result.unreadable),
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


def environment() -> dict[str, str]:
    """What computes here."""
    devices = jax.devices()
    versions = {m.__name__: m.__version__ for m in (jax, flax, np)}
    return {
        "deeplab_jax": VERSION,
        **versions,
        "python": platform.python_version(),
        "system": platform.platform(),
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "host cores": str(os.cpu_count()),
    }


def write_evaluation(result: Evaluation, source: Source, directory: Path) -> str:
    """Write what `report.write_report` reads, per_class.txt and predictions.png; return the table.

    That is config.json, evaluation.json and, in `pictures`, what is shown. Of a classifier's
    table, a thousand lines, only the means return.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table = pictures.class_table(result.confusion, source.class_names)
    (directory / "per_class.txt").write_text(table + "\n")
    shown = write_pictures(result, source, directory / "pictures")
    numbers = to_json(result, source.class_names) | {"colors": source.colors, "shown": shown}
    (directory / "evaluation.json").write_text(json.dumps(numbers) + "\n")
    save_json(result.config, directory / "config.json")
    if result.predictions:
        drawn(result, source).save(directory / "predictions.png")
    if result.one_label:
        header, *_, means = table.splitlines()
        return f"{header}\n{means}"
    return f"{table}\n\n{measures(result)}"


def drawn(result: Evaluation, source: Source) -> Image.Image:
    """The predictions on one sheet."""
    shown = [source[i] for i in result.predictions]
    images = [image_of(e, e["id"]) for e in shown]
    if result.one_label:
        return pictures.contact_sheet(images, answers(result, source))
    return pictures.comparison(
        images,
        [e["label"] for e in shown],
        list(result.predictions.values()),
        [e["id"] for e in shown],
        source.colors,
        source.class_names,
        source.ignore_label,
    )


def answers(result: Evaluation, source: Source) -> list[str]:
    """A classifier's predictions in words."""
    names = source.class_names
    pairs = [(p.item(), source[i]["label"].item()) for i, p in result.predictions.items()]
    return [f"{names[p]}, truly {names[t]}" for p, t in pairs]


def write_pictures(result: Evaluation, source: Source, directory: Path) -> list[dict[str, Any]]:
    """Write each shown picture and its label maps; return what evaluation.json says of them."""
    directory.mkdir(exist_ok=True)
    captions = answers(result, source) if result.one_label else ["" for _ in result.predictions]
    shown = []
    for rank, (index, prediction) in enumerate(result.predictions.items()):
        example = source[index]
        image = image_of(example, example["id"])
        tiles = {"image": image}
        if not result.one_label:
            tiles = pictures.tiles(
                image, example["label"], prediction, source.colors, source.ignore_label
            )
        files = {}
        for what, tile in tiles.items():
            files[what] = f"{rank}_{what}.{'png' if what in ('truth', 'prediction') else 'jpg'}"
            small = pictures.fit(tile, min(REPORT_PIXELS, max(image.shape[:2])))
            small.save(directory / files[what], quality=90, subsampling=0)
        shown.append(
            {"index": index, "id": example["id"], "caption": captions[rank], "files": files}
        )
    return shown
