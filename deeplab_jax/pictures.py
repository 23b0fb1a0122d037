"""What a run shows people: label files, overlays, contact sheets, curves and per-class tables.

Arrays in, pictures out; NumPy, PIL and Matplotlib only, so that it runs on a laptop without JAX.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from math import ceil, isqrt
from os import PathLike
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

RGB = tuple[int, int, int]
Path = str | PathLike[str]

CREAM: RGB = (245, 240, 225)  # ignored pixels; VOC's own (224, 224, 192), lighter to recede
RED: RGB = (225, 30, 35)
INK: RGB = (40, 40, 45)
WHITE: RGB = (255, 255, 255)
BACKGROUND = "background"


def save_index_png(
    label: NDArray[np.uint8], path: Path | IO[bytes], colors: Sequence[RGB], ignore_label: int = 255
) -> None:
    """Writes label u8[h w] as an 8-bit palette PNG whose pixel values are the class ids."""
    picture = Image.fromarray(label)
    picture.putpalette(_palette(colors, CREAM, ignore_label).tobytes())
    picture.save(path, format="PNG", bits=8, optimize=True)


def colorize(
    label: NDArray[np.integer],
    colors: Sequence[RGB],
    ignore_color: RGB = CREAM,
    ignore_label: int = 255,
) -> NDArray[np.uint8]:
    """Paints label [h w] as u8[h w 3]; ids that have no colour count as ignored."""
    painted: NDArray[np.uint8] = _palette(colors, ignore_color, ignore_label)[label]
    return painted


def overlay(
    image: NDArray[np.uint8],
    label: NDArray[np.integer],
    colors: Sequence[RGB],
    class_names: Sequence[str],
    alpha: float = 0.55,
    ignore_label: int = 255,
) -> Image.Image:
    """Blends label [h w] over image u8[h w 3], contours the objects, and adds a legend below.

    The picture keeps its size; the legend is a strip under it, with the classes present, largest
    first, and their share of the picture. A class named "background" is not painted.
    """
    background = class_names.index(BACKGROUND) if BACKGROUND in class_names else -1
    paint = colorize(label, colors, ignore_label=ignore_label)
    thickness = max(1, round(min(label.shape) / 400))
    contour = _contour(label, thickness) & (label != ignore_label)
    # Inside an object the contour is its own colour, darkened: it separates neighbours of a
    # similar colour without adding one that the legend would have to explain.
    mixed = image + np.float32(alpha) * (paint - image.astype(np.float32))
    mixed = np.where(contour[..., None], np.float32(0.4) * paint, mixed)
    mixed = np.where((label == background)[..., None], image, mixed)

    ids, counts = np.unique(label, return_counts=True)
    largest_first = np.argsort(-counts, kind="stable")
    entries = []
    for k, n in zip(ids[largest_first], counts[largest_first], strict=True):
        name, color = _describe(int(k), colors, class_names, ignore_label)
        color = WHITE if k == background else color
        entries.append((color, f"{name} {_percent(n / label.size)}"))
    font_size = max(11, round(min(label.shape) / 30))
    picture = Image.fromarray(np.rint(mixed).astype(np.uint8))
    return _stack([picture, _legend(entries, label.shape[1], font_size, font_size // 2)])


def contact_sheet(
    images: Sequence[Image.Image | NDArray[np.uint8]],
    titles: Sequence[str],
    columns: int | None = None,
    cell: int = 256,
) -> Image.Image:
    """Lays images out in a grid of thumbnails of at most cell x cell pixels, captions below."""
    columns = columns or max(1, ceil(len(images) ** 0.5))
    thumbnails = [_fit(image, cell) for image in images]
    gap, font = cell // 20, _font(max(11, cell // 18))
    caption = round(2.4 * font.size)
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    heights = [max(thumbnails[i].height for i in row) for row in rows]
    height = gap + sum(h + caption for h in heights)
    sheet = Image.new("RGB", (gap + columns * (cell + gap), height), WHITE)
    draw = ImageDraw.Draw(sheet)
    y = gap
    for row, row_height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x = gap + column * (cell + gap)
            thumbnail = thumbnails[i]
            # Pictures of a row stand on one line, so that each is next to its caption.
            corner = (x + (cell - thumbnail.width) // 2, y + row_height - thumbnail.height)
            sheet.paste(thumbnail, corner)
            text = _shorten(titles[i], font, cell)
            draw.text((x + cell // 2, y + row_height + font.size * 0.8), text, INK, font, "mm")
        y += row_height + caption
    return sheet


def comparison(
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.integer]],
    predictions: Sequence[NDArray[np.integer]],
    titles: Sequence[str],
    colors: Sequence[RGB],
    class_names: Sequence[str],
    ignore_label: int = 255,
    cell: int = 320,
) -> Image.Image:
    """Shows a row per picture: image u8[h w 3], truth [h w], prediction [h w], and the errors."""
    tiles: list[Image.Image | NDArray[np.uint8]] = []
    captions: list[str] = []
    present: set[int] = set()
    for image, label, prediction, title in zip(images, labels, predictions, titles, strict=True):
        truth = colorize(label, colors, ignore_label=ignore_label)
        guess = colorize(prediction, colors, ignore_label=ignore_label)
        tiles += [image, truth, guess, errors(image, label, prediction, ignore_label)]
        valid = label != ignore_label
        wrong = np.mean(label[valid] != prediction[valid]) if valid.any() else 0.0
        captions += [title, "", "", f"{_percent(wrong)} wrong"]
        present |= {*np.unique(label).tolist(), *np.unique(prediction).tolist()}
    sheet = contact_sheet(tiles, captions, columns=4, cell=cell)
    entries = []
    for k in sorted(present - {ignore_label}) + [ignore_label] * (ignore_label in present):
        name, color = _describe(k, colors, class_names, ignore_label)
        entries.append((color, name))
    legend = _legend([*entries, (RED, "wrong")], sheet.width, max(11, cell // 20), cell // 20)
    return _stack([_headers(("image", "truth", "prediction", "errors"), cell), sheet, legend])


def errors(
    image: NDArray[np.uint8],
    label: NDArray[np.integer],
    prediction: NDArray[np.integer],
    ignore_label: int = 255,
) -> NDArray[np.uint8]:
    """Marks the wrong pixels red over the dimmed grey image; ignored ones are pale and hatched."""
    grey = 40 + 0.4 * image.astype(np.float32).mean(axis=-1, keepdims=True)
    y, x = np.ogrid[: label.shape[0], : label.shape[1]]
    stripe = (x + y) // max(2, max(label.shape) // 100) % 2  # about 100 stripes: survives shrinking
    ignored = label == ignore_label
    wrong = (label != prediction) & ~ignored
    picture = np.where(ignored[..., None], 150 + 60 * stripe[..., None] + 0.1 * grey, grey)
    return np.where(wrong[..., None], RED, picture.repeat(3, axis=-1)).astype(np.uint8)


def curves(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plots the rows of a metrics.jsonl against step: the loss, and mIoU and accuracy in percent.

    Rows have `step`, and `loss` (training) or `eval/miou`, `eval/pixel_accuracy` (evaluation).
    """
    figure = Figure(figsize=(10, 3.8), dpi=150, layout="constrained")
    losses, scores = figure.subplots(1, 2, sharex=True)
    step, loss = _series(metrics, "loss")
    losses.plot(step, loss, color="#9db8d9", linewidth=0.8, label="each logged step")
    losses.plot(step, _smooth(loss), color="#1f4e8c", linewidth=1.8, label="smoothed")
    finite = loss[np.isfinite(loss)]
    if finite.size:  # the first steps' peak would flatten all that follows
        losses.set_ylim(0, 1.1 * max(np.quantile(finite, 0.99), 1e-6))
    _finish_panel(losses, "training loss", empty=not step.size)

    for key, name, color in [
        ("eval/pixel_accuracy", "pixel accuracy", "#d98a29"),
        ("eval/miou", "mIoU", "#1f7a4d"),
    ]:
        step, score = _series(metrics, key)
        final = f", last {100 * score[-1]:.1f}" if score.size else ""
        scores.plot(step, 100 * score, "o-", color=color, markersize=3.5, label=name + final)
    scores.set_ylim(0, 100)
    _finish_panel(scores, "validation, %", empty=not step.size)
    figure.savefig(path, format="png")


