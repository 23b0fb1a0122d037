"""What a run shows people: label files, overlays, contact sheets and per-class tables.

Arrays in, images out; NumPy and PIL only, so that it runs on a laptop without JAX.
"""

from collections.abc import Sequence
from functools import cache
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

RGB = tuple[int, int, int]

CREAM: RGB = (245, 240, 225)  # ignored pixels; VOC's own (224, 224, 192), lighter to recede
RED: RGB = (225, 30, 35)
INK: RGB = (40, 40, 45)
WHITE: RGB = (255, 255, 255)
BACKGROUND = "background"
CELL = 256  # side of a contact sheet's thumbnails
BAND = 256  # rows that are blended at a time: in floats, a large image would fill the memory


def index_image(
    label: NDArray[np.uint8], colors: Sequence[RGB], ignore_label: int = 255
) -> Image.Image:
    """Returns label u8[h w] as a palette image whose pixel values are the class ids."""
    image = Image.fromarray(label)
    image.putpalette(_palette(colors, CREAM, ignore_label).tobytes())
    return image


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

    The drawn keeps its size; the legend is a strip under it, with the classes present, largest
    first, and their share of the drawn. A class named "background" is not painted.
    """
    background = _background(class_names)
    ids, counts = np.unique(label, return_counts=True)
    largest_first = np.argsort(-counts, kind="stable")
    entries = []
    for k, n in zip(ids[largest_first], counts[largest_first], strict=True):
        name, color = _describe(int(k), colors, class_names, ignore_label)
        color = WHITE if k == background else color
        entries.append((color, f"{name} {_percent(n / label.size)}"))
    font_size = max(11, round(min(label.shape) / 30))
    drawn = Image.fromarray(blend(image, label, colors, class_names, alpha, ignore_label))
    return _stack([drawn, _legend(entries, label.shape[1], font_size, font_size // 2)])


def blend(
    image: NDArray[np.uint8],
    label: NDArray[np.integer],
    colors: Sequence[RGB],
    class_names: Sequence[str],
    alpha: float = 0.55,
    ignore_label: int = 255,
) -> NDArray[np.uint8]:
    """The image of `overlay`, without its legend: u8[h w 3]."""
    background = _background(class_names)
    thickness = max(1, round(min(label.shape) / 400))
    contour = _contour(label, thickness) & (label != ignore_label)
    blended = np.empty_like(image)
    for top in range(0, len(image), BAND):
        rows = slice(top, top + BAND)
        part, paint = image[rows], colorize(label[rows], colors, ignore_label=ignore_label)
        # Inside an object the contour is its own colour, darkened: it separates neighbours of a
        # similar colour without adding one that the legend would have to explain.
        mixed = part + np.float32(alpha) * (paint - part.astype(np.float32))
        mixed = np.where(contour[rows, :, None], np.float32(0.4) * paint, mixed)
        mixed = np.where((label[rows] == background)[..., None], part, mixed)
        blended[rows] = np.rint(mixed)
    return blended


def contact_sheet(
    images: Sequence[Image.Image | NDArray[np.uint8]],
    titles: Sequence[str],
    columns: int | None = None,
    cell: int = CELL,
    heading: str = "",
) -> Image.Image:
    """Lays images out in a grid of thumbnails of at most cell x cell pixels, captions below.

    A heading stands above all.
    """
    columns = columns or max(1, ceil(len(images) ** 0.5))
    thumbnails = [fit(image, cell) for image in images]
    gap, font = cell // 20, _font(max(11, cell // 18))
    caption = round(2.4 * font.size)
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    heights = [max(thumbnails[i].height for i in row) for row in rows]
    top = caption if heading else 0
    height = gap + top + sum(h + caption for h in heights)
    sheet = Image.new("RGB", (gap + columns * (cell + gap), height), WHITE)
    draw = ImageDraw.Draw(sheet)
    draw.text((sheet.width // 2, gap + top // 2), heading, INK, font, "mm")
    y = gap + top
    for row, row_height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x = gap + column * (cell + gap)
            thumbnail = thumbnails[i]
            # Images of a row stand on one line, so that each is next to its caption.
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
    """Shows a row per image: image u8[h w 3], truth [h w], prediction [h w], and the errors."""
    shown: list[Image.Image | NDArray[np.uint8]] = []
    captions: list[str] = []
    for image, label, prediction, title in zip(images, labels, predictions, titles, strict=True):
        shown += tiles(image, label, prediction, colors, ignore_label).values()
        valid = label != ignore_label
        wrong = np.mean(label[valid] != prediction[valid]) if valid.any() else 0.0
        captions += [title, "", "", f"{_percent(wrong)} wrong"]
    sheet = contact_sheet(shown, captions, columns=4, cell=cell)
    entries = _present([*labels, *predictions], colors, class_names, ignore_label)
    legend = _legend([*entries, (RED, "wrong")], sheet.width, max(11, cell // 20), cell // 20)
    return _stack([_headers(("image", "truth", "prediction", "errors"), cell), sheet, legend])


def gallery(
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.integer]],
    titles: Sequence[str],
    colors: Sequence[RGB],
    class_names: Sequence[str],
    ignore_label: int = 255,
    columns: int = 4,
    cell: int = 320,
) -> Image.Image:
    """Shows images u8[h w 3] with their labels [h w] drawn over them, and one legend for all."""
    shown = [
        blend(image, label, colors, class_names, ignore_label=ignore_label)
        for image, label in zip(images, labels, strict=True)
    ]
    sheet = contact_sheet(shown, titles, columns=columns, cell=cell)
    present = _present(labels, colors, class_names, ignore_label)
    entries = [entry for entry in present if entry[1] != BACKGROUND]  # which is not painted
    return _stack([sheet, _legend(entries, sheet.width, max(11, cell // 20), cell // 20)])


def tiles(
    image: NDArray[np.uint8],
    label: NDArray[np.integer],
    prediction: NDArray[np.integer],
    colors: Sequence[RGB],
    ignore_label: int = 255,
) -> dict[str, NDArray[np.uint8]]:
    """What stands side by side, by its heading, each u8[h w 3]."""
    return {
        "image": image,
        "truth": colorize(label, colors, ignore_label=ignore_label),
        "prediction": colorize(prediction, colors, ignore_label=ignore_label),
        "errors": errors(image, label, prediction, ignore_label),
    }


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
    drawn = np.where(ignored[..., None], 150 + 60 * stripe[..., None] + 0.1 * grey, grey)
    return np.where(wrong[..., None], RED, drawn.repeat(3, axis=-1)).astype(np.uint8)


def class_table(confusion: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Lays out scores in percent, a line per class, from confusion i64[c c] (truth, prediction).

    "truth" and "predicted" are a class's share of the pixels. The last line has the means over
    the classes for which a score is defined ("-" where it is not).
    """
    scores = class_scores(confusion)
    width = max(len(name) for name in [*class_names, "class", "mean"])
    lines = [f"{'class':<{width}}" + "".join(f"  {title:>11}" for title in scores)]
    mean = [_mean(score) for score in scores.values()]
    rows = [*zip(*scores.values(), strict=True), mean]
    for name, row in zip([*class_names, "mean"], rows, strict=True):
        cells = ("-" if np.isnan(value) else f"{100 * value:.2f}" for value in row)
        lines.append(f"{name:<{width}}" + "".join(f"  {cell:>11}" for cell in cells))
    return "\n".join(lines)


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


