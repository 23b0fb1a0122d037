"""*scenes*: a small, offline, deterministic segmentation data set that cannot be solved pixel-wise.

Every image has sky, ground, water and road as large regions, with trees, houses and two pairs of
look-alikes standing on them.  A *craft* is a boat on water and a car on a road; a *figure* is a
buoy on water and a person beside a road.  Both members of a pair come from the same drawing
function and the same distribution of sizes, colours and orientations, because craft and figures
are drawn for a *band* across the image before a coin has decided which band is water and which
is road.  So only context tells them apart.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from functools import partial, reduce
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFilter

CLASS_NAMES = (
    "sky", "ground", "water", "road", "building", "tree", "boat", "car", "person", "buoy",
)  # fmt: skip
COLORS = (
    (150, 205, 240), (130, 180, 90), (40, 110, 190), (120, 115, 125), (190, 110, 70),
    (30, 115, 60), (245, 195, 60), (205, 40, 60), (240, 130, 190), (120, 60, 170),
)  # fmt: skip
IGNORE_LABEL = 255

SKY, GROUND, WATER, ROAD, BUILDING, TREE, BOAT, CAR, PERSON, BUOY = range(len(CLASS_NAMES))
FIRST_OBJECT = BUILDING  # objects get a void border; the classes before are regions
SUPERSAMPLING = 2
SPLIT_SEEDS = {"train": 1, "validation": 2}

Color = tuple[float, float, float]  # RGB in 0..1
Ink = int | tuple[int, int, int]  # what PIL draws with: a label or RGB in 0..255
Points = list[tuple[float, float]]


class Mood(NamedTuple):
    """Colours of a time of day; the tint multiplies the finished image."""

    zenith: Color
    skyline: Color
    sun: Color
    cloud: Color
    grass: Color
    water: Color
    tint: Color
    lamps_lit: bool


MOODS = (
    Mood((0.25, 0.53, 0.86), (0.80, 0.91, 0.96), (1.0, 0.97, 0.82), (1.0, 1.0, 1.0),
         (0.47, 0.66, 0.27), (0.16, 0.47, 0.68), (1.0, 1.0, 1.0), False),  # noon
    Mood((0.42, 0.66, 0.82), (0.99, 0.87, 0.73), (1.0, 0.93, 0.72), (1.0, 0.96, 0.90),
         (0.56, 0.67, 0.31), (0.25, 0.53, 0.64), (1.0, 0.97, 0.92), False),  # morning
    Mood((0.36, 0.42, 0.70), (1.0, 0.69, 0.44), (1.0, 0.84, 0.52), (1.0, 0.76, 0.62),
         (0.58, 0.62, 0.27), (0.22, 0.43, 0.62), (1.0, 0.94, 0.88), True),  # golden evening
    Mood((0.28, 0.30, 0.58), (0.98, 0.66, 0.62), (1.0, 0.82, 0.70), (0.90, 0.60, 0.66),
         (0.33, 0.55, 0.40), (0.22, 0.37, 0.62), (0.90, 0.87, 0.98), True),  # dusk
)  # fmt: skip

HULLS = ((0.85, 0.20, 0.18), (0.95, 0.56, 0.14), (0.97, 0.80, 0.22), (0.92, 0.92, 0.90),
         (0.10, 0.55, 0.56), (0.48, 0.27, 0.60), (0.16, 0.25, 0.48))  # fmt: skip
DARK, LIGHT, SUNLIT = (0.10, 0.09, 0.14), (1.0, 0.99, 0.95), (0.78, 0.80, 0.30)
GLASS, CHROME, TIMBER = (0.62, 0.80, 0.88), (0.72, 0.72, 0.74), (0.34, 0.24, 0.17)
CABINS = ((0.97, 0.96, 0.91), (0.93, 0.84, 0.68), (0.62, 0.24, 0.20), (0.25, 0.38, 0.52))
FIGURES = ((0.88, 0.18, 0.20), (0.98, 0.74, 0.10), (0.95, 0.45, 0.12), (0.60, 0.16, 0.42))
WALLS = ((0.95, 0.90, 0.80), (0.91, 0.76, 0.62), (0.86, 0.66, 0.56), (0.80, 0.83, 0.82))
ROOFS = ((0.67, 0.29, 0.22), (0.52, 0.31, 0.27), (0.36, 0.37, 0.43), (0.76, 0.42, 0.26))
LEAVES = ((0.17, 0.40, 0.19), (0.24, 0.45, 0.18), (0.13, 0.35, 0.25), (0.33, 0.44, 0.15))


class Band(NamedTuple):
    """A strip across the image: centre row and half height [w], in pixels."""

    centre: np.ndarray
    half: np.ndarray

    def row(self, x: float, across: float) -> float:
        """The row at column x; across is -1 at the far bank and 1 at the near bank."""
        column = int(np.clip(x, 0, len(self.centre) - 1))
        return float(self.centre[column] + across * self.half[column])


class Craft(NamedTuple):
    """A boat or a car: middle of its base (x, y) and length in pixels, tilt in radians."""

    x: float
    y: float
    length: float
    tilt: float
    facing: int
    hull: Color
    cabin: Color


class Figure(NamedTuple):
    """A person or a buoy: column and height in pixels."""

    x: float
    height: float
    color: Color


class Canvas:
    """Image and label map that are drawn on together, so that they always agree."""

    def __init__(self, image: np.ndarray, label: np.ndarray) -> None:
        size = (label.shape[1] * SUPERSAMPLING, label.shape[0] * SUPERSAMPLING)
        self.image = Image.fromarray(_to_u8(image)).resize(size, Image.Resampling.NEAREST)
        self.label = Image.fromarray(label).resize(size, Image.Resampling.NEAREST)
        self._pens = (ImageDraw.Draw(self.image), ImageDraw.Draw(self.label))

    def polygon(self, points: Points, color: Color, label: int) -> None:
        """Fill a polygon given in pixels of the finished image."""
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        fills: tuple[Ink, Ink] = (_rgb(color), label)
        for pen, fill in zip(self._pens, fills, strict=True):
            pen.polygon(scaled, fill=fill)

    def disc(self, x: float, y: float, rx: float, ry: float, color: Color, label: int) -> None:
        """Fill an axis-aligned ellipse given in pixels of the finished image."""
        box = [v * SUPERSAMPLING for v in (x - rx, y - ry, x + rx, y + ry)]
        fills: tuple[Ink, Ink] = (_rgb(color), label)
        for pen, fill in zip(self._pens, fills, strict=True):
            pen.ellipse(box, fill=fill)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Antialiased image f32 [h w 3] and label u8 [h w] with void around objects."""
        image = np.asarray(self.image.reduce(SUPERSAMPLING), np.float32) / 255
        fine = np.asarray(self.label)
        step = range(SUPERSAMPLING)
        parts = [fine[i::SUPERSAMPLING, j::SUPERSAMPLING] for i in step for j in step]
        low, high = reduce(np.minimum, parts), reduce(np.maximum, parts)
        # Void only outside an object and where it covers a pixel in part: thin parts stay labelled.
        high = np.asarray(Image.fromarray(high).filter(ImageFilter.MaxFilter(3)))
        return image, np.where((high >= FIRST_OBJECT) & (high > low), IGNORE_LABEL, low)


