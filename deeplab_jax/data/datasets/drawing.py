"""How a scene is drawn: colours, sprites that stand in it, and the surfaces behind them.

A colour is RGB in 0..1, a surface an image f32[h w 3], and noise is drawn from the scene's `rng`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

Color = tuple[float, float, float] | np.ndarray
Shadow = tuple[float, float, float]  # middle (x, y) and half width in pixels
SUPERSAMPLING = 2


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


DARK, LIGHT, SUNLIT = (0.10, 0.09, 0.14), (1.0, 0.99, 0.95), (0.78, 0.80, 0.30)
GLASS, CHROME, TIMBER = (0.62, 0.80, 0.88), (0.72, 0.72, 0.74), (0.34, 0.24, 0.17)
SASH, FACE = (0.97, 0.95, 0.90), (0.98, 0.84, 0.68)
LAMPLIGHT, PANE = (1.0, 0.86, 0.45), (0.36, 0.47, 0.56)
SAND, GRAVEL = (0.80, 0.72, 0.52), (0.66, 0.62, 0.54)
ASPHALT, MARKING = (0.43, 0.42, 0.45), (0.96, 0.94, 0.86)


def mix(a: Color, b: Color, amount: float) -> Color:
    """The colour that lies the given share of the way from a to b."""
    return (1 - amount) * np.array(a) + amount * np.array(b)


def to_u8(image: Color) -> np.ndarray:
    """From 0..1 to 0..255."""
    return (255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)


# ---- sprites


class Shape(NamedTuple):
    """A polygon, or an ellipse around a point, in units of size: u forwards, v upwards."""

    color: Color
    points: Sequence[tuple[float, float]]
    radii: tuple[float, float] | None = None


class Sprite(NamedTuple):
    """Shapes, from back to front, that stand at (x, y) in the image; all in pixels.

    They are drawn `facing` right, 1, or left, -1, and turned by `tilt` radians.
    """

    x: float
    y: float
    size: float
    shapes: list[Shape]
    facing: int = 1
    tilt: float = 0.0


class Canvas:
    """Image and label map that are drawn on together, so that they always agree."""

    def __init__(self, image: np.ndarray, label: np.ndarray) -> None:
        size = (label.shape[1] * SUPERSAMPLING, label.shape[0] * SUPERSAMPLING)
        layers = (Image.fromarray(to_u8(image)), Image.fromarray(label))
        self._image, self._label = (x.resize(size, Image.Resampling.NEAREST) for x in layers)

    def draw(self, sprite: Sprite, label: int) -> None:
        """Draw a sprite on the image, and its label on the label map."""
        x, y, size, shapes, facing, tilt = sprite
        left, top, unit = x * SUPERSAMPLING, y * SUPERSAMPLING, size * SUPERSAMPLING
        cos, sin = np.cos(tilt), np.sin(tilt)
        pens = (ImageDraw.Draw(self._image), ImageDraw.Draw(self._label))
        for color, points, radii in shapes:
            turned = [(u * facing * cos + v * sin, u * facing * sin - v * cos) for u, v in points]
            places = [(left + u * unit, top + v * unit) for u, v in turned]
            fills: tuple[Any, int] = (tuple(to_u8(color).tolist()), label)
            for pen, fill in zip(pens, fills, strict=True):
                if radii is None:
                    pen.polygon(places, fill=fill)
                else:
                    ((px, py),), (rx, ry) = places, (radii[0] * unit, radii[1] * unit)
                    pen.ellipse((px - rx, py - ry, px + rx, py + ry), fill=fill)

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Antialiased image f32 [h w 3], lowest and highest label u8 [h w] within each pixel."""
        image = np.asarray(self._image.reduce(SUPERSAMPLING), np.float32) / 255
        fine, step = np.asarray(self._label), range(SUPERSAMPLING)
        parts = [fine[i::SUPERSAMPLING, j::SUPERSAMPLING] for i in step for j in step]
        return image, np.min(parts, axis=0), np.max(parts, axis=0)


def box(color: Color, left: float, low: float, right: float, high: float) -> Shape:
    """A rectangle."""
    return Shape(color, [(left, low), (right, low), (right, high), (left, high)])


def slab(color: Color, low: float, high: float, wide: float, narrow: float) -> Shape:
    """A symmetric trapezium, of half widths `wide` below and `narrow` above."""
    return Shape(color, [(-wide, low), (wide, low), (narrow, high), (-narrow, high)])


