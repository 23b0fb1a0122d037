"""*scenes*: a small, offline, deterministic segmentation data set that cannot be solved pixel-wise.

Every image has sky, ground, water and road as large regions, with trees, houses and two pairs of
look-alikes standing on them.  A *craft* is a boat on water and a car on a road; a *figure* is a
buoy on water and a person beside a road.  Both members of a pair come from the same drawing
function and the same distribution of sizes, colours and orientations, because craft and figures
are drawn for a *band* across the image before a coin has decided which band is water and which
is road.  So only context tells them apart.
"""

import dataclasses
import io
from collections.abc import Iterator
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from numpy.random import Generator
from PIL import Image, ImageFilter

from deeplab_jax.data.datasets import drawing
from deeplab_jax.data.datasets.drawing import Canvas, Color, Mood, Shadow, Sprite, mix

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
SHADOWS = {BUILDING: 0.45, TREE: 0.45 / 1.15, BOAT: 0.5, CAR: 0.5, PERSON: 0.25, BUOY: 0.25}
SPLIT_SEEDS = {"train": 1, "validation": 2}

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
CABINS = ((0.97, 0.96, 0.91), (0.93, 0.84, 0.68), (0.62, 0.24, 0.20), (0.25, 0.38, 0.52))
FIGURES = ((0.88, 0.18, 0.20), (0.98, 0.74, 0.10), (0.95, 0.45, 0.12), (0.60, 0.16, 0.42))
WALLS = ((0.95, 0.90, 0.80), (0.91, 0.76, 0.62), (0.86, 0.66, 0.56), (0.80, 0.83, 0.82))
ROOFS = ((0.67, 0.29, 0.22), (0.52, 0.31, 0.27), (0.36, 0.37, 0.43), (0.76, 0.42, 0.26))
LEAVES = ((0.17, 0.40, 0.19), (0.24, 0.45, 0.18), (0.13, 0.35, 0.25), (0.33, 0.44, 0.15))


def render(
    seed: int, index: int, height: int = 257, width: int = 321
) -> tuple[np.ndarray, np.ndarray]:
    """Image number index of a seed: image u8 [h w 3] and label u8 [h w]."""
    rng = Generator(np.random.PCG64([seed, index, height, width]))
    mood = MOODS[rng.integers(len(MOODS))]
    horizon = height * rng.uniform(0.27, 0.36)
    bands = _lay_bands(rng, height, width, horizon)
    crafts = [_sample_crafts(rng, band, horizon) for band in bands]
    every = list(chain.from_iterable(crafts))
    figures = [_sample_figures(rng, band, horizon, every) for band in bands]
    kinds = _choose_kinds(rng, len(bands))  # only here does a band become water or road

    image, ground = drawing.paint_land(rng, mood, height, width, horizon)
    label = np.where(ground, GROUND, SKY).astype(np.uint8)
    for band, kind in zip(bands, kinds, strict=True):
        label[drawing.paint_band(rng, mood, image, *band, kind == WATER)] = kind
    standing = []
    for band, kind, on_band, at_bank in zip(bands, kinds, crafts, figures, strict=True):
        # A buoy floats just inside the far bank, a person stands just outside it.
        craft, figure, across = (BOAT, BUOY, -0.65) if kind == WATER else (CAR, PERSON, -1.22)
        standing += [(sprite, craft) for sprite in on_band]
        standing += [(s._replace(y=band.row(s.x, across)), figure) for s in at_bank]
    for x, y, size in _free_places(rng, label, horizon, _shadows(standing)):
        haze = 0.35 * float(np.exp(-(y - horizon) / (0.15 * height)))
        standing.append(_sample_upright(rng, mood, x, y, size, haze))
    image *= drawing.cast_shadows(_shadows(standing), height, width)
    canvas = Canvas(image, label)
    for sprite, class_id in sorted(standing, key=lambda item: item[0].y):  # far to near
        canvas.draw(sprite, class_id)
    image, low, high = canvas.finish()
    # Void only outside an object and where it covers a pixel in part: thin parts stay labelled.
    high = np.asarray(Image.fromarray(high).filter(ImageFilter.MaxFilter(3)))
    label = np.where((high >= FIRST_OBJECT) & (high > low), IGNORE_LABEL, low)
    return drawing.grade(rng, mood, image), label.astype(np.uint8)


class Band(NamedTuple):
    """A strip across the image: centre row and half height [w], in pixels."""

    centre: np.ndarray
    half: np.ndarray

    def row(self, x: float, across: float) -> float:
        """The row at column x; across is -1 at the far bank and 1 at the near bank."""
        column = int(np.clip(x, 0, len(self.centre) - 1))
        return float(self.centre[column] + across * self.half[column])


