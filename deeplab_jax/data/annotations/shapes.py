"""Shapes on an image, and the label map that they give: filled by pixel centres.

Coordinates are x to the right and y down, in pixels; (0, 0) is the upper left corner of the image,
so the centre of its first pixel is (0.5, 0.5). Whatever a file says of itself is bounded here:
nothing is allocated for a claim.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from deeplab_jax.config import Size
from deeplab_jax.data.decode import MAX_PIXELS
from deeplab_jax.errors import UserError

VOID = 255  # the ignored label
MAX_POINTS = 100_000  # of a shape
MAX_CROSSINGS = 2**22  # of its edges with the rows of pixels
MAX_AREA = 64 * MAX_PIXELS  # of the boxes of all shapes of an image
MAX_COORDINATE = 2.0**24  # which float32 still holds
CORNERS = 100  # of what stands for an ellipse: its area is 0.07 % too small

Overlap = Literal["paint", "ignore"]


class Runs(NamedTuple):
    """A mask as lengths i32[n] of runs, zeros and ones in turn and zeros first, in a box.

    `top`, `left` and `size` (h, w) are the box; no size: the whole image, however large, which
    may hold more zeros at its end. `by_column`: runs go down columns, as COCO's.
    """

    lengths: np.ndarray
    size: Size | None
    top: int = 0
    left: int = 0
    by_column: bool = True


class Shape(NamedTuple):
    """The pixels of a class: those inside `rings` f32[n 2] of (x, y), even-odd, or in `runs`.

    Of single precision, because data sets have millions of points, which each worker holds.
    """

    class_id: int
    rings: tuple[np.ndarray, ...] = ()
    runs: Runs | None = None


class Drawing(NamedTuple):
    """The shapes on an image of `size` (h, w), as it was annotated: later ones lie on top.

    No size: the annotation names none, and coordinates are shares of the image's width and height.
    """

    size: Size | None
    shapes: tuple[Shape, ...]
    overlap: Overlap = "paint"


def paint(drawing: Drawing, name: str, image_size: Size) -> np.ndarray:
    """The label map u8[h w] of a drawing; what nobody has drawn on is class 0.

    `image_size` (h, w) counts where the drawing names none. With `overlap` "ignore", pixels of two
    classes or more are void.

    Raises:
      UserError: it is too large or malformed; the message begins with `name`.
    """
    return paint_counting(drawing, name, image_size)[0]


def paint_counting(drawing: Drawing, name: str, image_size: Size) -> tuple[np.ndarray, int]:
    """As `paint`, and how many pixels belong to shapes of several classes."""
    h, w = size = drawing.size or image_size
    if not (h > 0 and w > 0 and h * w <= MAX_PIXELS):
        raise UserError(f"{name}: annotated at {w} x {h}; allowed are 1 to {MAX_PIXELS} pixels")
    label = np.zeros((h, w), np.uint8)
    drawn = np.zeros((h, w), bool)
    several = np.zeros((h, w), bool)
    scale = (1, 1) if drawing.size else (w, h)
    area = 0
    for shape in drawing.shapes:
        try:
            top, left, inside = _inside(shape, size, scale)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        area += inside.size
        if area > MAX_AREA:
            raise UserError(f"{name}: {len(drawing.shapes)} shapes, most as large as the image")
        box = np.s_[top : top + inside.shape[0], left : left + inside.shape[1]]
        several[box] |= inside & drawn[box] & (label[box] != shape.class_id)
        label[box][inside] = shape.class_id
        drawn[box] |= inside
    if drawing.overlap == "ignore":
        label[several] = VOID
    return label, int(several.sum())


def _inside(shape: Shape, size: Size, scale: tuple[int, int]) -> tuple[int, int, np.ndarray]:
    """Top, left and bool[h w] of a shape's box, cut to the image."""
    if shape.runs is None:
        return fill([ring.astype(np.float64) * scale for ring in shape.rings], size)
    top, left, mask = decode_runs(shape.runs, size)
    mask = mask[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    return max(top, 0), max(left, 0), mask


def area(shape: Shape) -> float:
    """How many pixels a shape has, roughly; a share of the image where its coordinates are."""
    if shape.runs is not None:
        return float(shape.runs.lengths[1::2].sum(dtype=np.int64))
    total = 0.0
    for ring in shape.rings:
        x, y = (ring - ring[0]).astype(np.float64).T  # from its first point: no closing term
        total += abs(float(x[:-1] @ y[1:] - y[:-1] @ x[1:])) / 2
    return total


# ---- outlines


def numbers(values: object) -> np.ndarray:
    """The numbers that a file holds where a list of them should be; raises ValueError."""
    try:
        array = np.asarray(values)
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError("a list that is not of numbers") from error
    if array.dtype.kind not in "iuf" or array.ndim == 0:
        raise ValueError("a list that is not of numbers")
    return array


def ring(values: object, least: int = 3) -> np.ndarray:
    """A ring f32[n 2] of a file's numbers, x and y in turn or in pairs; raises ValueError."""
    points = numbers(values)
    if points.size % 2 or not (points.ndim == 1 or points.shape[1:] == (2,)):
        raise ValueError("a list that is not of pairs of numbers")
    points = points.reshape(-1, 2).astype(np.float64)
    if not least <= len(points) <= MAX_POINTS:
        raise ValueError(f"{len(points)} points; allowed are {least} to {MAX_POINTS}")
    if not (np.abs(points) < MAX_COORDINATE).all():
        raise ValueError("coordinates that are not finite, or far too large")
    return points.astype(np.float32)


def rectangle(corners: np.ndarray, degrees: float = 0.0) -> np.ndarray:
    """The ring of two opposite corners [2 2], turned clockwise, as it is seen, about its centre."""
    (x0, y0), (x1, y1) = corners.tolist()
    return _turned(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), degrees)


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> np.ndarray:
    """The ring of an ellipse about (x, y), turned clockwise as it is seen."""
    angles = np.arange(CORNERS) * (2 * math.pi / CORNERS)
    return _turned(np.column_stack([x + rx * np.cos(angles), y + ry * np.sin(angles)]), degrees)


