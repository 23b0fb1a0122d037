"""Shapes on an image, and the label map that they give: filled by pixel centres.

Coordinates are x to the right and y down, in pixels; (0, 0) is the upper left corner of the image,
so the centre of its first pixel is (0.5, 0.5). Whatever a file says of itself is bounded here:
nothing is allocated for a claim.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from deeplab_jax.config import Size
from deeplab_jax.data.decode import MAX_PIXELS
from deeplab_jax.errors import UserError

VOID = 255  # the ignored label
MAX_POINTS = 100_000  # of a shape
MAX_CROSSINGS = 2**26  # of its edges with the rows of pixels

Overlap = Literal["paint", "ignore"]


class Runs(NamedTuple):
    """A mask as lengths i64[n] of runs, zeros and ones in turn and zeros first, in a box.

    `top`, `left` and `size` (h, w) are the box; `by_column`: runs go down columns, as COCO's.
    """

    lengths: np.ndarray
    size: Size
    top: int = 0
    left: int = 0
    by_column: bool = True


class Shape(NamedTuple):
    """The pixels of a class: those inside `rings` f64[n 2] of (x, y), even-odd, or in `runs`."""

    class_id: int
    rings: tuple[np.ndarray, ...] = ()
    runs: Runs | None = None


class Drawing(NamedTuple):
    """The shapes on an image of `size` (h, w), as it was annotated: later ones lie on top."""

    size: Size
    shapes: tuple[Shape, ...]
    overlap: Overlap = "paint"


def paint(drawing: Drawing, name: str) -> np.ndarray:
    """The label map u8[h w] of a drawing; what nobody has drawn on is class 0.

    With `overlap` "ignore", pixels of two classes or more are void.

    Raises:
      UserError: it is too large or malformed; the message begins with `name`.
    """
    return paint_counting(drawing, name)[0]


def paint_counting(drawing: Drawing, name: str) -> tuple[np.ndarray, int]:
    """As `paint`, and how many pixels belong to shapes of several classes."""
    h, w = drawing.size
    if not (h > 0 and w > 0 and h * w <= MAX_PIXELS):
        raise UserError(f"{name}: annotated at {w} x {h}; allowed are 1 to {MAX_PIXELS} pixels")
    label = np.zeros((h, w), np.uint8)
    drawn = np.zeros((h, w), bool)
    several = np.zeros((h, w), bool)
    for shape in drawing.shapes:
        try:
            top, left, inside = _inside(shape, drawing.size)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        box = np.s_[top : top + inside.shape[0], left : left + inside.shape[1]]
        several[box] |= inside & drawn[box] & (label[box] != shape.class_id)
        label[box][inside] = shape.class_id
        drawn[box] |= inside
    if drawing.overlap == "ignore":
        label[several] = VOID
    return label, int(several.sum())


def _inside(shape: Shape, size: Size) -> tuple[int, int, np.ndarray]:
    """Top, left and bool[h w] of a shape's box, cut to the image."""
    if shape.runs is None:
        return fill(shape.rings, size)
    mask, (top, left) = decode_runs(shape.runs), (shape.runs.top, shape.runs.left)
    mask = mask[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    return max(top, 0), max(left, 0), mask


# ---- polygons


def fill(rings: Sequence[np.ndarray], size: Size) -> tuple[int, int, np.ndarray]:
    """Top, left and bool[h w]: the pixels of an image whose centres lie inside, by even-odd.

    A ring closes itself; several are holes in one another, or bridges back: what is inside two of
    them is outside. Raises ValueError for too many points, or none in numbers.
    """
    rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    points = np.concatenate(rings) if rings else np.zeros((0, 2))
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
    a = points
    b = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    upper, lower = np.where(a[:, 1:] <= b[:, 1:], a, b), np.where(a[:, 1:] <= b[:, 1:], b, a)
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
    flips = np.bincount(row * (w + 1) + column, minlength=h * (w + 1)).reshape(h, w + 1)
    return top, left, (np.cumsum(flips[:, :-1], axis=1) & 1).astype(bool)


# ---- run lengths


def decode_runs(runs: Runs) -> np.ndarray:
    """The mask bool[h w] of run lengths; raises ValueError where they do not fill its box."""
    lengths, (h, w) = np.asarray(runs.lengths, np.int64), runs.size
    if h < 0 or w < 0 or h * w > MAX_PIXELS:
        raise ValueError(f"run lengths of a mask of {w} x {h}; allowed are {MAX_PIXELS} pixels")
    if (lengths < 0).any() or (lengths > h * w).any() or lengths.sum() != h * w:
        raise ValueError(f"run lengths that sum to {lengths.sum()} for a mask of {w} x {h}")
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return values.reshape(w, h).T if runs.by_column else values.reshape(h, w)


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
    lengths: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(f"run lengths with the character {character!r}, or without an end")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("run lengths that end within a number")
    return np.array(lengths, np.int64)


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


def runs_from_starts(numbers: Sequence[int], size: Size, *, by_column: bool) -> Runs:
    """Runs from Kaggle's pairs `start length`, which count from 1; raises ValueError."""
    pairs = np.asarray(numbers, np.int64).reshape(-1, 2)
    starts, ends = pairs[:, 0] - 1, pairs.sum(axis=1) - 1
    edges = np.column_stack([starts, ends]).ravel()
    if len(edges) and (edges[0] < 0 or (np.diff(edges) < 0).any() or edges[-1] > size[0] * size[1]):
        raise ValueError(f"pairs 'start length' that overlap or leave an image of {size[::-1]}")
    lengths = np.diff(np.concatenate([[0], edges, [size[0] * size[1]]]))
    return Runs(lengths, size, by_column=by_column)
