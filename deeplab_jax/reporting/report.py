"""`report.html`: a run, an evaluation or a study on one page that can be sent on.

Written from the files of its folder alone; plain HTML, CSS and inline SVG, images inside, nothing
fetched. Text goes through `escape` where it enters a piece of HTML.
"""

import base64
import json
import math
import time
from collections.abc import Iterable, Sequence
from html import escape
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeplab_jax.config import Config, flatten, to_dict
from deeplab_jax.progress import duration
from deeplab_jax.reporting.figures import CREAM, RED, RGB, class_scores
from deeplab_jax.version import VERSION

MOST_CLASSES = 40  # in a matrix that people can read
CONFUSIONS = 20  # listed where there are more
COLORS = 6  # of lines, in the style sheet; then they are dashed
WIDTH, HEIGHT = 460, 250  # of a plot, in its own units: on a phone nearly pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 42  # margins inside it

Rows = Sequence[dict[str, Any]]


class Curve(NamedTuple):
    """A line of a plot; points whose y is None or nan are left out."""

    label: str
    x: Iterable[float]
    y: Iterable[float | None]
    faint: bool = False
    """Behind the others, of the next one's colour and not in the legend."""


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; broken lines are left out, as `read_log` counts them."""
    return read_log(file)[0]


def read_log(file: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a metrics.jsonl, and how many of its lines are none.

    A row is a JSON object with a whole number as its `step`. A last line without its end, which a
    kill leaves, is left out and not counted.
    """
    lines = file.read_bytes().split(b"\n")
    rows = [log_row(line) for line in lines]
    broken = sum(
        row is None and line.strip() != b"" for row, line in zip(rows[:-1], lines, strict=False)
    )
    return [row for row in rows if row is not None], broken


