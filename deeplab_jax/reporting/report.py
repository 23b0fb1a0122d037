"""`report.html`: a run, an evaluation or a study on one page that can be sent on.

The page is written from the files of its folder alone. This file computes what it shows; run.html
and study.html, beside it, say where that stands: plain HTML, CSS and inline SVG, with the images
inside. Nothing is fetched, and there is no script.
"""

import base64
import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deeplab_jax.config import Config, flatten, load_json, to_dict
from deeplab_jax.progress import duration
from deeplab_jax.reporting.figures import CREAM, RED, class_scores
from deeplab_jax.reporting.metrics_file import Rows, read_metrics
from deeplab_jax.version import VERSION

CONFUSIONS = 20  # listed where there are too many classes for a matrix
CURVES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "boundary_iou": "boundary IoU"}


class Curve(NamedTuple):
    """A line of a plot through points (x, y)."""

    label: str
    points: list[tuple[float, float]]
    faint: bool = False


def write_report(folder: Path) -> Path:
    """Write and return report.html of a run's folder, or of one that `write_evaluation` filled."""
    log = folder / "metrics.jsonl"
    rows = read_metrics(log) if log.exists() else []
    evaluation = folder / "evaluation" if log.exists() else folder
    result = json.loads((evaluation / "evaluation.json").read_text(encoding="utf-8"))
    config = load_json(folder / "config.json")
    loss, scores = series(rows, "loss"), [score_curve(rows, key) for key in CURVES]
    counts = np.array(result["confusion"])
    content = {
        "title": folder.resolve().name,
        "rows": rows,
        "result": result,
        "config": config,
        "fields": flatten(to_dict(config)),
        "defaults": flatten(to_dict(Config())),
        "loss": [smooth(loss), loss._replace(label="each logged step", faint=True)],
        # The first steps' peak would flatten all that follows.
        "loss_top": 1.1 * np.quantile([y for _, y in loss.points] or [0], 0.99),
        "score_curves": [curve for curve in scores if curve.points],
        "class_scores": class_scores(counts),
        "confusion": counts / np.maximum(counts.sum(axis=1, keepdims=True), 1),
        "largest_confusions": largest_confusions(counts),
        "shown": shown_images(result, evaluation / "images"),
        "trimap": trimap_curves(result),
        "extra_colors": [(CREAM, "ignored"), (RED, "wrong")],
    }
    return write_page(folder, "run.html", content)


def write_study(folder: Path) -> Path:
    """Write and return report.html of a folder with a study.json: its table and its plot."""
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    rows, keys = study["rows"], [c["key"] for c in study["columns"]]
    columns = {key: [row["values"].get(key) for row in rows] for key in keys}
    ours = (c["key"] for c in study["columns"] if not c["paper"])
    content = {
        "title": study["title"],
        "study": study,
        "columns": columns,
        "cells": {key: format_column(values) for key, values in columns.items()},
        "bars": next((key for key in ours if any(map(is_number, columns[key]))), None),
        "curves": [Curve(c["label"], known(c["x"], c["y"])) for c in study["curves"]],
    }
    return write_page(folder, "study.html", content)


def write_page(folder: Path, template: str, content: dict[str, Any]) -> Path:
    """Write report.html of a template and what stands in it."""
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals |= {"series": series, "usual": usual, "axes": axes}
    pages.filters |= {"percent": percent, "plain": plain, "duration": duration}
    origin = f"deeplab_jax {VERSION}, {time.strftime('%Y-%m-%d %H:%M')}"
    page = folder / "report.html"
    html = pages.get_template(template).render(content, origin=origin)
    # Names of files may be no text.
    page.write_text(html, encoding="utf-8", errors="backslashreplace")
    return page


def series(rows: Rows, key: str, label: str = "", scale: float = 1.0) -> Curve:
    """One number of the log over the steps, times `scale`."""
    # A resumed run may write a step a second time: the later row is the one that counts.
    values = {row["step"]: row[key] for row in rows if row.get(key) is not None}
    steps = sorted(values)
    return Curve(label, known(steps, [scale * values[step] for step in steps]))


def known(x: Iterable[float], y: Iterable[float | None]) -> list[tuple[float, float]]:
    """The points whose y is a finite number."""
    return [(a, b) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b)]