def craft(hull: Color, cabin: Color) -> list[Shape]:
    """Hull, cabin, windows, mast and two tyres: wheels on a road, fenders on water."""
    rail = [(-0.482, 0.205), (0.2, 0.195), (0.483, 0.275), (0.5, 0.32), (0.2, 0.24), (-0.49, 0.25)]
    tyres = ((DARK, 0.08), (CHROME, 0.035))
    return [
        box(mix(cabin, DARK, 0.45), -0.20, 0.4, -0.145, 0.62),
        Shape(cabin, [(-0.28, 0.22), (-0.26, 0.45), (0.10, 0.45), (0.19, 0.22)]),
        Shape(mix(cabin, DARK, 0.35), [(-0.31, 0.44), (-0.30, 0.49), (0.13, 0.49), (0.14, 0.44)]),
        Shape(GLASS, [(-0.22, 0.28), (-0.21, 0.41), (-0.08, 0.41), (-0.08, 0.28)]),
        Shape(GLASS, [(-0.03, 0.28), (-0.03, 0.41), (0.07, 0.41), (0.115, 0.28)]),
        Shape(hull, [(-0.49, 0.25), (0.2, 0.24), (0.5, 0.32), (0.37, 0.0), (-0.42, 0.0)]),
        Shape(mix(hull, DARK, 0.4), [(-0.45, 0.09), (0.41, 0.09), (0.37, 0.0), (-0.42, 0.0)]),
        Shape(mix(hull, LIGHT, 0.6), rail),
        *(Shape(color, [(u, 0.06)], (r, r)) for u in (-0.25, 0.2) for color, r in tyres),
    ]


def figure(color: Color) -> list[Shape]:
    """A slender body under a round head: a coat and a face, or a float and its lamp."""
    return [
        slab(mix(color, DARK, 0.6), 0.0, 0.3, 0.19, 0.17),
        slab(color, 0.26, 0.66, 0.175, 0.145),
        slab(SASH, 0.42, 0.52, 0.165, 0.155),
        slab(color, 0.65, 0.76, 0.145, 0.07),
        Shape(FACE, [(0.0, 0.86)], (0.125, 0.135)),
    ]


def house(storeys: int, wall: Color, roof: Color, lit: bool) -> list[Shape]:
    """A gabled house seen from a corner: gable wall, long wall, roof, chimney, windows, door."""
    eaves = 0.42 * storeys**0.6
    ridge = eaves + 0.36
    gable = [(-0.5, 0.0), (-0.08, 0.0), (-0.08, eaves), (-0.29, ridge), (-0.5, eaves)]
    front = [(-0.32, ridge + 0.02), (0.38, ridge), (0.55, eaves - 0.05), (-0.06, eaves - 0.05)]
    edge = [(-0.27, ridge + 0.02), (-0.34, ridge + 0.02)]
    edge += [(-0.56, eaves - 0.04), (-0.5, eaves - 0.04)]
    shapes = [
        box(mix(roof, DARK, 0.3), 0.22, eaves, 0.33, ridge + 0.1),
        box(mix(wall, DARK, 0.18), -0.08, 0.0, 0.5, eaves),
        Shape(wall, gable),
        Shape(roof, front),
        Shape(mix(roof, DARK, 0.25), edge),
    ]
    for storey in range(storeys):
        low = eaves * (storey + 0.38) / storeys
        for left in (0.02, 0.19, 0.36, -0.345 if storey else -0.32):
            shapes.append(box(LAMPLIGHT if lit else PANE, left, low, left + 0.1, low + 0.15))
    return [*shapes, box(mix(roof, DARK, 0.45), -0.35, 0.0, -0.22, 0.24)]


def round_tree(leaf: Color, blobs: np.ndarray, pixel: float) -> list[Shape]:
    """A trunk under a crown of blobs that are lighter towards the upper left."""
    trunk = max(0.05, 1.5 * pixel)
    shapes = [slab(TIMBER, 0.0, 0.6, trunk, 0.7 * trunk)]
    for (u, v), fade in zip(blobs, np.arange(len(blobs)) / len(blobs), strict=True):
        tone, radius = mix(mix(leaf, DARK, 0.2), SUNLIT, 0.42 * fade), 0.27 - 0.14 * fade
        middle = (0.2 * u - 0.08 * fade, 0.7 + 0.15 * v + 0.08 * fade)
        shapes.append(Shape(tone, [middle], (radius, 0.92 * radius)))
    return shapes