def render(
    seed: int, index: int, height: int = 257, width: int = 321
) -> tuple[np.ndarray, np.ndarray]:
    """Image number index of a seed: image u8 [h w 3] and label u8 [h w]."""
    rng = np.random.Generator(np.random.PCG64([seed, index, height, width]))
    mood = MOODS[rng.integers(len(MOODS))]
    horizon = height * rng.uniform(0.27, 0.36)
    bands = _lay_bands(rng, height, width, horizon)
    crafts = [_sample_crafts(rng, band, horizon) for band in bands]
    all_crafts = list(chain.from_iterable(crafts))
    figures = [_sample_figures(rng, band, horizon, all_crafts) for band in bands]
    kinds = _choose_kinds(rng, len(bands))  # only here does a band become water or road

    image, label = _paint_land(rng, mood, height, width, horizon)
    for band, kind in zip(bands, kinds, strict=True):
        _paint_band(rng, mood, image, label, band, kind)
    drawings, shadows = _plan_drawings(rng, mood, label, horizon, bands, kinds, crafts, figures)
    canvas = Canvas(image * _cast_shadows(shadows, height, width), label)
    for _, draw in sorted(drawings, key=lambda item: item[0]):  # far to near
        draw(canvas)
    image, label = canvas.finish()
    return _grade(rng, mood, image), label.astype(np.uint8)


