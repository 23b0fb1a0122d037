"""Evaluation of a whole split, and what is written of it."""

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
from deeplab_jax.metrics import Scores, scores
from deeplab_jax.models import mean_pixel
from deeplab_jax.progress import Ticker
from deeplab_jax.sharding import check_batch_size, place_batch
from deeplab_jax.step import Batch, compile_eval_step

EvalStep = Callable[[Any, Batch], tuple[Array, Array]]


class Evaluation(NamedTuple):
    """confusion int64 [c c]; some predictions u8 [h w] by index, at the pictures' own sizes.

    With `one_label` a picture counts as one pixel, and a prediction is u16 [1 1].
    """

    confusion: np.ndarray
    predictions: dict[int, np.ndarray]
    seconds: float
    one_label: bool

    @property
    def scores(self) -> Scores:
        """The measures that follow from the counts."""
        return scores(self.confusion)

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
        c, n = self.config, len(self.source)
        start, size = time.monotonic(), c.eval.batch_size
        batches = eval_batches(
            self.source,
            c.data,
            batch_size=size,
            input_size=self.input_size,
            host=jax.process_index(),
            hosts=jax.process_count(),
            fill=mean_pixel(c.model.backbone),
        )
        total = np.zeros((c.model.num_classes,) * 2, np.int64)
        predictions: dict[int, np.ndarray] = {}
        with Ticker("evaluate", n, unit="picture") as ticker:
            for i, batch in enumerate(batches):
                counts, labels = self.step(variables, place_batch(batch, self.mesh))
                total += np.asarray(counts)
                for index in self.shown & set(range(i * size, (i + 1) * size)):
                    h, w = batch["size"][index - i * size]
                    predictions[index] = np.asarray(labels[index - i * size])[:h, :w]
                ticker.tick(min((i + 1) * size, n))
        return Evaluation(total, predictions, time.monotonic() - start, c.data.one_label)


def summary(result: Evaluation) -> dict[str, float]:
    """The numbers of an evaluation as they stand in metrics.jsonl."""
    return {
        "eval/miou": result.scores.miou,
        "eval/pixel_accuracy": result.scores.pixel_accuracy,
    }


def write_evaluation(result: Evaluation, source: Source, directory: Path) -> str:
    """Write evaluation.json, per_class.txt, per_class.png and predictions.png; return the table.

    A classifier has no per_class.png, and of its table, a thousand lines, only the means return.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table = pictures.class_table(result.confusion, source.class_names)
    (directory / "per_class.txt").write_text(table + "\n")
    numbers = {
        **summary(result),
        "iou": {
            name: None if np.isnan(x) else float(x)
            for name, x in zip(source.class_names, result.scores.iou, strict=True)
        },
        "pictures": len(source),
        "seconds": result.seconds,
        "confusion": result.confusion.tolist(),
    }
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
    return table