def log_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def write_report(folder: Path) -> Path:
    """Write and return report.html of a run's folder, or of one that `write_evaluation` filled."""
    log = folder / "metrics.jsonl"
    metrics = read_metrics(log) if log.exists() else []
    evaluation = folder / "evaluation" if log.exists() else folder
    result = json.loads((evaluation / "evaluation.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = config["model"]
    about = (
        f"{model['head']} on {model['backbone']}, output stride {model['output_stride']};"
        f" {result['images']:,} images of {config['data']['source']},"
        f" {config['data']['eval_split']}"
    )
    if unreadable := len(result.get("unreadable", ())):
        about += f", {unreadable} of them unreadable and not counted"
    if skipped := sum("skipped" in row for row in metrics):
        about += f"; {skipped} training steps skipped, their numbers not being finite"
    body = [
        headline(metrics, result),
        section("Training", training_plots(metrics)) if metrics else "",
        section("Classes", class_rows(result), "In percent."),
        section("Confusion", confusion(result), CONFUSION_NOTE),
        section("Images", shown_images(result, evaluation / "images"), PICTURES_NOTE),
        section("Near boundaries", trimap_plot(result)) if result["trimaps"] else "",
        section("Throughput", throughput(metrics, result)),
        section("Configuration", configuration(config, result["protocol"])),
        section("Environment", key_values(result["environment"].items())),
    ]
    return write_page(folder, folder.resolve().name, about, body)


def write_study(folder: Path) -> Path:
    """Write and return report.html of a folder with a study.json: its table and its plot."""
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    if study["curves"]:
        curves = [Curve(c["label"], c["x"], c["y"]) for c in study["curves"]]
        plot = line_plot("", curves, study["x_label"], study["y_label"], zero=False)
    else:
        plot = study_bars(study)
    body = [section("Table", study_table(study)), section("Plot", plot) if plot else ""]
    about = f"{study['about']} Computed in {duration(study['seconds'])}."
    return write_page(folder, study["title"], about, body)


# What a report says

UNIT = "<small> %</small>"


def headline(metrics: Rows, result: dict[str, Any]) -> str:
    """The numbers that one looks for first."""
    numbers = {
        "mIoU": percent(result["eval/miou"]),
        "pixel accuracy": percent(result["eval/pixel_accuracy"]),
        "mean accuracy": percent(result["eval/mean_accuracy"]),
        "frequency-weighted IoU": percent(result["eval/frequency_weighted_iou"]),
    }
    if "eval/boundary_iou" in result:
        numbers["boundary IoU"] = percent(result["eval/boundary_iou"])
    if metrics:
        numbers["steps"] = f"{max(row['step'] for row in metrics):,}"
    cells = "".join(
        f"<div><dt>{escape(k)}</dt><dd>{escape(v)}{UNIT * ('.' in v)}</dd></div>"
        for k, v in numbers.items()
    )
    return f'<dl class="headline">{cells}</dl>'


def training_plots(metrics: Rows) -> str:
    """Loss, scores of the evaluations, learning rate, gradient norm."""
    step, loss = series(metrics, "loss")
    finite = loss[np.isfinite(loss)]
    # The first steps' peak would flatten all that follows.
    top = 1.1 * float(np.quantile(finite, 0.99)) if finite.size else None
    losses = [
        Curve("each logged step", step, loss, faint=True),
        Curve("smoothed", step, smooth(loss)),
    ]
    scores = []
    for key, name in [
        ("eval/miou", "mIoU"),
        ("eval/pixel_accuracy", "pixel accuracy"),
        ("eval/boundary_iou", "boundary IoU"),
    ]:
        at, score = series(metrics, key)
        if at.size:
            scores.append(Curve(f"{name}, last {100 * score[-1]:.1f}", at, 100 * score))
    rate, norm = ([Curve("", *series(metrics, k))] for k in ("learning_rate", "gradient_norm"))
    return plots(
        line_plot("Loss", losses, "step", top=top),
        line_plot("Validation, %", scores, "step", top=100),
        line_plot("Learning rate", rate, "step"),
        line_plot("Gradient norm", norm, "step"),
    )


def class_rows(result: dict[str, Any]) -> str:
    """A line for each class: a bar of its IoU, and the other scores."""
    scores = class_scores(np.array(result["confusion"]))
    boundary = result["boundary"].get("iou")
    heads = ["class", "IoU", "recall", "precision", "share of truth", "of prediction"]
    columns = [f"{name} %" for name in ("IoU", "recall", "precision", "truth", "predicted")]
    lines = []
    for k, name in enumerate(result["classes"]):
        iou, *rest = (float(scores[column][k]) for column in columns)
        rest = rest if boundary is None else [*rest, boundary[name]]
        cells = "".join(number_cell(percent(x)) for x in rest)
        label = swatch(result["colors"][k], name)
        lines.append(f'<tr><th scope="row">{label}</th>{bar_cell(iou, percent(iou))}{cells}</tr>')
    heads += [] if boundary is None else ["boundary IoU"]
    return folded(table(heads, lines, "classes"), len(lines), "classes")


CONFUSION_NOTE = (
    "Each row is a class of the truth; its numbers say, in percent, what its pixels were taken for."
)


def confusion(result: dict[str, Any]) -> str:
    """The matrix, its rows normalised; of very many classes, the largest confusions."""
    counts, names = np.array(result["confusion"], float), result["classes"]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(names) > MOST_CLASSES:
        wrong = np.where(np.eye(len(names), dtype=bool), 0, counts)
        largest = np.argsort(-wrong, axis=None)[:CONFUSIONS]
        pairs = [(i // len(names), i % len(names)) for i in largest.tolist()]
        lines = [
            f'<tr><th scope="row">{escape(names[t])}</th><td>{escape(names[p])}</td>'
            f"{number_cell(percent(float(share[t, p])))}</tr>"
            for t, p in pairs
            if wrong[t, p]
        ]
        return table(["truth", "taken for", "share"], lines, "confusions")
    heads = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    lines = []
    for k, name in enumerate(names):
        cells = "".join(
            heat_cell(x, f"{name} taken for {names[j]}") for j, x in enumerate(share[k])
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    head = f'<thead><tr><td class="corner">prediction →<br>truth ↓</td>{heads}</tr></thead>'
    body = f"<tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table class="matrix">{head}{body}</table></div>'


def heat_cell(share: float, what: str) -> str:
    strong = ' class="strong"' if share > 0.5 else ""
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    title = f"{what}: {100 * share:.2f} %"
    return f'<td{strong} style="--v:{share:.3f}" title="{escape(title)}">{text}</td>'


PICTURES_NOTE = "From the best predicted to the worst, at evenly spaced ranks of their accuracy."


def shown_images(result: dict[str, Any], folder: Path) -> str:
    """A row for each image that the evaluation kept: image, truth, prediction and errors."""
    accuracy = np.array([np.nan if x is None else x for x in result["image_accuracy"]])
    order = np.argsort(-accuracy, kind="stable")[: np.isfinite(accuracy).sum()].tolist()
    figures, labelled = [], False
    for shown in result["shown"]:
        labelled |= len(shown["files"]) > 1
        right = f"{100 * accuracy[shown['index']]:.1f} % right"
        caption = shown["caption"] or right
        where = rank_name(order.index(shown["index"]), len(order))
        tiles = "".join(
            f'<div><img src="{data_uri(folder / file)}" alt="{escape(what)} of'
            f' {escape(shown["id"])}" loading="lazy"><span>{escape(what)}</span></div>'
            for what, file in shown["files"].items()
        )
        title = f"<b>{where}</b> {escape(caption)} <small>{escape(shown['id'])}</small>"
        figures.append(f"<figure><figcaption>{title}</figcaption><div>{tiles}</div></figure>")
    names = result["classes"]
    legend = zip(result["colors"], names, strict=False) if labelled else []
    keys = "".join(f"<li>{swatch(color, name)}</li>" for color, name in legend)
    extra = f"<li>{swatch(CREAM, 'ignored')}</li><li>{swatch(RED, 'wrong')}</li>"
    keys = folded(f'<ul class="legend">{keys}{extra}</ul>', len(names), "colours") if keys else ""
    return f'<div class="images">{"".join(figures)}</div>{keys}'


def rank_name(rank: int, count: int) -> str:
    """'best', 'worst', 'median', or '26th of 101' in plain words."""
    if rank == 0:
        return "Best"
    if rank == count - 1:
        return "Worst"
    return "Median" if rank == round((count - 1) / 2) else f"Number {rank + 1:,} of {count:,}"


def trimap_plot(result: dict[str, Any]) -> str:
    """mIoU against the width of the band around boundaries in which it was measured."""
    trimaps = sorted((int(width), x["miou"]) for width, x in result["trimaps"].items())
    widths = [width for width, _ in trimaps]
    miou = [None if x is None else 100 * x for _, x in trimaps]
    curve = Curve("mIoU of the pixels in the band", widths, miou)
    whole = Curve("of all pixels", [widths[0], widths[-1]], [100 * result["eval/miou"]] * 2)
    lines = [
        f'<tr><th scope="row">{w} px</th>{number_cell("–" if y is None else f"{y:.2f}")}</tr>'
        for w, y in zip(widths, miou, strict=True)
    ]
    plot = line_plot("", [curve, whole], "width of the band, pixels", "mIoU, %", zero=False)
    return plots(plot, table(["width", "mIoU, %"], lines, "narrow"))


def throughput(metrics: Rows, result: dict[str, Any]) -> str:
    """Images a second of training, and how much of the time it waited for data."""
    step, rate = series(metrics, "images_per_second")
    at, wait = series(metrics, "data_wait")
    numbers = {
        "evaluation": f"{result['seconds']:,.0f} s for {result['images']:,} images,"
        f" {result['seconds_per_image']:.3f} s each once compiled"
    }
    drawn = ""
    if step.size:
        later = slice(1, None) if step.size > 1 else slice(None)  # the first includes compiling
        waiting = f"{100 * np.median(wait[later]):.1f} % of the time waiting for data"
        median = f"{np.median(rate[later]):,.1f} images a second (median), {waiting}"
        numbers = {"training": median, **numbers}
        drawn = plots(
            line_plot("Images a second", [Curve("", step, rate)], "step"),
            line_plot("Waiting for data, %", [Curve("", at, 100 * wait)], "step", top=100),
        )
    return key_values(numbers.items()) + drawn


def configuration(config: dict[str, Any], protocol: dict[str, Any]) -> str:
    """Changed fields beside their defaults, then the others; how the evaluation looked."""
    ours, defaults = flatten(config), flatten(to_dict(Config()))
    changed = [key for key in ours if ours[key] != defaults.get(key)]

    def rows(keys: Iterable[str], *sides: dict[str, Any]) -> list[str]:
        return [
            f'<tr><th scope="row"><code>{escape(key)}</code></th>'
            + "".join(f"<td><code>{escape(plain(side.get(key)))}</code></td>" for side in sides)
            + "</tr>"
            for key in keys
        ]

    first = table(["changed", "here", "default"], rows(changed, ours, defaults), "fields")
    others = [key for key in ours if key not in changed]
    rest = table(["as by default", "value"], rows(others, ours), "fields")
    views = ", ".join(f"{key} {plain(value)}" for key, value in protocol.items())
    return (
        f"{first}<details><summary>{len(others)} fields as by default</summary>{rest}</details>"
        f'<p class="note">Evaluated with {escape(views)}.</p>'
    )


def plain(value: Any) -> str:
    """A field's value as one would type it."""
    if isinstance(value, list):
        return " ".join(map(plain, value)) or "()"
    return repr(value) if value is None or value == "" else str(value)


def study_table(study: dict[str, Any]) -> str:
    """The rows of a study, with the numbers of the paper beside ours."""
    columns = study["columns"]
    places = {c["key"]: decimals(column_numbers(study, c["key"])) for c in columns}

    def cell(column: dict[str, Any], value: Any) -> str:
        kind = "number paper" if column["paper"] else "number"
        text = value if isinstance(value, str) else "–"
        if is_number(value):
            text = f"{value:,.{places[column['key']]}f}"
        kind = "text" if isinstance(value, str) else kind
        return f'<td class="{kind}">{escape(text)}</td>'

    heads = [c["label"] for c in columns]
    lines = [
        f'<tr><th scope="row">{escape(row["name"])}</th>'
        + "".join(cell(c, row["values"].get(c["key"])) for c in columns)
        + "</tr>"
        for row in study["rows"]
    ]
    return table(["", *heads], lines, "study")


def study_bars(study: dict[str, Any]) -> str:
    """The first column of ours that has numbers, as bars from zero."""
    for column in study["columns"]:
        numbers = column_numbers(study, column["key"])
        if column["paper"] or not numbers:
            continue
        most, places = max(map(abs, numbers)), decimals(numbers)
        lines = []
        for row in study["rows"]:
            x = row["values"].get(column["key"])
            known = is_number(x)
            cell = bar_cell(x / most if known and most else 0, f"{x:,.{places}f}" if known else "–")
            lines.append(f'<tr><th scope="row">{escape(row["name"])}</th>{cell}</tr>')
        return table(["", column["label"]], lines, "bars")
    return ""


def column_numbers(study: dict[str, Any], key: str) -> list[float]:
    values = (row["values"].get(key) for row in study["rows"])
    return [x for x in values if is_number(x)]


def is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def decimals(numbers: Sequence[float]) -> int:
    """Places after the point that a column needs, at most four digits of its largest number."""
    most = max(map(abs, numbers), default=0)
    enough = max(0, 3 - math.floor(math.log10(most))) if most else 0
    needed = [p for p in range(enough) if all(round(x, p) == round(x, enough) for x in numbers)]
    return needed[0] if needed else enough


# Pieces of a page


def section(heading: str, body: str, note: str = "") -> str:
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{note}{body}</section>"


def table(heads: Sequence[str], lines: Sequence[str], kind: str) -> str:
    """Rows of HTML under heads of text; it scrolls sideways where the page is too narrow."""
    cells = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def folded(body: str, count: int, what: str) -> str:
    """Behind a line to click on, where there are too many."""
    if count <= MOST_CLASSES:
        return body
    return f"<details><summary>{count:,} {escape(what)}</summary>{body}</details>"


def plots(*drawn: str) -> str:
    return f'<div class="plots">{"".join(drawn)}</div>'


def key_values(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs)
    return f'<dl class="pairs">{rows}</dl>'


def swatch(color: Sequence[int] | RGB, name: str) -> str:
    r, g, b = color
    return f'<i class="swatch" style="background:rgb({r} {g} {b})"></i>{escape(name)}'


def number_cell(text: str) -> str:
    return f'<td class="number">{escape(text)}</td>'


def bar_cell(share: float, text: str) -> str:
    """A bar of `share` of the cell's width (nan: none), and its number."""
    width = 0 if math.isnan(share) else 100 * max(0.0, min(share, 1.0))
    return (
        f'<td class="bar"><div><span><i style="width:{width:.2f}%"></i></span>'
        f"<b>{escape(text)}</b></div></td>"
    )


def percent(share: float | None) -> str:
    """'93.24' or, of what is undefined, a dash."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.2f}"


def data_uri(file: Path) -> str:
    kind = "png" if file.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


# Plots


def line_plot(
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    y_label: str = "",
    *,
    top: float | None = None,
    zero: bool = True,
) -> str:
    """Curves as inline SVG with a legend; `zero`: y starts there; `top`: and ends near here."""
    points = [known_points(curve) for curve in curves]
    everything = [p for of_one in points for p in of_one]
    caption = f"<figcaption>{escape(title)}</figcaption>" if title else ""
    if not everything:
        return f'<figure class="plot">{caption}<p class="note">nothing yet</p></figure>'
    xs, ys = zip(*everything, strict=True)
    x0, x1 = min(xs), max(xs)
    x_ticks = ticks(x0, x1)
    if x0 == x1:  # one point: in the middle
        x_ticks, x0, x1 = [x0], x0 - 1, x1 + 1
    y_ticks = ticks(min(0, *ys) if zero else min(ys), max(ys) if top is None else top)
    y0, y1 = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        up = min((y - y0) / (y1 - y0), 1) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{HEIGHT - BOTTOM - up:.1f}"

    axes = axis_marks([x for x in x_ticks if x0 <= x <= x1], y_ticks, place, x_label, y_label)
    lines, legend, color = [], [], 0
    for curve, of_one in zip(curves, points, strict=True):
        lines.append(line(of_one, place, color, faint=curve.faint))
        if not curve.faint:
            dashed = " dashed" if color >= COLORS else ""
            key = f'<i class="k{color % COLORS}{dashed}"></i>'
            legend.append(f"<li>{key}{escape(curve.label)}</li>")
            color += 1
    keys = f'<ul class="legend">{"".join(legend)}</ul>' if len(curves) > 1 else ""
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title or y_label)}">'
        f"{axes}{''.join(lines)}</svg>"
    )
    return f'<figure class="plot">{caption}{drawing}{keys}</figure>'


def known_points(curve: Curve) -> list[tuple[float, float]]:
    pairs = zip(curve.x, curve.y, strict=True)
    return [(float(x), float(y)) for x, y in pairs if y is not None and math.isfinite(y)]


def line(points: Sequence[tuple[float, float]], place: Any, color: int, *, faint: bool) -> str:
    """A polyline, and a dot on each point where they are few."""
    kind = f"k{color % COLORS}" + " faint" * faint + " dashed" * (color >= COLORS)
    places = [place(x, y) for x, y in points]
    drawn = f'<polyline class="{kind}" points="{" ".join(places)}"/>'
    if len(points) > 30 or faint:
        return drawn
    for (x, y), at in zip(points, places, strict=True):
        cx, cy = at.split(",")
        title = f"<title>{x:,g}: {y:,.4g}</title>"
        drawn += f'<circle class="{kind}" cx="{cx}" cy="{cy}" r="3">{title}</circle>'
    return drawn


def axis_marks(
    x_ticks: Sequence[float], y_ticks: Sequence[float], place: Any, x_label: str, y_label: str
) -> str:
    """Grid lines with their numbers, and what the axes are."""
    marks = []
    for y in y_ticks:
        at = place(0, y).split(",")[1]
        marks.append(f'<path d="M{LEFT} {at}H{WIDTH - RIGHT}"/>')
        marks.append(f'<text x="{LEFT - 8}" y="{at}" dy=".32em" class="end">{y:,g}</text>')
    for x in x_ticks:
        at = place(x, y_ticks[0]).split(",")[0]
        marks.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 17}" class="middle">{x:,g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    marks.append(f'<text x="{middle}" y="{HEIGHT - 5}" class="middle">{escape(x_label)}</text>')
    if y_label:
        across = (HEIGHT - BOTTOM + TOP) / 2
        turn = f'transform="rotate(-90 11 {across})"'
        marks.append(
            f'<text x="11" y="{across}" dy=".32em" {turn} class="middle">{escape(y_label)}</text>'
        )
    return f'<g class="axes">{"".join(marks)}</g>'


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from at or below `low` to at or above `high`."""
    span = high - low if high > low else abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if span / (m * power) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, max(last, first + 1) + 1)]


def series(metrics: Rows, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of one number of the log."""
    # A resumed run may write a step a second time: the later row is the one that counts.
    values = {row["step"]: row[key] for row in metrics if row.get(key) is not None}
    steps = sorted(values)
    return np.array(steps, float), np.array([values[step] for step in steps], float)


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averages over a centred window of about a twentieth of the series, cut off at its ends."""
    half = min(len(values) // 40, isqrt(len(values)) * 2)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([window.mean() for window in windows])


# The page


def write_page(folder: Path, title: str, about: str, body: Sequence[str]) -> Path:
    page = folder / "report.html"
    origin = f"deeplab_jax {VERSION}, {time.strftime('%Y-%m-%d %H:%M')}"
    page.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{escape(about)}</p></header>"
        f"<main>{''.join(body)}</main><footer>{origin}</footer></body></html>\n",
        encoding="utf-8",
        errors="backslashreplace",  # names of files may be no text
    )
    return page


STYLE = """
:root { color-scheme: light dark; --page: #fdfdfc; --ink: #1f2328; --soft: #656c76;
  --line: #e4e5e7; --track: #eff0f1; --heat: 31 91 158; --c0: #1f5b9e; --c1: #c8741c;
  --c2: #2d7d57; --c3: #a23b5e; --c4: #6d57a8; --c5: #5f6b77; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --ink: #e4e6e9; --soft: #9aa1aa;
  --line: #2e3237; --track: #24282c; --heat: 112 172 238; --c0: #70acee; --c1: #e5a15a;
  --c2: #6fc49a; --c3: #e68aa8; --c4: #b09ce8; --c5: #a5b0bc; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.25rem 3rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; font-weight: 650; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .75rem; font-weight: 620; }
header p { margin: .4rem 0 0; color: var(--soft); max-width: 46rem; }
section { margin-top: 2.25rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
footer { margin-top: 3rem; color: var(--soft); font-size: .8rem; }
.note { color: var(--soft); font-size: .9rem; margin: -.4rem 0 1rem; max-width: 46rem; }
* + .note { margin-top: .9rem; } h2 + .note { margin-top: -.5rem; }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: 1rem 1.5rem; margin: 1.75rem 0 0; }
.headline dt { color: var(--soft); font-size: .85rem; }
.headline div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.headline small { font-size: .6em; font-weight: 400; color: var(--soft); }
.headline dd { margin: 0; font-size: 1.65rem; line-height: 1.25; font-weight: 600; }
.pairs { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 0;
  font-size: .92rem; }
.pairs dt { color: var(--soft); } .pairs dd { margin: 0; overflow-wrap: anywhere; }
.pairs + .plots { margin-top: 1.25rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1.5rem 2rem; align-items: start; }
figure { margin: 0; } .plot { max-width: 34rem; }
.plot figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .35rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.axes path { stroke: var(--line); } .axes text { fill: var(--soft); font-size: 12px; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.k0 { --c: var(--c0); } .k1 { --c: var(--c1); } .k2 { --c: var(--c2); }
.k3 { --c: var(--c3); } .k4 { --c: var(--c4); } .k5 { --c: var(--c5); }
polyline { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
polyline.faint { stroke-width: 1; opacity: .4; } polyline.dashed { stroke-dasharray: 6 4; }
circle { fill: var(--c); stroke: var(--page); stroke-width: 1; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .6rem 0 0; padding: 0;
  list-style: none; font-size: .85rem; color: var(--soft); }
.plot .legend i { display: inline-block; width: 1.1em; border-top: 2.5px solid var(--c);
  margin-right: .45em; vertical-align: .27em; } .plot .legend .dashed { border-top-style: dashed; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em;
  vertical-align: -.05em; box-shadow: 0 0 0 1px rgb(128 128 128 / .45); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th { font-weight: 400; text-align: left; white-space: nowrap; }
thead th { color: var(--soft); font-size: .8rem; vertical-align: bottom; }
th, td { padding: .3rem .9rem .3rem 0; } tbody tr { border-top: 1px solid var(--line); }
.number { text-align: right; } .paper { color: var(--soft); font-style: italic; }
.classes, .bars { width: 100%; }
.classes thead th:nth-child(n+3), .study thead th:nth-child(n+2),
.confusions thead th:last-child, .narrow thead th:last-child { text-align: right; }
.study .text { text-align: right; white-space: nowrap; color: var(--soft); }
.study th, .study td { padding-right: 1.6rem; }
.study thead th { white-space: normal; max-width: 9rem; }
.bar { width: 45%; min-width: 10rem; }
.bars { max-width: 44rem; } .bars .bar { width: 100%; } .bars th { padding-right: 1.6rem; }
.bar div { display: flex; align-items: center; gap: .7rem; }
.bar span { flex: 1; height: .6rem; border-radius: 2px; background: var(--track);
  overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--c0); }
.bar b { font-weight: 500; min-width: 3.2rem; text-align: right; }
.matrix { font-size: .78rem; } .matrix tbody tr { border: 0; }
.matrix td { text-align: center; min-width: 2.4rem; height: 2.1rem; padding: 0;
  border: 1px solid var(--page); background: rgb(var(--heat) / calc(.03 + .92 * var(--v))); }
.matrix .strong { color: var(--page); font-weight: 600; }
.matrix thead th { padding: 0 0 .4rem; text-align: center; }
.matrix thead span { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block; }
.matrix th[scope=row], .matrix .corner { position: sticky; left: 0; background: var(--page);
  padding: 0 .6rem 0 0; text-align: right; z-index: 1; }
.matrix .corner { color: var(--soft); vertical-align: bottom; border: 0; white-space: nowrap;
  padding-bottom: .4rem; }
.images figure + figure { margin-top: 1.4rem; }
.images figcaption { margin-bottom: .4rem; } .images b { font-weight: 600; }
.images small { color: var(--soft); margin-left: .5rem; overflow-wrap: anywhere; }
.images figure > div { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(48%, 13rem), 1fr)); }
.images img { display: block; width: 100%; border-radius: 3px; }
.images span { font-size: .8rem; color: var(--soft); }
.images + .legend { margin-top: 1rem; }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
details { margin-top: 1rem; } summary { cursor: pointer; color: var(--soft); font-size: .92rem; }
@media (max-width: 40rem) { body { padding: 1.5rem 1rem 2rem; } h1 { font-size: 1.5rem; }
  .headline dd { font-size: 1.35rem; } th, td { padding-right: .7rem; } .bar { min-width: 9rem; }
  .headline { grid-template-columns: 1fr 1fr; } .axes text { font-size: 14px; } }
"""