# ---------------------------------------------------------------------------------------- layout


def _lay_bands(rng: np.random.Generator, height: int, width: int, horizon: float) -> list[Band]:
    """Two or three winding bands from far to near, wider the nearer they are."""
    land = height - horizon
    rows: tuple[float, ...]
    halves: tuple[float, ...]
    if rng.random() < 0.6:
        rows, halves = (0.33, 0.80), (0.115, 0.175)
    else:
        rows, halves = (0.24, 0.525, 0.885), (0.075, 0.095, 0.135)
    u = np.linspace(-0.5, 0.5, width)
    slope = rng.uniform(-0.08, 0.08)  # shared, so that bands do not meet
    bands = []
    for row, half in zip(rows, halves, strict=True):
        bend = 0.022 * np.sin(2 * np.pi * (u * rng.uniform(0.7, 1.5) + rng.random()))
        swell = 1 + 0.16 * np.sin(2 * np.pi * (u * rng.uniform(0.8, 1.6) + rng.random()))
        centre = horizon + land * (row + rng.uniform(-0.015, 0.015) + bend + slope * u * 1.2 * row)
        bands.append(Band(centre, land * half * swell))
    return bands


def _choose_kinds(rng: np.random.Generator, count: int) -> list[int]:
    """WATER or ROAD for each band; both occur, and swapping them is equally likely."""
    first = rng.integers(2)
    kinds = [(WATER, ROAD)[(first + i) % 2] for i in range(2)]
    return list(rng.permutation(kinds + kinds[:1] if count == 3 else kinds))


def _sample_crafts(rng: np.random.Generator, band: Band, horizon: float) -> list[Craft]:
    """One to three craft on a band, whatever the band is going to be."""
    width = len(band.centre)
    crafts = []
    for cell in rng.permutation(3)[: rng.integers(1, 4)]:
        x = width * (cell + rng.uniform(0.3, 0.7)) / 3
        y = band.row(x, rng.uniform(0.1, 0.6))
        slope = np.arctan2(band.row(x + 8, 0) - band.row(x - 8, 0), 16)
        crafts.append(
            Craft(
                x, y, (0.46 * (y - horizon) + 0.025 * width) * rng.uniform(0.85, 1.15),
                float(slope + rng.uniform(-0.03, 0.03)), int(rng.choice((-1, 1))),
                HULLS[rng.integers(len(HULLS))], CABINS[rng.integers(len(CABINS))],
            )
        )  # fmt: skip
    return crafts


def _sample_figures(
    rng: np.random.Generator, band: Band, horizon: float, crafts: list[Craft]
) -> list[Figure]:
    """Up to three figures along the far bank of a band, whatever the band is going to be."""
    width = len(band.centre)
    figures: list[Figure] = []
    for cell in rng.permutation(5)[: rng.integers(2, 5)]:
        x = width * (cell + rng.uniform(0.2, 0.8)) / 5
        y = band.row(x, -1)
        height = 0.36 * (y - horizon) * rng.uniform(0.85, 1.15) + 0.03 * width
        color = FIGURES[rng.integers(len(FIGURES))]
        # With its foot hidden behind a craft, nobody could tell what a figure is.
        hidden = any(
            abs(x - c.x) < 0.5 * c.length + 0.25 * height and c.y > y > c.y - 0.75 * c.length
            for c in crafts
        )
        if not hidden and len(figures) < 3:
            figures.append(Figure(x, height, color))
    return figures


Drawing = tuple[float, Callable[[Canvas], None]]  # base row for the order, drawing function
Shadow = tuple[float, float, float]  # middle (x, y) and half width in pixels


