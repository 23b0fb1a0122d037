"""The folder of an evaluation (numbers, tables, images), and the evaluation of saved weights."""

import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from PIL import Image

from deeplab_jax.config import Config, DataConfig, EvalConfig, MachineConfig, MeshConfig, save_json
from deeplab_jax.data.classes import match_classes
from deeplab_jax.data.settle import open_data
from deeplab_jax.data.source import Source, check_source, image_of
from deeplab_jax.files import json_text, writable_folder
from deeplab_jax.inference.evaluate import Evaluation, Evaluator
from deeplab_jax.inference.metrics import mean_of_defined, scores
from deeplab_jax.lowering.session import Runtime, check_runtime
from deeplab_jax.parallel.mesh import device_mesh, place
from deeplab_jax.reporting import figures
from deeplab_jax.reporting.report import write_report
from deeplab_jax.version import VERSION
from deeplab_jax.weights.files import Weights

REPORT_PIXELS = 720  # longest side of an image in the report, of which it has twenty


def evaluate_weights(
    weights: Weights, config: Config, out: Path, name: str, runtime: Runtime = "xla"
) -> str:
    """Evaluate weights, called `name`, on the evaluation split; write the folder `out`.

    `config` has their network and task (`on_data`). The table and the scores are returned.

    Raises:
      UserError: the data cannot be read, or have another number of classes than the weights.
    """
    writable_folder(out, "--out")
    mesh = device_mesh(config.mesh.shape)
    check_runtime(runtime, config.eval, devices=mesh.size)
    source = open_split(weights, config, name)
    result = Evaluator(config, source, mesh, runtime=runtime)(place(weights.variables, mesh))
    table = write_evaluation(result, source, out)
    return (
        f"{table}\n\n{result.headline}, {len(source)} images in {result.seconds:.0f} s"
        f" ({result.seconds_per_image:.2f} s each once compiled); report: {write_report(out)}"
    )


def open_split(weights: Weights, config: Config, name: str) -> Source:
    """The evaluation split, with the classes of weights that are called `name`.

    Raises:
      UserError: the data cannot be read, or have another number of classes.
    """
    data = open_data(config, config.data.eval_split)
    source = match_classes(data, weights.task.classes, weights.task.colors, name)
    check_source(source, config.machine.max_bad_records)
    return source


def on_data(
    weights: Weights,
    *,
    data: DataConfig,
    machine: MachineConfig,
    eval: EvalConfig,
    mesh: MeshConfig,
) -> Config:
    """The evaluation of weights on data: network and task are those of the weights.

    So no configuration of data changes how an image is brought to the network. A crop is training's
    alone, and need not suit it.
    """
    task = weights.task
    if data.source != "folder":  # a named data set has a label that it ignores, and 8 bits
        task = dataclasses.replace(task, range=None)
    data = dataclasses.replace(data, crop_size=None)
    return Config(weights.model, task, data, eval=eval, mesh=mesh, machine=machine)