def _background(class_names: Sequence[str]) -> int:
    """The class that is not painted; -1: there is none."""
    return class_names.index(BACKGROUND) if BACKGROUND in class_names else -1


def _present(
    labels: Sequence[NDArray[np.integer]],
    colors: Sequence[RGB],
    class_names: Sequence[str],
    ignore_label: int,
) -> list[tuple[RGB, str]]:
    """Entries of a legend: the classes of all the labels in order, the ignored one last."""
    ids = {k for label in labels for k in np.unique(label).tolist()}
    ordered = sorted(ids - {ignore_label}) + [ignore_label] * (ignore_label in ids)
    described = (_describe(k, colors, class_names, ignore_label) for k in ordered)
    return [(color, name) for name, color in described]


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


def fit(image: Image.Image | NDArray[np.uint8], cell: int) -> Image.Image:
    """Scales a drawn to fit cell x cell pixels."""
    drawn = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return ImageOps.contain(drawn.convert("RGB"), (cell, cell), Image.Resampling.LANCZOS)


def _stack(images: Sequence[Image.Image]) -> Image.Image:
    width, height = max(p.width for p in images), sum(p.height for p in images)
    stacked = Image.new("RGB", (width, height), WHITE)
    y = 0
    for image in images:
        stacked.paste(image, (0, y))
        y += image.height
    return stacked


def class_scores(confusion: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
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
