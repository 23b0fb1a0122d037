"""What a run shows people: label files, overlays, sheets of images and a table of the classes.

Arrays in, images out; NumPy and PIL only, so that it runs on a laptop without JAX. An image is
u8[h w 3], a label map an integer [h w].
"""

from collections.abc import Sequence
from functools import cache
from math import ceil
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

RGB = tuple[int, int, int]
Colors = Sequence[RGB]
Names = Sequence[str]
Pixels = NDArray[np.uint8]
Labels = NDArray[np.integer]

CREAM: RGB = (245, 240, 225)  # ignored pixels; VOC's own (224, 224, 192), lighter to recede
RED: RGB = (225, 30, 35)
INK: RGB = (40, 40, 45)
WHITE: RGB = (255, 255, 255)
BACKGROUND = "background"  # the class that is not painted
ALPHA = np.float32(0.55)  # of a label over its image
CELL = 256  # side of a contact sheet's thumbnails
BAND = 256  # rows that are blended at a time: in floats, a large image would fill the memory


def to_rgb(image: Pixels) -> Pixels:
    """What people see of u8[h w c]: the first three channels, or the first in gray: u8[h w 3]."""
    if image.shape[2] == 3:
        return image
    return image[..., :3] if image.shape[2] > 3 else np.repeat(image[..., :1], 3, axis=-1)


def index_image(label: Pixels, colors: Colors, ignore_label: int = 255) -> Image.Image:
    """Returns a label map as a palette image whose pixel values are the class ids."""
    image = Image.fromarray(label)
    image.putpalette(_palette(colors, ignore_label).tobytes())
    return image


def colorize(label: Labels, colors: Colors, ignore_label: int = 255) -> Pixels:
    """Paints a label map as u8[h w 3]; ids that have no colour count as ignored."""
    painted: Pixels = _palette(colors, ignore_label)[label]
    return painted


def _palette(colors: Colors, ignore_label: int) -> Pixels:
    palette = np.full((256, 3), CREAM, np.uint8)
    palette[: len(colors)] = colors
    palette[ignore_label] = CREAM
    return palette