def class_table(confusion: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Lays out scores in percent, a line per class, from confusion i64[c c] (truth, prediction).

    "truth" and "predicted" are a class's share of the pixels. The last line has the means over
    the classes for which a score is defined ("-" where it is not).
    """
    scores = _class_scores(confusion)
    width = max(len(name) for name in [*class_names, "class", "mean"])
    lines = [f"{'class':<{width}}" + "".join(f"  {title:>11}" for title in scores)]
    mean = [_mean(score) for score in scores.values()]
    rows = [*zip(*scores.values(), strict=True), mean]
    for name, row in zip([*class_names, "mean"], rows, strict=True):
        cells = ("-" if np.isnan(value) else f"{100 * value:.2f}" for value in row)
        lines.append(f"{name:<{width}}" + "".join(f"  {cell:>11}" for cell in cells))
    return "\n".join(lines)


def class_bars(
    confusion: NDArray[np.int64], class_names: Sequence[str], colors: Sequence[RGB], path: Path
) -> None:
    """Plots the IoU of each class, in percent and in the order given, from confusion i64[c c]."""
    iou = 100 * _class_scores(confusion)["IoU %"]
    figure = Figure(figsize=(7, 1.0 + 0.26 * len(iou)), dpi=150, layout="constrained")
    axes = figure.subplots()
    fill = [tuple(channel / 255 for channel in color) for color in colors[: len(iou)]]
    axes.barh(np.arange(len(iou)), np.nan_to_num(iou), color=fill, edgecolor="#28282d", lw=0.4)
    for k, value in enumerate(iou):
        text = "absent" if np.isnan(value) else f"{value:.1f}"
        axes.text(np.nan_to_num(value) + 1, k, text, va="center", fontsize=8, color="#28282d")
    axes.set_yticks(np.arange(len(iou)), class_names, fontsize=8)
    axes.set_ylim(len(iou) - 0.4, -0.6)  # first class on top
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_title(f"IoU per class, %  ·  mean {_mean(iou):.1f}", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e4e4e8")
    axes.set_axisbelow(True)
    figure.savefig(path, format="png")


def _palette(colors: Sequence[RGB], ignore_color: RGB, ignore_label: int) -> NDArray[np.uint8]:
    palette = np.full((256, 3), ignore_color, np.uint8)
    palette[: len(colors)] = colors
    palette[ignore_label] = ignore_color
    return palette


def _describe(
    k: int, colors: Sequence[RGB], class_names: Sequence[str], ignore_label: int
) -> tuple[str, RGB]:
    if k == ignore_label or k >= len(class_names):
        return "ignored" if k == ignore_label else f"id {k}", CREAM
    return class_names[k], colors[k]


def _contour(label: NDArray[np.integer], thickness: int) -> NDArray[np.bool_]:
    """Tells which pixels of [h w] have another class within `thickness` pixels along an axis."""
    contour = np.zeros(label.shape, bool)
    for distance in range(1, thickness + 1):
        down = label[distance:] != label[:-distance]
        contour[distance:] |= down
        contour[:-distance] |= down
        right = label[:, distance:] != label[:, :-distance]
        contour[:, distance:] |= right
        contour[:, :-distance] |= right
    return contour


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Drops the middle of a text that is too wide: numbers tend to stand at its end."""
    short, keep = text, len(text)
    while font.getlength(short) > width and keep > 2:
        keep -= 1
        short = text[: (keep + 1) // 2] + "..." + text[len(text) - keep // 2 :]
    return short


def _legend(
    entries: Sequence[tuple[RGB, str]], width: int, font_size: int, margin: int
) -> Image.Image:
    """Draws swatches with their texts on a white strip, in as many rows as the width asks for."""
    font, line = _font(font_size), round(1.7 * font_size)
    places = []
    x, y = margin, font_size // 2
    for color, text in entries:
        text = _shorten(text, font, width - 2 * margin - 1.5 * font_size)
        advance = round(1.5 * font_size + font.getlength(text))
        if x > margin and x + advance > width - margin:
            x, y = margin, y + line
        places.append((x, y, color, text))
        x += advance + font_size
    strip = Image.new("RGB", (width, y + line + font_size // 2), WHITE)
    draw = ImageDraw.Draw(strip)
    for x, y, color, text in places:
        top = y + (line - font_size) // 2
        box = (x, top, x + font_size, top + font_size)
        draw.rectangle(box, color, outline=(130, 130, 130), width=max(1, font_size // 16))
        draw.text((x + 1.5 * font_size, y + line / 2), text, INK, font, "lm")
    return strip


def _headers(names: Sequence[str], cell: int) -> Image.Image:
    gap, font = cell // 20, _font(max(12, cell // 15))
    strip = Image.new("RGB", (gap + len(names) * (cell + gap), 2 * int(font.size)), WHITE)
    draw = ImageDraw.Draw(strip)
    for column, name in enumerate(names):
        x = gap + column * (cell + gap) + cell // 2
        draw.text((x, strip.height * 0.6), name, INK, font, "mm")
    return strip


def _fit(image: Image.Image | NDArray[np.uint8], cell: int) -> Image.Image:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return ImageOps.contain(picture.convert("RGB"), (cell, cell), Image.Resampling.LANCZOS)


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
    stacked = Image.new("RGB", (width, height), WHITE)
    y = 0
    for picture in pictures:
        stacked.paste(picture, (0, y))
        y += picture.height
    return stacked


def _series(
    metrics: Sequence[Mapping[str, Any]], key: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # A resumed run writes some steps a second time: the later row is the one that counts.
    values = {row["step"]: row[key] for row in metrics if row.get(key) is not None}
    steps = sorted(values)
    return np.array(steps, float), np.array([values[step] for step in steps], float)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averages over a centred window of about a twentieth of the series, cut off at its ends."""
    half = min(len(values) // 40, isqrt(len(values)) * 2)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([window.mean() for window in windows])


def _finish_panel(axes: Axes, title: str, *, empty: bool) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e8")
    if empty:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", color="#85858c")
    else:
        axes.legend(fontsize=8, frameon=False)


def _class_scores(confusion: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Scores by name, each f64[c] in [0, 1]; nan where undefined.

    IoU counts as undefined where the truth lacks the class.
    """
    correct, truth, guess = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)

    def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)

    total = np.full_like(truth, confusion.sum())
    return {
        "IoU %": np.where(truth > 0, ratio(correct, truth + guess - correct), np.nan),
        "truth %": ratio(truth, total),
        "predicted %": ratio(guess, total),
        "recall %": ratio(correct, truth),
        "precision %": ratio(correct, guess),
    }


def _mean(scores: NDArray[np.float64]) -> float:
    defined = scores[np.isfinite(scores)]
    return float(defined.mean()) if defined.size else float("nan")