def _lay_bands(rng: Generator, height: int, width: int, horizon: float) -> list[Band]:
    """Two or three winding bands from far to near, wider the nearer they are."""
    land = height - horizon
    rows_and_halves = [(0.24, 0.075), (0.525, 0.095), (0.885, 0.135)]
    if rng.random() < 0.6:
        rows_and_halves = [(0.33, 0.115), (0.80, 0.175)]
    u = np.linspace(-0.5, 0.5, width)
    slope = rng.uniform(-0.08, 0.08)  # shared, so that bands do not meet
    bands = []
    for row, half in rows_and_halves:
        bend = 0.022 * np.sin(2 * np.pi * (u * rng.uniform(0.7, 1.5) + rng.random()))
        swell = 1 + 0.16 * np.sin(2 * np.pi * (u * rng.uniform(0.8, 1.6) + rng.random()))
        centre = horizon + land * (row + rng.uniform(-0.015, 0.015) + bend + slope * u * 1.2 * row)
        bands.append(Band(centre, land * half * swell))
    return bands


def _choose_kinds(rng: Generator, count: int) -> list[int]:
    """WATER or ROAD for each band; both occur, and swapping them is equally likely."""
    kinds = [ROAD, WATER] if rng.integers(2) else [WATER, ROAD]
    return list(rng.permutation(kinds + kinds[: count - 2]))


def _sample_crafts(rng: Generator, band: Band, horizon: float) -> list[Sprite]:
    """One to three craft on a band, whatever the band is going to be."""
    width = len(band.centre)
    crafts = []
    for cell in rng.permutation(3)[: rng.integers(1, 4)]:
        x = width * (cell + rng.uniform(0.3, 0.7)) / 3
        y = band.row(x, rng.uniform(0.1, 0.6))
        length = (0.46 * (y - horizon) + 0.025 * width) * rng.uniform(0.85, 1.15)
        slope = np.arctan2(band.row(x + 8, 0) - band.row(x - 8, 0), 16)
        tilt, facing = float(slope + rng.uniform(-0.03, 0.03)), int(rng.choice((-1, 1)))
        shapes = drawing.craft(_pick(rng, HULLS), _pick(rng, CABINS))
        crafts.append(Sprite(x, y, length, shapes, facing, tilt))
    return crafts


def _sample_figures(
    rng: Generator, band: Band, horizon: float, crafts: list[Sprite]
) -> list[Sprite]:
    """Up to three figures along the far bank of a band, whatever the band is going to be."""
    width = len(band.centre)
    figures: list[Sprite] = []
    for cell in rng.permutation(5)[: rng.integers(2, 5)]:
        x = width * (cell + rng.uniform(0.2, 0.8)) / 5
        y = band.row(x, -1)
        height = 0.36 * (y - horizon) * rng.uniform(0.85, 1.15) + 0.03 * width
        shapes = drawing.figure(_pick(rng, FIGURES))
        # With its foot hidden behind a craft, nobody could tell what a figure is.
        hidden = any(
            abs(x - c.x) < 0.5 * c.size + 0.25 * height and c.y > y > c.y - 0.75 * c.size
            for c in crafts
        )
        if not hidden and len(figures) < 3:
            figures.append(Sprite(x, y, height, shapes))
    return figures


def _free_places(
    rng: Generator, label: np.ndarray, horizon: float, standing: list[Shadow]
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
        on_ground = (label[np.ix_(rows, columns)] == GROUND).all()
        hides = any(
            abs(x - sx) < 0.5 * size + half and y > sy > y - 1.6 * size for sx, sy, half in standing
        )
        crowded = any(abs(x - px) < 0.42 * (size + s) and abs(y - py) < s for px, py, s in taken)
        if on_ground and not hides and not crowded and len(taken) < 14:
            taken.append((x, y, size))
            yield x, y, size


def _sample_upright(
    rng: Generator, mood: Mood, x: float, y: float, size: float, haze: float
) -> tuple[Sprite, int]:
    """A house, a round tree or a fir, and its class."""
    kind = rng.random()
    if kind < 0.42:
        wall, roof = (mix(_pick(rng, c), mood.skyline, haze) for c in (WALLS, ROOFS))
        storeys, facing = int(rng.integers(1, 3)), int(rng.choice((-1, 1)))
        shapes = drawing.house(storeys, wall, roof, mood.lamps_lit)
        return Sprite(x, y, size, shapes, facing), BUILDING
    leaf, tall = mix(_pick(rng, LEAVES), mood.skyline, haze), 1.15 * size
    tree = drawing.round_tree if kind < 0.75 else drawing.fir
    return Sprite(x, y, tall, tree(leaf, rng.uniform(-1, 1, (7, 2)), 1 / tall)), TREE


def _shadows(standing: list[tuple[Sprite, int]]) -> list[Shadow]:
    return [(s.x, s.y, SHADOWS[class_id] * s.size) for s, class_id in standing]


def _pick(rng: Generator, colors: tuple[Color, ...]) -> Color:
    return colors[rng.integers(len(colors))]


# ---- builder


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
        image = tfds.features.Image(shape=(None, None, 3))
        label = tfds.features.LabeledImage(labels=list(CLASS_NAMES), shape=(None, None, 1))
        features = {"id": tfds.features.Text(), "image": image, "label": label}
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
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