def overlay(
    image: Pixels, label: Labels, colors: Colors, class_names: Names, ignore_label: int = 255
) -> Image.Image:
    """Blends a label map over an image, contours the objects, and adds a legend below.

    The image keeps its size; the legend has the classes present, largest first, and their share of
    the image. A class named "background" is not painted.
    """
    present = _present([label], colors, class_names, ignore_label)
    legend = [
        (WHITE if name == BACKGROUND else color, f"{name} {_percent(share)}")
        for share, color, name in sorted(present, key=lambda entry: -entry[0])
    ]
    blended = Image.fromarray(blend(image, label, colors, class_names, ignore_label))
    font_size = max(11, round(min(label.shape) / 30))
    return _add_legend(blended, legend, font_size, margin=font_size // 2)


def blend(
    image: Pixels, label: Labels, colors: Colors, class_names: Names, ignore_label: int = 255
) -> Pixels:
    """The image of `overlay`, without its legend: u8[h w 3]."""
    contour = _contour(label, thickness=max(1, round(min(label.shape) / 400)))
    contour &= label != ignore_label
    image = to_rgb(image)
    background = class_names.index(BACKGROUND) if BACKGROUND in class_names else -1
    blended = np.empty_like(image)
    for top in range(0, len(image), BAND):
        rows = slice(top, top + BAND)
        part, paint = image[rows], colorize(label[rows], colors, ignore_label)
        # Inside an object the contour is its own colour, darkened: it separates neighbours of a
        # similar colour without adding one that the legend would have to explain.
        mixed = part + ALPHA * (paint - part.astype(np.float32))
        mixed = np.where(contour[rows, :, None], np.float32(0.4) * paint, mixed)
        mixed = np.where((label[rows] == background)[..., None], part, mixed)
        blended[rows] = np.rint(mixed)
    return blended


def _contour(label: Labels, thickness: int) -> NDArray[np.bool_]:
    """Tells which pixels have another class within `thickness` pixels along an axis: [h w]."""
    contour = np.zeros(label.shape, bool)
    for d in range(1, thickness + 1):
        for one, other in ((np.s_[d:], np.s_[:-d]), (np.s_[:, d:], np.s_[:, :-d])):
            differs = label[one] != label[other]
            contour[one] |= differs
            contour[other] |= differs
    return contour


def contact_sheet(
    images: Sequence[Image.Image | Pixels],
    titles: Sequence[str],
    columns: int | None = None,
    cell: int = CELL,
    heading: str | Sequence[str] = "",
    legend: Sequence[tuple[RGB, str]] = (),
) -> Image.Image:
    """Lays images out in a grid of thumbnails of at most cell x cell pixels, captions below.

    A heading stands above all, several above the columns; a legend stands below.
    """
    columns = columns or max(1, ceil(len(images) ** 0.5))
    headings = [heading] if isinstance(heading, str) else heading
    gap, font, large = cell // 20, _font(max(11, cell // 18)), _font(max(12, cell // 15))
    line = round(2.4 * font.size)
    cells = [(fit(image, cell), title) for image, title in zip(images, titles, strict=True)]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(thumbnail.height for thumbnail, _ in row) for row in rows]
    y = gap + line * any(headings)
    size = (gap + columns * (cell + gap), y + sum(heights) + line * len(rows))
    sheet = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(sheet)
    for i, text in enumerate(headings):
        x = gap / 2 + (i + 0.5) * (sheet.width - gap) / len(headings)
        draw.text((x, gap + 0.4 * line), text, INK, large, "mm")
    for row, height in zip(rows, heights, strict=True):
        for i, (thumbnail, title) in enumerate(row):
            x, bottom = gap + i * (cell + gap), y + height
            # Images of a row stand on one line, so that each is next to its caption.
            sheet.paste(thumbnail, (x + (cell - thumbnail.width) // 2, bottom - thumbnail.height))
            text = _shorten(title, font, cell)
            draw.text((x + cell // 2, bottom + 0.8 * font.size), text, INK, font, "mm")
        y += height + line
    return _add_legend(sheet, legend, max(11, cell // 20), margin=gap) if legend else sheet


def comparison(
    images: Sequence[Pixels],
    labels: Sequence[Labels],
    predictions: Sequence[Labels],
    titles: Sequence[str],
    colors: Colors,
    class_names: Names,
    ignore_label: int = 255,
    cell: int = 320,
) -> Image.Image:
    """Shows a row per image: the image, the truth, the prediction, and the errors."""
    shown: list[Pixels] = []
    captions: list[str] = []
    for image, label, prediction, title in zip(images, labels, predictions, titles, strict=True):
        shown += tiles(image, label, prediction, colors, ignore_label).values()
        valid = label != ignore_label
        wrong = np.mean(label[valid] != prediction[valid]) if valid.any() else 0.0
        captions += [title, "", "", f"{_percent(wrong)} wrong"]
    present = _present([*labels, *predictions], colors, class_names, ignore_label)
    legend = [*((color, name) for _, color, name in present), (RED, "wrong")]
    return contact_sheet(shown, captions, len(HEADINGS), cell, HEADINGS, legend)


def gallery(
    images: Sequence[Pixels],
    labels: Sequence[Labels],
    titles: Sequence[str],
    colors: Colors,
    class_names: Names,
    ignore_label: int = 255,
    cell: int = 320,
    *,
    beside: bool = False,
) -> Image.Image:
    """Shows images with their label maps drawn over them, and one legend for all.

    `beside`: each image as it is too, to the left.
    """
    shown = [
        blend(image, label, colors, class_names, ignore_label)
        for image, label in zip(images, labels, strict=True)
    ]
    present = _present(labels, colors, class_names, ignore_label)
    legend = [(color, name) for _, color, name in present if name != BACKGROUND]
    columns = min(4, len(shown))
    if beside:
        shown = [x for pair in zip(images, shown, strict=True) for x in pair]
        titles, columns = [text for title in titles for text in (title, "")], 2 * columns
    return contact_sheet(shown, titles, columns, cell, legend=legend)


HEADINGS = ("image", "truth", "prediction", "errors")


def tiles(
    image: Pixels, label: Labels, prediction: Labels, colors: Colors, ignore_label: int = 255
) -> dict[str, Pixels]:
    """What stands side by side, by its heading, each u8[h w 3]."""
    image = to_rgb(image)
    truth, guess = (colorize(x, colors, ignore_label) for x in (label, prediction))
    shown = (image, truth, guess, errors(image, label, prediction, ignore_label))
    return dict(zip(HEADINGS, shown, strict=True))


def errors(image: Pixels, label: Labels, prediction: Labels, ignore_label: int = 255) -> Pixels:
    """Marks the wrong pixels red over the dimmed grey image; ignored ones are pale and hatched."""
    grey = 40 + 0.4 * to_rgb(image).astype(np.float32).mean(axis=-1, keepdims=True)
    y, x = np.ogrid[: label.shape[0], : label.shape[1]]
    stripe = (x + y) // max(2, max(label.shape) // 100) % 2  # about 100 stripes: survives shrinking
    ignored = label == ignore_label
    wrong = (label != prediction) & ~ignored
    drawn = np.where(ignored[..., None], 150 + 60 * stripe[..., None] + 0.1 * grey, grey)
    return np.where(wrong[..., None], RED, drawn).astype(np.uint8)


def fit(image: Image.Image | Pixels, cell: int) -> Image.Image:
    """Scales an image to fit cell x cell pixels."""
    drawn = image if isinstance(image, Image.Image) else Image.fromarray(to_rgb(image))
    return ImageOps.contain(drawn.convert("RGB"), (cell, cell), Image.Resampling.LANCZOS)


def class_table(confusion: NDArray[np.int64], class_names: Names) -> str:
    """Lays out scores in percent, a line per class, from confusion i64[c c] (truth, prediction).

    "truth" and "predicted" are a class's share of the pixels. The last line has the means over
    the classes for which a score is defined ("-" where it is not).
    """
    by_title = class_scores(confusion)
    scores = np.stack([*by_title.values()])
    known = np.isfinite(scores)
    with np.errstate(invalid="ignore"):  # 0 / 0 is nan
        means = np.where(known, scores, 0).sum(axis=1) / known.sum(axis=1)
    cells = [[f"{title:>11}" for title in by_title]]
    for row in [*scores.T, means]:
        cells.append(["-".rjust(11) if np.isnan(x) else f"{100 * x:11.2f}" for x in row])
    names = ["class", *class_names, "mean"]
    width = max(map(len, names))
    return "\n".join("  ".join([f"{n:<{width}}", *c]) for n, c in zip(names, cells, strict=True))


def class_scores(confusion: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Scores by name, each f64[c] in [0, 1]; nan where undefined.

    IoU counts as undefined where the truth lacks the class.
    """
    correct, truth, guess = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is nan
        return {
            "IoU %": np.where(truth > 0, correct / (truth + guess - correct), np.nan),
            "truth %": truth / confusion.sum(),
            "predicted %": guess / confusion.sum(),
            "recall %": correct / truth,
            "precision %": correct / guess,
        }


def _present(
    labels: Sequence[Labels], colors: Colors, class_names: Names, ignore_label: int
) -> list[tuple[float, RGB, str]]:
    """The classes of all label maps in order, the ignored one last: share, colour and name."""
    pixels = np.concatenate([label.ravel() for label in labels])
    counts = dict(zip(*(x.tolist() for x in np.unique(pixels, return_counts=True)), strict=True))
    ignored = counts.pop(ignore_label, 0)
    known = dict(enumerate(zip(colors, class_names, strict=False)))
    present = [(n / pixels.size, *known.get(k, (CREAM, f"id {k}"))) for k, n in counts.items()]
    return present + [(ignored / pixels.size, CREAM, "ignored")] * (ignored > 0)


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=size))


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Drops the middle of a text that is too wide: numbers tend to stand at its end."""
    short, keep = text, len(text)
    while font.getlength(short) > width and keep > 2:
        keep -= 1
        short = text[: (keep + 1) // 2] + "..." + text[len(text) - keep // 2 :]
    return short


def _add_legend(
    image: Image.Image, entries: Sequence[tuple[RGB, str]], font_size: int, margin: int
) -> Image.Image:
    """Adds a white strip of swatches and their texts below, in as many rows as they need."""
    font, line, width = _font(font_size), round(1.7 * font_size), image.width
    places = []
    x, y = margin, image.height + font_size // 2
    for color, text in entries:
        text = _shorten(text, font, width - 2 * margin - 1.5 * font_size)
        advance = round(1.5 * font_size + font.getlength(text))
        if x > margin and x + advance > width - margin:
            x, y = margin, y + line
        places.append((x, y, color, text))
        x += advance + font_size
    taller = Image.new("RGB", (width, y + line + font_size // 2), WHITE)
    taller.paste(image)
    draw = ImageDraw.Draw(taller)
    for x, y, color, text in places:
        top = y + (line - font_size) // 2
        box = (x, top, x + font_size, top + font_size)
        draw.rectangle(box, color, outline=(130, 130, 130), width=max(1, font_size // 16))
        draw.text((x + 1.5 * font_size, y + line / 2), text, INK, font, "lm")
    return taller