def _turned(points: np.ndarray, degrees: float) -> np.ndarray:
    center, angle = points.mean(0), math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    return ring((points - center) @ np.array([[cos, sin], [-sin, cos]]) + center)


def stroke(points: np.ndarray, width: float) -> list[np.ndarray]:
    """The rings of a line through points [n 2]: a rectangle for each part of it."""
    a, b = points[:-1].astype(np.float64), points[1:].astype(np.float64)
    lengths = np.hypot(*(b - a).T)
    a, b, lengths = a[lengths > 0], b[lengths > 0], lengths[lengths > 0]
    across = (b - a)[:, ::-1] * (-1, 1) * (width / 2 / lengths)[:, None]
    return [ring(part) for part in np.stack([a + across, b + across, b - across, a - across], 1)]


# ---- polygons


def fill(rings: Sequence[np.ndarray], size: Size) -> tuple[int, int, np.ndarray]:
    """Top, left and bool[h w]: the pixels of an image whose centres lie inside, by even-odd.

    A ring closes itself; several are holes in one another, or bridges back: what is inside two of
    them is outside. Raises ValueError for too many points, or none in numbers.
    """
    points = np.concatenate([*rings, np.zeros((0, 2))])
    if len(points) > MAX_POINTS:
        raise ValueError(f"a polygon of {len(points)} points; allowed are {MAX_POINTS}")
    if not np.isfinite(points).all():
        raise ValueError("a polygon with coordinates that are not finite")
    nothing = 0, 0, np.zeros((0, 0), bool)
    if len(points) == 0:
        return nothing
    limits = np.array(size[::-1])
    first = np.clip(np.ceil(points.min(0) - 0.5), 0, limits).astype(int)
    last = np.clip(np.ceil(points.max(0) - 0.5), 0, limits).astype(int)
    (left, top), (w, h) = first.tolist(), (last - first).tolist()
    if h <= 0 or w <= 0:
        return nothing
    a, b = points, np.concatenate([part for ring in rings for part in (ring[1:], ring[:1])])
    down = a[:, 1:] <= b[:, 1:]
    upper, lower = np.where(down, a, b), np.where(down, b, a)
    # Of each edge the rows whose centres it crosses, its lower end not included.
    begin, end = (np.clip(np.ceil(p[:, 1] - 0.5) - top, 0, h).astype(int) for p in (upper, lower))
    counts = end - begin
    if counts.sum() > MAX_CROSSINGS:
        raise ValueError(f"a polygon whose edges cross {counts.sum()} rows of pixels: far too many")
    edge = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - begin, counts)
    (x0, y0), (x1, y1) = upper[edge].T, lower[edge].T
    x = x0 + (row + top + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    column = np.clip(np.ceil(x - 0.5) - left, 0, w).astype(int)
    flips = np.zeros((h, w + 1), bool)
    np.logical_xor.at(flips, (row, column), True)  # several edges may cross at one pixel
    return top, left, np.logical_xor.accumulate(flips[:, :-1], axis=1)


# ---- run lengths


def decode_runs(runs: Runs, image_size: Size) -> tuple[int, int, np.ndarray]:
    """Top, left and the mask bool[h w] of the lines, columns or rows, that have ones.

    Raises ValueError where the runs do not fill their box.
    """
    h, w = runs.size or image_size
    lengths = np.asarray(runs.lengths, np.int64)
    if h < 0 or w < 0 or h * w > MAX_PIXELS:
        raise ValueError(f"run lengths of a mask of {w} x {h}; allowed are {MAX_PIXELS} pixels")
    wrong = (lengths < 0).any() or (lengths > h * w).any() or lengths.sum() > h * w
    if wrong or (runs.size is not None and lengths.sum() != h * w):
        raise ValueError(f"run lengths that sum to {lengths.sum()} for a mask of {w} x {h}")
    pairs = lengths[: len(lengths) // 2 * 2]
    across = h if runs.by_column else w
    if pairs[1::2].sum() == 0:
        return runs.top, runs.left, np.zeros((0, 0), bool)
    begin, end = int(pairs[0]) // across, -(-int(pairs.sum()) // across)  # in lines
    inner = np.append(pairs, end * across - pairs.sum())
    inner[0] -= begin * across
    lines = np.repeat(np.arange(len(inner)) % 2 == 1, inner).reshape(-1, across)
    if runs.by_column:
        return runs.top, runs.left + begin, lines.T
    return runs.top + begin, runs.left, lines


def encode_runs(mask: np.ndarray, *, by_column: bool = True) -> np.ndarray:
    """The run lengths i64[n] of a mask bool[h w], zeros first."""
    values = np.concatenate([[False], (mask.T if by_column else mask).ravel()])
    changes = np.flatnonzero(values[1:] != values[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).astype(np.int64)


def parse_coco_string(text: str) -> np.ndarray:
    """The run lengths i64[n] of COCO's compressed form; raises ValueError for another.

    A character less 48 has five bits of a number, the lowest first, and a sixth that says whether
    more follow; the highest of the last is its sign. From the third length on (the fourth number
    in all) it is the difference to the one two before. Source: cocoapi, common/maskApi.c.
    """
    bits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if (bits < 0).any() or (bits >= 64).any() or (len(bits) and bits[-1] & 32):
        raise ValueError("run lengths with other characters than theirs, or without an end")
    ends = np.flatnonzero(bits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    if len(ends) == 0:
        return ends
    if (ends - starts).max() > 6:
        raise ValueError("run lengths with a number of more than 35 bits")
    shifts = 5 * (np.arange(len(bits)) - np.repeat(starts, ends - starts + 1))
    numbers = np.add.reduceat((bits & 31) << shifts, starts)
    numbers -= np.where(bits[ends] & 16, 32 << shifts[ends], 0)
    for later in (numbers[1::2], numbers[2::2]):
        later[:] = np.cumsum(later)
    return numbers


def write_coco_string(lengths: Sequence[int]) -> str:
    """The compressed form that `parse_coco_string` reads."""
    out = []
    for i, length in enumerate(lengths):
        number = int(length) - (int(lengths[i - 2]) if i > 2 else 0)
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            out.append(chr(48 + bits + 32 * more))
    return "".join(out)


def box_runs(
    values: object, size: Size, top: int = 0, left: int = 0, by_column: bool = True
) -> Runs:
    """The runs that a file gives for a box; raises ValueError where they do not fill it."""
    lengths, area = numbers(values), size[0] * size[1]
    if min(size) < 1 or area > MAX_PIXELS or max(abs(top), abs(left)) > MAX_COORDINATE:
        raise ValueError("a box without pixels, too large or too far away")
    if lengths.ndim != 1 or lengths.dtype.kind == "f" or (lengths < 0).any():
        raise ValueError("run lengths that are no such numbers")
    if (lengths > area).any() or lengths.sum() != area:
        raise ValueError("run lengths that do not fill their box")
    return Runs(lengths.astype(np.int32), size, top, left, by_column)


def runs_from_starts(pairs: np.ndarray, *, by_column: bool = True) -> Runs:
    """The runs of a whole image from Kaggle's pairs [n 2] of a start, from 1, and a length.

    Raises ValueError where they overlap.
    """
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    edges = np.column_stack([pairs[:, 0] - 1, pairs.sum(axis=1) - 1]).ravel()
    lengths = np.diff(edges, prepend=0)
    if (pairs < 1).any() or (pairs > MAX_PIXELS).any() or (lengths < 0).any():
        raise ValueError("pairs of a start and a length that overlap, or are no such numbers")
    return Runs(lengths.astype(np.int32), None, by_column=by_column)