def _plan_drawings(
    rng: np.random.Generator, mood: Mood, label: np.ndarray, horizon: float,
    bands: list[Band], kinds: list[int], crafts: list[list[Craft]], figures: list[list[Figure]],
) -> tuple[list[Drawing], list[Shadow]]:  # fmt: skip
    """Everything that stands in the image, with its shadow."""
    drawings: list[Drawing] = []
    shadows: list[Shadow] = []
    for band, kind, on_band, at_bank in zip(bands, kinds, crafts, figures, strict=True):
        for craft in on_band:
            name = BOAT if kind == WATER else CAR
            drawings.append((craft.y, partial(_craft, craft=craft, label=name)))
            shadows.append((craft.x, craft.y, 0.5 * craft.length))
        for figure in at_bank:
            # A buoy floats just inside the far bank, a person stands just outside it.
            name, across = (BUOY, -0.65) if kind == WATER else (PERSON, -1.22)
            y = band.row(figure.x, across)
            drawings.append((y, partial(_figure, figure=figure, y=y, label=name)))
            shadows.append((figure.x, y, 0.25 * figure.height))
    for x, y, size in _free_places(rng, label, horizon, list(shadows)):
        shadows.append((x, y, 0.45 * size))
        haze = 0.35 * float(np.exp(-(y - horizon) / (0.15 * label.shape[0])))
        drawings.append((y, _sample_upright(rng, mood, x, y, size, haze)))
    return drawings, shadows


def _free_places(
    rng: np.random.Generator, label: np.ndarray, horizon: float, standing: list[Shadow]
) -> Iterator[tuple[float, float, float]]:
    """Places (x, y, size in pixels) on the ground that hide nothing that stands already."""
    height, width = label.shape
    taken: list[tuple[float, float, float]] = []
    for _ in range(70):
        x = rng.uniform(0, width)
        y = horizon + (height - horizon) * rng.uniform(0.03, 1) ** 1.5
        size = (0.07 * height + 0.33 * (y - horizon)) * rng.uniform(0.85, 1.25)
        columns = np.clip([x - 0.4 * size, x, x + 0.4 * size], 0, width - 1).astype(int)
        rows = [int(y), min(int(y + 0.03 * height), height - 1)]
        on_ground = all((label[row, columns] == GROUND).all() for row in rows)
        hides = any(
            abs(x - sx) < 0.5 * size + half and y > sy > y - 1.6 * size for sx, sy, half in standing
        )
        crowded = any(abs(x - px) < 0.42 * (size + s) and abs(y - py) < s for px, py, s in taken)
        if on_ground and not hides and not crowded and len(taken) < 14:
            taken.append((x, y, size))
            yield x, y, size


def _sample_upright(
    rng: np.random.Generator, mood: Mood, x: float, y: float, size: float, haze: float
) -> Callable[[Canvas], None]:
    """The drawing function of a house, a round tree or a fir."""
    kind = rng.random()
    air = mood.skyline
    if kind < 0.42:
        wall, roof = (_mix(p[rng.integers(len(p))], air, haze) for p in (WALLS, ROOFS))
        storeys, flip = int(rng.integers(1, 3)), int(rng.choice((-1, 1)))
        return lambda c: _house(c, x, y, size, storeys, flip, wall, roof, mood.lamps_lit)
    leaf = _mix(LEAVES[rng.integers(len(LEAVES))], air, haze)
    blobs = rng.uniform(-1, 1, (7, 2))
    draw = _round_tree if kind < 0.75 else _fir
    return lambda c: draw(c, x, y, 1.15 * size, leaf, blobs)


# --------------------------------------------------------------------------------------- sprites


