"""Evaluation of a whole split, and what is written of it."""

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from PIL import Image

from deeplab_jax.config import Config, DataConfig, EvalConfig, MachineConfig, MeshConfig, save_json
from deeplab_jax.data.batches import BadRecords, Row, eval_batches, for_device, plan_evaluation
from deeplab_jax.data.classes import match_classes
from deeplab_jax.data.settle import open_data
from deeplab_jax.data.source import Source, check_source, image_of
from deeplab_jax.files import json_text, writable_folder
from deeplab_jax.inference.metrics import Counts, Scores, boundary_iou, mean_of_defined, scores
from deeplab_jax.inference.step import Batch, compile_eval_step
from deeplab_jax.models import mean_pixel
from deeplab_jax.parallel.mesh import (
    batch_shares,
    check_batch_size,
    device_mesh,
    host_share,
    place,
    place_batch,
)
from deeplab_jax.progress import Ticker
from deeplab_jax.reporting import figures
from deeplab_jax.reporting.report import write_report
from deeplab_jax.version import VERSION
from deeplab_jax.weights.files import Weights

REPORT_PIXELS = 720  # longest side of an image in the report, of which it has twenty
MANY_SIZES = 8  # of a split's images: a program is compiled for each
EvalStep = Callable[[Any, Batch], tuple[Counts, Array]]