def write_evaluation(result: Evaluation, source: Source, directory: Path) -> str:
    """Write the folder of an evaluation, but for the report; return the table and the measures.

    Of a classifier's table, a thousand lines, only the means are returned.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table = figures.class_table(result.confusion, source.class_names)
    (directory / "per_class.txt").write_text(table + "\n", encoding="utf-8")
    images = write_images(result, source, directory / "images")
    numbers = to_json(result, source.class_names) | {"colors": source.colors, "shown": images}
    (directory / "evaluation.json").write_text(json_text(numbers) + "\n", encoding="utf-8")
    save_json(result.config, directory / "config.json")
    if result.predictions:
        draw_predictions(result, source).save(directory / "predictions.png")
    if result.one_label:
        header, *_, means = table.splitlines()
        return f"{header}\n{means}"
    return f"{table}\n\n{format_measures(result)}"


# ---- numbers


def collect_scores(result: Evaluation) -> dict[str, float]:
    """The numbers of an evaluation as they stand in metrics.jsonl: eval/miou and so on."""
    means = {k: x for k, x in result.scores._asdict().items() if isinstance(x, float)}
    if result.boundary_iou is not None:
        means["boundary_iou"] = mean_of_defined(result.boundary_iou)
    means |= {f"trimap_{width}_miou": x for width, x in result.trimap_miou.items()}
    return {f"eval/{name}": x for name, x in means.items()}


def main_metric(one_label: bool) -> str:
    """The score by which weights are compared, as `collect_scores` names it."""
    return "eval/pixel_accuracy" if one_label else "eval/miou"


def protocol(config: Config) -> dict[str, Any]:
    """How an evaluation is made, as it stands in evaluation.json."""
    return {"output_stride": config.model.output_stride, **dataclasses.asdict(config.eval)}


def to_json(result: Evaluation, class_names: tuple[str, ...]) -> dict[str, Any]:
    """An evaluation, but for its images, in plain containers; nan where a measure is undefined."""

    def by_class(values: np.ndarray) -> dict[str, float]:
        return dict(zip(class_names, values.tolist(), strict=True))

    boundary: dict[str, Any] = {}
    if result.boundary is not None and result.boundary_iou is not None:
        hits = result.boundary.diagonal()
        union = result.boundary.sum(0) + result.boundary.sum(1) - hits
        boundary = {
            "iou": by_class(result.boundary_iou),
            "intersection": hits[:-1].tolist(),
            "union": union[:-1].tolist(),
        }
    return {
        "classes": list(class_names),
        "environment": describe_environment(),
        **collect_scores(result),
        "protocol": protocol(result.config),
        "iou": by_class(result.scores.iou),
        "accuracy": by_class(result.scores.accuracy),
        "boundary": boundary,
        "trimaps": {
            width: {"miou": scores(counts).miou, "confusion": counts.tolist()}
            for width, counts in result.trimaps.items()
        },
        "confusion": result.confusion.tolist(),
        "image_accuracy": result.image_accuracy.tolist(),
        "images": len(result.images),
        "unreadable": list(result.unreadable),
        "seconds": result.seconds,
        "seconds_per_image": result.seconds_per_image,
    }


def format_measures(result: Evaluation) -> str:
    """The measures that are not in the table of classes, a line each."""
    s, boundary = result.scores, result.boundary_iou
    lines = [
        f"mean accuracy {100 * s.mean_accuracy:.2f} %,"
        f" frequency-weighted IoU {100 * s.frequency_weighted_iou:.2f} %"
    ]
    if boundary is not None:
        width = f"boundaries of {100 * result.config.eval.boundary:g} % of the diagonal"
        lines.append(f"boundary IoU {100 * mean_of_defined(boundary):.2f} % ({width})")
    if result.trimaps:
        bands = [f"{100 * x:.2f} % ({width} px)" for width, x in result.trimap_miou.items()]
        lines.append(f"mIoU near boundaries {', '.join(bands)}")
    return "\n".join(lines)


def describe_environment() -> dict[str, str]:
    """Versions, system and devices of this process."""
    devices = jax.devices()
    return {
        "deeplab_jax": VERSION,
        **{m.__name__: m.__version__ for m in (jax, flax, np)},
        "python": platform.python_version(),
        "system": platform.platform(),
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "host cores": str(os.cpu_count()),
    }


# ---- images


def caption_predictions(result: Evaluation, source: Source) -> list[str]:
    """A classifier's predictions in words; those of other networks need none."""
    if not result.one_label:
        return [""] * len(result.predictions)
    names = source.class_names
    pairs = [(p.item(), source[i]["label"].item()) for i, p in result.predictions.items()]
    return [f"{names[p]}, truly {names[t]}" for p, t in pairs]


def draw_predictions(result: Evaluation, source: Source) -> Image.Image:
    """The predictions on one sheet, from the best image to the worst."""
    examples = [source[index] for index in result.predictions]
    images = [image_of(e, e["id"]) for e in examples]
    if result.one_label:
        return figures.contact_sheet(images, caption_predictions(result, source))
    return figures.comparison(
        images,
        [e["label"] for e in examples],
        [*result.predictions.values()],
        [e["id"] for e in examples],
        source.colors,
        source.class_names,
        source.ignore_label,
    )


def write_images(result: Evaluation, source: Source, directory: Path) -> list[dict[str, Any]]:
    """Write the shown images one by one; return what evaluation.json says of them."""
    directory.mkdir(exist_ok=True)
    captions, rows = caption_predictions(result, source), []
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
        row = {"index": index, "id": example["id"], "caption": captions[rank], "files": files}
        rows.append(row)
    return rows