def _craft(canvas: Canvas, craft: Craft, label: int) -> None:
    """Hull, cabin, windows, mast and two tyres: wheels on a road, fenders on water."""
    cos, sin = np.cos(craft.tilt), np.sin(craft.tilt)

    def place(points: Points) -> Points:
        """From units of length, x forwards from the middle and y up, to pixels."""
        out = []
        for u, v in points:
            du, dv = u * craft.facing * craft.length, -v * craft.length
            out.append((craft.x + du * cos - dv * sin, craft.y + du * sin + dv * cos))
        return out

    def shape(points: Points, color: Color) -> None:
        canvas.polygon(place(points), color, label)

    hull, cabin = craft.hull, craft.cabin
    shape([(-0.20, 0.4), (-0.20, 0.62), (-0.145, 0.62), (-0.145, 0.4)], _mix(cabin, DARK, 0.45))
    shape([(-0.28, 0.22), (-0.26, 0.45), (0.10, 0.45), (0.19, 0.22)], cabin)
    shape([(-0.31, 0.44), (-0.30, 0.49), (0.13, 0.49), (0.14, 0.44)], _mix(cabin, DARK, 0.35))
    shape([(-0.22, 0.28), (-0.21, 0.41), (-0.08, 0.41), (-0.08, 0.28)], GLASS)
    shape([(-0.03, 0.28), (-0.03, 0.41), (0.07, 0.41), (0.115, 0.28)], GLASS)
    shape([(-0.49, 0.25), (0.2, 0.24), (0.5, 0.32), (0.37, 0.0), (-0.42, 0.0)], hull)
    shape([(-0.45, 0.09), (0.41, 0.09), (0.37, 0.0), (-0.42, 0.0)], _mix(hull, DARK, 0.4))
    shape([(-0.482, 0.205), (0.2, 0.195), (0.483, 0.275), (0.5, 0.32), (0.2, 0.24), (-0.49, 0.25)],
          _mix(hull, LIGHT, 0.6))  # fmt: skip
    for u in (-0.25, 0.2):
        x, y = place([(u, 0.06)])[0]
        canvas.disc(x, y, 0.08 * craft.length, 0.08 * craft.length, DARK, label)
        canvas.disc(x, y, 0.035 * craft.length, 0.035 * craft.length, CHROME, label)


def _figure(canvas: Canvas, figure: Figure, y: float, label: int) -> None:
    """A slender body under a round head: a coat and a face, or a float and its lamp."""
    x, size, color = figure.x, figure.height, figure.color

    def slab(low: float, high: float, wide: float, narrow: float, tone: Color) -> None:
        corners = [(-wide, low), (wide, low), (narrow, high), (-narrow, high)]
        canvas.polygon([(x + u * size, y - v * size) for u, v in corners], tone, label)

    slab(0.0, 0.3, 0.19, 0.17, _mix(color, DARK, 0.6))
    slab(0.26, 0.66, 0.175, 0.145, color)
    slab(0.42, 0.52, 0.165, 0.155, (0.97, 0.95, 0.90))
    slab(0.65, 0.76, 0.145, 0.07, color)
    canvas.disc(x, y - 0.86 * size, 0.125 * size, 0.135 * size, (0.98, 0.84, 0.68), label)


def _house(
    canvas: Canvas, x: float, y: float, size: float, storeys: int, flip: int,
    wall: Color, roof: Color, lit: bool,
) -> None:  # fmt: skip
    """A gabled house seen from a corner: gable wall, long wall, roof, chimney, windows, door."""
    eaves = 0.42 * size * storeys**0.6
    ridge = eaves + 0.36 * size

    def shape(points: Points, color: Color) -> None:
        canvas.polygon([(x + flip * u * size, y - v) for u, v in points], color, BUILDING)

    pane = (1.0, 0.86, 0.45) if lit else (0.36, 0.47, 0.56)
    shape([(0.22, eaves), (0.22, ridge + 0.1 * size), (0.33, ridge + 0.1 * size), (0.33, eaves)],
          _mix(roof, DARK, 0.3))  # fmt: skip
    shape([(-0.08, 0), (0.5, 0), (0.5, eaves), (-0.08, eaves)], _mix(wall, DARK, 0.18))
    shape([(-0.5, 0), (-0.08, 0), (-0.08, eaves), (-0.29, ridge), (-0.5, eaves)], wall)
    shape([(-0.32, ridge + 0.02 * size), (0.38, ridge), (0.55, eaves - 0.05 * size),
           (-0.06, eaves - 0.05 * size)], roof)  # fmt: skip
    shape([(-0.27, ridge + 0.02 * size), (-0.34, ridge + 0.02 * size), (-0.56, eaves - 0.04 * size),
           (-0.5, eaves - 0.04 * size)], _mix(roof, DARK, 0.25))  # fmt: skip
    for storey in range(storeys):
        v = eaves * (storey + 0.38) / storeys
        top = v + 0.15 * size
        for u in (0.02, 0.19, 0.36):
            shape([(u, v), (u + 0.1, v), (u + 0.1, top), (u, top)], pane)
        u = -0.245 if storey else -0.22
        shape([(u - 0.1, v), (u, v), (u, top), (u - 0.1, top)], pane)
    shape([(-0.35, 0), (-0.22, 0), (-0.22, 0.24 * size), (-0.35, 0.24 * size)],
          _mix(roof, DARK, 0.45))  # fmt: skip