def smooth(curve: Curve) -> Curve:
    """Averages over a centred window of about a twentieth of the curve, cut off at its ends."""
    count, ys = len(curve.points), [y for _, y in curve.points]
    half = min(count // 40, math.isqrt(count) * 2)
    means = [mean(ys[max(0, i - half) : i + half + 1]) for i in range(count)]
    return Curve("smoothed", [(x, y) for (x, _), y in zip(curve.points, means, strict=True)])


def score_curve(rows: Rows, key: str) -> Curve:
    """A score of the evaluations in percent."""
    curve = series(rows, f"eval/{key}", CURVES[key], 100)
    last = "".join(f", last {y:.1f}" for _, y in curve.points[-1:])
    return curve._replace(label=curve.label + last)


def usual(curve: Curve) -> float:
    """The median without the first value, which includes compiling."""
    return median(y for _, y in curve.points[1:] or curve.points)


def trimap_curves(result: dict[str, Any]) -> list[Curve]:
    """mIoU in percent against the width of the band around boundaries in which it was measured."""
    widths = sorted(map(int, result["trimaps"]))
    found = [result["trimaps"][str(width)]["miou"] for width in widths]
    whole = [result["eval/miou"]] * len(widths)
    curves = {"of the pixels in the band": found, "of all pixels": whole}
    return [Curve(k, known(widths, [x and 100 * x for x in y])) for k, y in curves.items()]


def largest_confusions(counts: np.ndarray) -> list[tuple[int, int]]:
    """Classes (truth, prediction) that share the most wrong pixels; counts [c c]."""
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = zip(*np.unravel_index(largest, wrong.shape), strict=True)
    return [(t, p) for t, p in pairs if wrong[t, p]]


def shown_images(result: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The images that the evaluation kept, with their rank among all and their files inside."""
    accuracy = result["image_accuracy"]
    ranked = [i for i, x in enumerate(accuracy) if x is not None]
    ranked.sort(key=lambda i: -accuracy[i])
    shown = []
    for image in result["shown"]:
        rank = rank_name(ranked.index(image["index"]), len(ranked))
        caption = image["caption"] or f"{100 * accuracy[image['index']]:.1f} % right"
        files = {what: data_uri(folder / file) for what, file in image["files"].items()}
        shown.append({"id": image["id"], "rank": rank, "caption": caption, "files": files})
    return shown


def rank_name(rank: int, count: int) -> str:
    """'Best', 'Worst', 'Median', or 'Number 26 of 101'."""
    names = {round((count - 1) / 2): "Median", count - 1: "Worst", 0: "Best"}
    return names.get(rank, f"Number {rank + 1:,} of {count:,}")


def data_uri(file: Path) -> str:
    kind = "png" if file.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def axes(curves: Sequence[Curve], top: float | None, zero: bool) -> dict[str, Any] | None:
    """Ticks of a plot's axes and the ends of x; None: it has no point.

    `top`: where y ends, None: at the largest; `zero`: y starts at 0.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    low, high = min(xs), max(xs)
    margin = 1 if low == high else 0  # one point: in the middle
    y = ticks(min(0, *ys) if zero else min(ys), max(ys) if top is None else top)
    x = [tick for tick in ticks(low, high) if low <= tick <= high]
    return {"x": x, "y": y, "left": low - margin, "right": high + margin}


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from at or below `low` to at or above `high`."""
    span = high - low if high > low else abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if span / (m * power) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, max(last, first + 1) + 1)]


def is_number(x: Any) -> bool:
    return isinstance(x, int | float)


def format_column(values: Sequence[Any]) -> list[str]:
    """Numbers with two places, or four where all are below 1; texts; a dash for None."""
    places = 2 if any(is_number(x) and abs(x) >= 1 for x in values) else 4
    return [f"{x:,.{places}f}" if is_number(x) else x or "–" for x in values]


def percent(share: float | None) -> str:
    """'93.24' or, of what is undefined, a dash."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.2f}"


def plain(value: Any) -> str:
    """A field's value as one would type it."""
    if isinstance(value, list):
        return " ".join(map(plain, value)) or "()"
    return repr(value) if value is None or value == "" else str(value)