def fir(leaf: Color, blobs: np.ndarray, pixel: float) -> list[Shape]:
    """A trunk under four tiers, each with a sunlit and a shaded half."""
    trunk, height = max(0.045, 1.5 * pixel), 1.2 + 0.12 * blobs[0, 0]
    shapes = [slab(TIMBER, 0.0, 0.3, trunk, trunk)]
    for tier in range(4):
        base, top = height * (0.16 + 0.19 * tier), (0.0, height * (0.5 + 0.167 * tier))
        half, lit = 0.34 - 0.062 * tier, mix(leaf, SUNLIT, 0.1 + 0.06 * tier)
        shapes.append(Shape(mix(leaf, DARK, 0.22), [(-half, base), (half, base), top]))
        shapes.append(Shape(lit, [(-half, base), (0.1 * half, base + 0.1 * half), top]))
    return shapes


# ---- surfaces


def paint_land(
    rng: Generator, mood: Mood, height: int, width: int, horizon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sky, two ranges of hills and a meadow: image f32 [h w 3], and where ground is, bool [h w]."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    depth = np.clip((rows - horizon) / (height - horizon), 0, 1)[:, :, None]
    meadow = _ramp(mix(mood.grass, mood.skyline, 0.3), mix(mood.grass, DARK, 0.16), depth)
    texture = _noise(rng, height, width, 9, 4) + 0.5 * _noise(rng, height, width, 120, 90)
    meadow = meadow * (1 + 0.06 * texture[:, :, None])

    image = np.zeros((height, width, 3), np.float32)
    sky_rows = min(int(horizon) + 4, height)
    image[:sky_rows] = _sky(rng, mood, sky_rows, width)
    ground = np.zeros((height, width), bool)
    layers = (
        (0.13, 0.050, mix(mood.grass, mix(mood.skyline, mood.zenith, 0.4), 0.62)),
        (0.06, 0.032, mix(mood.grass, mood.skyline, 0.36)),
        (0.012, 0.012, meadow),
    )
    u = np.linspace(0, 1, width, dtype=np.float32)
    for rise, swing, color in layers:
        wave = _wave(rng, u, 1.1) + 0.4 * _wave(rng, u, 2.9)
        top = horizon - height * np.maximum(rise + swing * wave, 0).astype(np.float32)
        _blend(image, color, rows - top)
        ground |= rows >= top
    return image, ground


def _sky(rng: Generator, mood: Mood, height: int, width: int) -> np.ndarray:
    """A gradient with the sun and clouds."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    sky = _ramp(mood.zenith, mood.skyline, np.broadcast_to(rows[:, :, None], (height, width, 1)))
    sun_x, sun_y = width * rng.uniform(0.1, 0.9), height * rng.uniform(0.2, 0.65)
    x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    distance = np.hypot(x - sun_x, y - sun_y) / (0.05 * width)
    glow = 0.55 * np.exp(-distance / 2.2) + 0.6 * np.clip((1 - distance) * 8, 0, 1)
    _blend(sky, mood.sun, glow)
    puffs = _noise(rng, height, width, 4, 4) + 0.55 * _noise(rng, height, width, 9, 10)
    puffs += 0.3 * _noise(rng, height, width, 18, 24)
    thick = np.clip((puffs - rng.uniform(0.0, 0.8)) * 1.1, 0, 0.9) * (1 - 0.6 * rows)
    lit = 1 - 0.16 * np.clip(puffs - 1.0, 0, 1)[:, :, None]  # thick clouds are grey inside
    _blend(sky, np.array(mood.cloud, np.float32) * lit, thick)
    return sky


def paint_band(
    rng: Generator, mood: Mood, image: np.ndarray, centre: np.ndarray, half: np.ndarray, wet: bool
) -> np.ndarray:
    """Paint a river or a road and its bank in place, about a row `centre` with a half height, [w].

    Returns where it is, bool [h w]: the bank is not part of it.
    """
    rows = np.arange(len(image), dtype=np.float32)[:, None]
    top = max(int((centre - 1.3 * half).min()), 0)
    part = slice(top, min(int((centre + 1.3 * half).max()) + 2, len(image)))
    across = ((rows[part] - centre) / half).astype(np.float32)
    inside = ((1 - np.abs(across)) * half).astype(np.float32)  # pixels from the edge
    bank = mix(SAND if wet else GRAVEL, mood.grass, 0.25)
    _blend(image[part], bank, inside + 0.13 * half.astype(np.float32))
    surface = (_water if wet else _road)(rng, mood, across, float(half.mean()))
    _blend(image[part], surface, inside + 0.5)
    where = np.zeros(image.shape[:2], bool)
    where[part] = inside >= 0
    return where


def _water(rng: Generator, mood: Mood, across: np.ndarray, half: float) -> np.ndarray:
    """Water that mirrors the sky on its far side, with ripples and glints."""
    height, width = across.shape
    cells = max(int(height / (0.12 * half)), 4)
    ripple = _noise(rng, height, width, cells, 9) + 0.6 * _noise(rng, height, width, 2 * cells, 22)
    mirror = np.clip(0.34 - 0.30 * across + 0.10 * ripple, 0, 1)[:, :, None]
    color = _ramp(mood.water, mood.skyline, mirror)
    _blend(color, mix(mood.sun, LIGHT, 0.5), (ripple - 1.35) * 2.5, 0.55)
    return color


def _road(rng: Generator, mood: Mood, across: np.ndarray, half: float) -> np.ndarray:
    """Asphalt with edge lines and a dashed middle line."""
    height, width = across.shape
    asphalt = mix(ASPHALT, mood.skyline, rng.uniform(0.0, 0.14))
    grit = _noise(rng, height, width, 5, 4) + 0.8 * _noise(rng, height, width, height, width // 2)
    tracks = np.cos(np.pi * 4 * across)
    color = np.array(asphalt, np.float32) * (1 + 0.035 * grit + 0.02 * tracks)[:, :, None]
    phase = np.arange(width) / (1.7 * half) + rng.random()
    dashes = np.clip((0.055 - np.abs(across + 0.02)) * half + 0.3, 0, 1) * (phase % 1 < 0.55)
    edges = np.clip((0.03 - np.abs(np.abs(across) - 0.87)) * half + 0.3, 0, 1)
    _blend(color, MARKING, np.maximum(dashes, edges).astype(np.float32), 0.8)
    return color


def cast_shadows(shadows: list[Shadow], height: int, width: int) -> np.ndarray:
    """Brightness left by soft shadows under everything that stands, f32 [h w 1]."""
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    for x, y, r in shadows:
        pen.ellipse((x - 0.95 * r, y - 0.16 * r, x + 1.25 * r, y + 0.26 * r), fill=130)
    soft = mask.filter(ImageFilter.BoxBlur(height / 130))
    return 1 - np.asarray(soft, np.float32)[:, :, None] / 255


def grade(rng: Generator, mood: Mood, image: np.ndarray) -> np.ndarray:
    """Tint, vignette and grain: image f32 [h w 3] to u8."""
    height, width = image.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    vignette = 1.03 - 0.10 * (x * x + y * y) ** 2 / 2
    grain = 0.010 * rng.standard_normal((height, width), np.float32)
    image = image * np.array(mood.tint, np.float32) * vignette[:, :, None] + grain[:, :, None]
    return to_u8(image)


def _noise(rng: Generator, height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """Smooth noise of unit scale with rows x columns bumps, f32 [h w]."""
    grid = rng.standard_normal((rows, columns), np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _wave(rng: Generator, u: np.ndarray, frequency: float) -> np.ndarray:
    """A sine of random phase and roughly the given number of periods."""
    return np.sin(2 * np.pi * (u * frequency * rng.uniform(0.7, 1.3) + rng.random()))


def _blend(image: np.ndarray, color: Color, cover: np.ndarray, opacity: float = 1.0) -> None:
    """Paint in place: `cover` f32 [h w], clipped to 0..1, is how much of a pixel is painted."""
    image += opacity * np.clip(cover, 0, 1)[:, :, None] * (np.asarray(color, np.float32) - image)


def _ramp(a: Color, b: Color, amount: np.ndarray) -> np.ndarray:
    """Colours from a to b by an array [h w 1]: f32 [h w 3]."""
    start, end = np.array(a, np.float32), np.array(b, np.float32)
    return start + amount.astype(np.float32) * (end - start)