def _round_tree(
    canvas: Canvas, x: float, y: float, size: float, leaf: Color, blobs: np.ndarray
) -> None:
    """A trunk under a crown of blobs that are lighter towards the upper left."""
    w = max(0.05 * size, 1.5)
    canvas.polygon([(x - w, y), (x + w, y), (x + 0.7 * w, y - 0.6 * size),
                    (x - 0.7 * w, y - 0.6 * size)], TIMBER, TREE)  # fmt: skip
    for i, (du, dv) in enumerate(blobs):
        fade = i / len(blobs)
        u = (0.2 * du - 0.08 * fade) * size
        v = (0.7 + 0.15 * dv + 0.08 * fade) * size
        r = (0.27 - 0.14 * fade) * size
        tone = _mix(_mix(leaf, DARK, 0.2), SUNLIT, 0.42 * fade)
        canvas.disc(x + u, y - v, r, 0.92 * r, tone, TREE)


def _fir(canvas: Canvas, x: float, y: float, size: float, leaf: Color, blobs: np.ndarray) -> None:
    """A trunk under four tiers, each with a sunlit and a shaded half."""
    w = max(0.045 * size, 1.5)
    height = (1.2 + 0.12 * blobs[0, 0]) * size
    canvas.polygon([(x - w, y), (x + w, y), (x + w, y - 0.3 * size), (x - w, y - 0.3 * size)],
                   TIMBER, TREE)  # fmt: skip
    for tier in range(4):
        base, top = y - height * (0.16 + 0.19 * tier), y - height * (0.5 + 0.167 * tier)
        half = size * (0.34 - 0.062 * tier)
        canvas.polygon([(x - half, base), (x + half, base), (x, top)], _mix(leaf, DARK, 0.22), TREE)
        canvas.polygon([(x - half, base), (x + 0.1 * half, base - 0.1 * half), (x, top)],
                       _mix(leaf, SUNLIT, 0.1 + 0.06 * tier), TREE)  # fmt: skip


# --------------------------------------------------------------------------------------- regions