class Evaluation(NamedTuple):
    """What was counted over a split, int64, and how; c classes, n images.

    confusion [c c]; trimaps: width -> the same within so many pixels of a boundary; boundary
    [c+1 c+1], as in `Counts`, or None; images [n 2]: correct and counted pixels of each;
    unreadable: names of images that could not be read, and count nowhere;
    predictions: from the best image to the worst, by index, u8 [h w] at the images' own sizes.
    seconds_per_image leaves out the first batch, which may compile, where there are more.

    With `one_label` an image counts as one pixel, and a prediction is u16 [1 1].
    """

    config: Config
    confusion: np.ndarray
    trimaps: dict[int, np.ndarray]
    boundary: np.ndarray | None
    images: np.ndarray
    unreadable: tuple[str, ...]
    predictions: dict[int, np.ndarray]
    seconds: float
    seconds_per_image: float

    @property
    def one_label(self) -> bool:
        """Whether a classifier was evaluated."""
        return self.config.model.head == "classifier"

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
    def image_accuracy(self) -> np.ndarray:
        """Share of each image's counted pixels that is right f64 [n]; nan where none counts."""
        with np.errstate(invalid="ignore"):
            return self.images[:, 0] / self.images[:, 1]

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
        self.step: EvalStep = compile_eval_step(config, mesh, source.ignore_label)
        self.plan = self._plan()
        if (n := len({batch[0].input_size for batch in self.plan})) > MANY_SIZES:
            print(
                f"the images have {n} sizes, and a program is compiled for each; --task.eval_size H"
                " W pads all to one, as training's padding does",
                file=sys.stderr,
            )

    def _plan(self, only: Sequence[int] | None = None) -> list[list[Row]]:
        return plan_evaluation(
            self.source,
            self.config.model,
            self.config.task,
            batch_size=self.config.eval.batch_size,
            shares=batch_shares(self.mesh),
            only=only,
        )

    def compile(self, variables: Any) -> None:
        """Compile the program of the first batch now, by evaluating one without images."""
        past_the_end = [row._replace(record=len(self.source)) for row in self.plan[0]]
        for batch in self._read([past_the_end], workers=0):
            jax.block_until_ready(self._evaluate(variables, batch))
        self._between_batches()

    def __call__(self, variables: Any) -> Evaluation:
        """Evaluate variables, put on the mesh by `place`, at the images' original resolution.

        Raises:
          UserError: more than `machine.max_bad_records` images are unreadable.
        """
        c, n = self.config, len(self.source)
        sums: Any = None
        each = np.zeros((n + 1, 2), np.int64)  # the last one of rows past the end
        start, ends, done = time.monotonic(), [], 0
        bad = BadRecords(self.source, c.machine.max_bad_records)
        batches = self._read(self.plan, c.machine.workers)
        with Ticker("evaluate", n, unit="image") as ticker:
            for rows, batch in zip(self.plan, batches, strict=True):
                self._between_batches()
                bad.note(batch)
                counts, _ = self._evaluate(variables, batch)
                *new, right = jax.tree.map(lambda x: np.asarray(x, np.int64), counts)
                sums = new if sums is None else jax.tree.map(np.add, sums, new)
                each[self._as_on_devices([row.record for row in rows])] = right
                ends.append(time.monotonic())
                done += sum(row.record < n for row in rows)
                ticker.tick(done)
        confusion, trimaps, boundary = sums
        result = Evaluation(
            c,
            confusion,
            dict(zip(c.eval.trimap_widths, trimaps, strict=True)),
            boundary,
            each[:n],
            tuple(bad.names.values()),
            {},
            ends[-1] - start,
            self._seconds_per_image(np.diff([start, *ends])),
        )
        shown = from_best_to_worst(result.image_accuracy, c.eval.images)
        return result._replace(predictions=self.predict(variables, shown))

    def _as_on_devices(self, rows: list[int]) -> list[int]:
        """A batch's rows in their order on the devices, where every hosts-th stand together."""
        _, hosts = host_share(self.mesh)
        return [row for host in range(hosts) for row in rows[host::hosts]]

    def _seconds_per_image(self, seconds: np.ndarray) -> float:
        """Without the first batch of each size, which may compile, where there are more."""
        n = len(self.source)
        sizes = [batch[0].input_size for batch in self.plan]
        later = [i for i, size in enumerate(sizes) if size in sizes[:i]] or range(len(sizes))
        return sum(seconds[i] for i in later) / sum(
            r.record < n for i in later for r in self.plan[i]
        )

    def _evaluate(self, variables: Any, batch: dict[str, np.ndarray]) -> tuple[Counts, Array]:
        return self.step(variables, place_batch(for_device(batch), self.mesh))

    def predict(self, variables: Any, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """The predictions of a few images, by index, u8 [h w] at their own sizes.

        Nothing where there are several hosts, none of which has them all.
        """
        predictions: dict[int, np.ndarray] = {}
        if jax.process_count() > 1:
            return predictions
        plan = self._plan(indices)
        # A few images are not worth starting processes for.
        for rows, batch in zip(plan, self._read(plan, workers=0), strict=True):
            _, labels = self._evaluate(variables, batch)
            for row, (h, w), label in zip(rows, batch["size"], np.asarray(labels), strict=True):
                if row.record < len(self.source):
                    predictions[row.record] = label[:h, :w]
        return {index: predictions[index] for index in indices}

    def _read(self, plan: list[list[Row]], workers: int) -> Iterator[dict[str, np.ndarray]]:
        c, (host, hosts) = self.config, host_share(self.mesh)
        return eval_batches(
            self.source,
            c.task,
            plan,
            workers=workers,
            host=host,
            hosts=hosts,
            fill=mean_pixel(c.model.backbone),
        )


def from_best_to_worst(accuracy: np.ndarray, count: int) -> list[int]:
    """Indices of images at evenly spaced ranks of their accuracy [n]; nan has no rank."""
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
        "image_accuracy": [defined(x) for x in result.image_accuracy],
        "images": len(result.images),
        "unreadable": list(result.unreadable),
        "seconds": result.seconds,
        "seconds_per_image": result.seconds_per_image,
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

    That is config.json, evaluation.json and, in `images`, what is shown. Of a classifier's
    table, a thousand lines, only the means return.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table = figures.class_table(result.confusion, source.class_names)
    (directory / "per_class.txt").write_text(table + "\n", encoding="utf-8")
    shown = write_images(result, source, directory / "images")
    numbers = to_json(result, source.class_names) | {"colors": source.colors, "shown": shown}
    (directory / "evaluation.json").write_text(json_text(numbers) + "\n", encoding="utf-8")
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
        return figures.contact_sheet(images, answers(result, source))
    return figures.comparison(
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


def write_images(result: Evaluation, source: Source, directory: Path) -> list[dict[str, Any]]:
    """Write each shown image and its label maps; return what evaluation.json says of them."""
    directory.mkdir(exist_ok=True)
    captions = answers(result, source) if result.one_label else ["" for _ in result.predictions]
    shown = []
    for rank, (index, prediction) in enumerate(result.predictions.items()):
        example = source[index]
        image = image_of(example, example["id"])
        tiles = {"image": image}
        if not result.one_label:
            tiles = figures.tiles(
                image, example["label"], prediction, source.colors, source.ignore_label
            )
        files = {}
        for what, tile in tiles.items():
            files[what] = f"{rank}_{what}.{'png' if what in ('truth', 'prediction') else 'jpg'}"
            small = figures.fit(tile, min(REPORT_PIXELS, max(image.shape[:2])))
            small.save(directory / files[what], quality=90, subsampling=0)
        shown.append(
            {"index": index, "id": example["id"], "caption": captions[rank], "files": files}
        )
    return shown


def on_data(
    weights: Weights,
    *,
    data: DataConfig,
    machine: MachineConfig,
    eval: EvalConfig,
    mesh: MeshConfig,
) -> Config:
    """The evaluation of weights on data: network and task are those of the weights."""
    task = weights.task
    if data.source != "folder":  # others have labels and images of their own
        task = replace(task, ignore_label=None, white=None)
    return Config(weights.model, task, data, eval=eval, mesh=mesh, machine=machine)


def evaluate_weights(weights: Weights, config: Config, out: Path, name: str) -> str:
    """Evaluate weights, called `name`, on the evaluation split; write tables, images and report.

    Returns the table and the scores.

    Raises:
      UserError: the data cannot be read, or its classes are not those of the weights.
    """
    writable_folder(out, "--out")
    mesh = device_mesh(config.mesh.shape)
    found = open_data(config, config.data.eval_split)
    source = match_classes(found, weights.task.classes, weights.task.colors, name)
    check_source(source, config.machine.max_bad_records)
    result = Evaluator(config, source, mesh)(place(weights.variables, mesh))
    table = write_evaluation(result, source, out)
    return (
        f"{table}\n\n{result.headline}, {len(source)} images in {result.seconds:.0f} s"
        f" ({result.seconds_per_image:.2f} s each once compiled); report: {write_report(out)}"
    )