def _paint_land(
    rng: np.random.Generator, mood: Mood, height: int, width: int, horizon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sky, two ranges of hills and a meadow: image f32 [h w 3] and label u8 [h w]."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    depth = np.clip((rows - horizon) / (height - horizon), 0, 1)[:, :, None]
    meadow = _ramp(_mix(mood.grass, mood.skyline, 0.3), _mix(mood.grass, DARK, 0.16), depth)
    texture = _noise(rng, height, width, 9, 4) + 0.5 * _noise(rng, height, width, 120, 90)
    meadow = meadow * (1 + 0.06 * texture[:, :, None])

    image = np.zeros((height, width, 3), np.float32)
    sky_rows = min(int(horizon) + 4, height)
    image[:sky_rows] = _sky(rng, mood, sky_rows, width)
    label = np.full((height, width), SKY, np.uint8)
    layers = (
        (0.13, 0.050, _mix(mood.grass, _mix(mood.skyline, mood.zenith, 0.4), 0.62)),
        (0.06, 0.032, _mix(mood.grass, mood.skyline, 0.36)),
        (0.012, 0.012, meadow),
    )
    u = np.linspace(0, 1, width, dtype=np.float32)
    for rise, swing, color in layers:
        wave = _wave(rng, u, 1.1) + 0.4 * _wave(rng, u, 2.9)
        top = horizon - height * np.maximum(rise + swing * wave, 0).astype(np.float32)
        _blend(image, color, rows - top)
        label[rows >= top] = GROUND
    return image, label


def _sky(rng: np.random.Generator, mood: Mood, height: int, width: int) -> np.ndarray:
    """A gradient with the sun and clouds, f32 [h w 3]."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    sky = _ramp(mood.zenith, mood.skyline, np.broadcast_to(rows[:, :, None], (height, width, 1)))
    sun_x, sun_y = width * rng.uniform(0.1, 0.9), height * rng.uniform(0.2, 0.65)
    x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    distance = np.hypot(x - sun_x, y - sun_y) / (0.05 * width)
    glow = 0.55 * np.exp(-distance / 2.2) + 0.6 * np.clip((1 - distance) * 8, 0, 1)
    sky += np.clip(glow, 0, 1)[:, :, None] * (np.array(mood.sun, np.float32) - sky)
    puffs = _noise(rng, height, width, 4, 4) + 0.55 * _noise(rng, height, width, 9, 10)
    puffs += 0.3 * _noise(rng, height, width, 18, 24)
    thick = np.clip((puffs - rng.uniform(0.0, 0.8)) * 1.1, 0, 0.9) * (1 - 0.6 * rows)
    lit = 1 - 0.16 * np.clip(puffs - 1.0, 0, 1)[:, :, None]  # thick clouds are grey inside
    return sky + thick[:, :, None] * (np.array(mood.cloud, np.float32) * lit - sky)


def _paint_band(
    rng: np.random.Generator,
    mood: Mood,
    image: np.ndarray,
    label: np.ndarray,
    band: Band,
    kind: int,
) -> None:
    """Paint a river or a road and its bank in place; the bank is ground."""
    height = label.shape[0]
    top = max(int((band.centre - 1.3 * band.half).min()), 0)
    bottom = min(int((band.centre + 1.3 * band.half).max()) + 2, height)
    rows = np.arange(top, bottom, dtype=np.float32)[:, None]
    across = ((rows - band.centre) / band.half).astype(np.float32)
    inside = ((1 - np.abs(across)) * band.half).astype(np.float32)  # pixels from the edge
    view = image[top:bottom]
    surface = _water if kind == WATER else _road
    bank = (0.80, 0.72, 0.52) if kind == WATER else (0.66, 0.62, 0.54)
    _blend(view, _mix(bank, mood.grass, 0.25), inside + 0.13 * band.half.astype(np.float32))
    _blend(view, surface(rng, mood, across, float(band.half.mean())), inside + 0.5)
    label[top:bottom][inside >= 0] = kind


def _water(rng: np.random.Generator, mood: Mood, across: np.ndarray, half: float) -> np.ndarray:
    """Water that mirrors the sky on its far side, with ripples and glints, f32 [h w 3]."""
    height, width = across.shape
    cells = max(int(height / (0.12 * half)), 4)
    ripple = _noise(rng, height, width, cells, 9) + 0.6 * _noise(rng, height, width, 2 * cells, 22)
    mirror = np.clip(0.34 - 0.30 * across + 0.10 * ripple, 0, 1)[:, :, None]
    color = _ramp(mood.water, mood.skyline, mirror)
    glint = 0.55 * np.clip((ripple - 1.35) * 2.5, 0, 1)[:, :, None]
    return color + glint * (np.array(_mix(mood.sun, LIGHT, 0.5), np.float32) - color)


def _road(rng: np.random.Generator, mood: Mood, across: np.ndarray, half: float) -> np.ndarray:
    """Asphalt with edge lines and a dashed middle line, f32 [h w 3]."""
    height, width = across.shape
    asphalt = _mix((0.43, 0.42, 0.45), mood.skyline, rng.uniform(0.0, 0.14))
    grit = _noise(rng, height, width, 5, 4) + 0.8 * _noise(rng, height, width, height, width // 2)
    tracks = np.cos(np.pi * 4 * across)
    color = np.array(asphalt, np.float32) * (1 + 0.035 * grit + 0.02 * tracks)[:, :, None]
    phase = np.arange(width) / (1.7 * half) + rng.random()
    dashes = np.clip((0.055 - np.abs(across + 0.02)) * half + 0.3, 0, 1) * (phase % 1 < 0.55)
    edges = np.clip((0.03 - np.abs(np.abs(across) - 0.87)) * half + 0.3, 0, 1)
    paint = 0.8 * np.maximum(dashes, edges).astype(np.float32)[:, :, None]
    return color + paint * (np.array((0.96, 0.94, 0.86), np.float32) - color)


def _cast_shadows(shadows: list[Shadow], height: int, width: int) -> np.ndarray:
    """Brightness left by soft shadows under everything that stands, f32 [h w 1]."""
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    for x, y, r in shadows:
        pen.ellipse((x - 0.95 * r, y - 0.16 * r, x + 1.25 * r, y + 0.26 * r), fill=130)
    soft = mask.filter(ImageFilter.BoxBlur(height / 130))
    return 1 - np.asarray(soft, np.float32)[:, :, None] / 255


def _grade(rng: np.random.Generator, mood: Mood, image: np.ndarray) -> np.ndarray:
    """Tint, vignette and grain: image f32 [h w 3] to u8."""
    height, width = image.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    vignette = 1.03 - 0.10 * (x * x + y * y) ** 2 / 2
    grain = 0.010 * rng.standard_normal((height, width), np.float32)
    image = image * np.array(mood.tint, np.float32) * vignette[:, :, None] + grain[:, :, None]
    return _to_u8(image)


# --------------------------------------------------------------------------------------- helpers


def _noise(
    rng: np.random.Generator, height: int, width: int, rows: int, columns: int
) -> np.ndarray:
    """Smooth noise of unit scale with rows x columns bumps, f32 [h w]."""
    grid = rng.standard_normal((rows, columns), np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _wave(rng: np.random.Generator, u: np.ndarray, frequency: float) -> np.ndarray:
    """A sine of random phase and roughly the given number of periods."""
    return np.sin(2 * np.pi * (u * frequency * rng.uniform(0.7, 1.3) + rng.random()))


def _blend(image: np.ndarray, color: Color | np.ndarray, inside: np.ndarray) -> None:
    """Paint in place where inside (pixels from the edge, f32 [h w]) is positive, antialiased."""
    cover = np.clip(inside, 0, 1)[:, :, None]
    image += cover * (np.asarray(color, np.float32) - image)


def _mix(a: Color, b: Color, amount: float) -> Color:
    """The colour that lies the given share of the way from a to b."""
    red, green, blue = ((1 - amount) * u + amount * v for u, v in zip(a, b, strict=True))
    return (red, green, blue)


def _ramp(a: Color, b: Color, amount: np.ndarray) -> np.ndarray:
    """Colours from a to b by an array [h w 1]: f32 [h w 3]."""
    start, end = np.array(a, np.float32), np.array(b, np.float32)
    return start + amount.astype(np.float32) * (end - start)


def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue = (int(255 * min(max(v, 0.0), 1.0) + 0.5) for v in color)
    return (red, green, blue)


def _to_u8(image: np.ndarray) -> np.ndarray:
    return (255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)


# --------------------------------------------------------------------------------------- builder


@dataclasses.dataclass(eq=False)
class ScenesConfig(tfds.core.BuilderConfig):
    """Number of images per split and their size in pixels."""

    train: int = 600
    validation: int = 100
    height: int = 257
    width: int = 321


class Scenes(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the rendered scenes; needs neither a download nor TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    # TFDS looks beside the code for checksums of downloads; there are none, and its search needs
    # importlib_resources, which TFDS 4.9.10 does not require of pip.
    code_path = None
    BUILDER_CONFIGS: ClassVar[list[ScenesConfig]] = [
        ScenesConfig(name="default", description="257 x 321 pixels.")
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.LabeledImage(
                        labels=list(CLASS_NAMES), shape=(None, None, 1)
                    ),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing to download
        config = self.builder_config
        return {
            split: self._generate_examples(seed, getattr(config, split))
            for split, seed in SPLIT_SEEDS.items()
        }

    def _generate_examples(self, seed: int, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        for index in range(count):
            name = f"scene_{seed}_{index:04d}"
            image, label = render(seed, index, config.height, config.width)
            yield name, {"id": name, "image": _png(image), "label": _png(label)}


def _png(array: np.ndarray) -> bytes:
    """Encoded bytes, because TFDS would encode an array with TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", compress_level=3)
    return file.getvalue()
