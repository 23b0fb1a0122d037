"""What a data set gives: examples in a fixed order. It is opened by its kind, and tried."""

import contextlib
import hashlib
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import numpy as np

from deeplab_jax.config import Color, Config, Size
from deeplab_jax.data import decode
from deeplab_jax.data.annotations.shapes import VOID, Drawing, paint, paint_counting
from deeplab_jax.data.decode import RGB, Header, Unreadable
from deeplab_jax.data.layouts import ClassTable, Tile
from deeplab_jax.data.masks import MaskCode, read_mask
from deeplab_jax.data.pixels import Reading, reading_of
from deeplab_jax.data.tiles import READERS, read_image_tile, read_mask_tile
from deeplab_jax.errors import UserError

NO_CLASS = 65535  # the ignored label of images with one class: above every class id
# What reading a record raises where it is not sound; the last two are ArrayRecord's own.
BROKEN_RECORD = (OSError, ValueError, RuntimeError)
UNREADABLE = (UserError, *BROKEN_RECORD)


class Example(TypedDict):
    """One image, encoded or a tile u8[h w c], and its labels u8[h w], or one id u16[1 1].

    `image_of` decodes the image: turned as EXIF says where it is `upright`, as its `reading` says.
    """

    id: str
    image: bytes | np.ndarray
    label: np.ndarray
    upright: bool
    reading: Reading


class Record(NamedTuple):
    """An image and what labels it: each its content or file; a label also a drawing or a class id.

    Without a label every pixel is of class 0.
    """

    id: str
    image: bytes | Path | Tile
    label: bytes | Path | Drawing | Tile | int | None


class Records(Protocol):
    """Records in a fixed order; they can be pickled, so that Grain's workers can read them."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record:
        """Raises Unreadable, whose message begins with the record's name and a colon."""

    def describe(self) -> str:
        """What a resumed run must find again, short of the classes."""


@dataclass(frozen=True)
class Source:
    """Records, and how they become examples; reading a bad one raises UserError.

    With `transparent`, transparent pixels of images are ignored, as those without data always are.
    `code` says what masks hold, `doubt` what is wrong with some of them. `order`, where it is not
    empty, says which of the labels' classes each of `class_names` is (`match_classes`).
    """

    records: Records
    class_names: tuple[str, ...]
    colors: tuple[Color, ...]
    code: MaskCode | None = None
    ignore_label: int = VOID
    exif_upright: bool = False
    reading: Reading = RGB
    transparent: bool = False
    order: tuple[int, ...] = ()
    doubt: str = ""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        id, image, label = self.records[index]
        reading, name, upright = self.reading, _name(image, id), False
        if isinstance(image, Tile):
            content: bytes | np.ndarray = read_image_tile(image, reading)
        else:
            content = decode.read_file(image) if isinstance(image, Path) else image
        if isinstance(label, int):
            ids: np.ndarray = np.full((1, 1), label, np.uint16)
        elif label is None:
            upright = self.exif_upright
            ids = np.zeros(turn(content, name, None, upright)[0], np.uint8)
        else:
            ids = self._read_label(label, content, id, name)
            h, w = ids.shape
            size, upright, note = turn(content, name, (h, w), self.exif_upright)
            if ids.shape != size:
                theirs = f"its labels {w} x {h} (width x height); they must be equal{note}"
                raise UserError(f"{name}: the image is {size[1]} x {size[0]} but {theirs}")
        if self.order:
            ids = self._reorder(ids)
        if isinstance(content, bytes) and ids.dtype == np.uint8:
            transparent = self.transparent
            hidden = decode.ignored_pixels(content, name, transparent=transparent, exif=upright)
            ids = ids if hidden is None else np.where(hidden, np.uint8(VOID), ids)
        return {"id": id, "image": content, "label": ids, "upright": upright, "reading": reading}

    def _read_label(
        self, label: bytes | Path | Drawing | Tile, image: bytes | np.ndarray, id: str, of: str
    ) -> np.ndarray:
        """The label map u8[h w] of a mask or drawing; a drawing's may depend on the image `of`."""
        if isinstance(label, Drawing):
            return paint(label, id, turn(image, of, label.size, self.exif_upright)[0])
        name = _name(label, id)
        if isinstance(label, Tile):
            mask = read_mask_tile(label)
        else:
            mask = read_mask(decode.read_file(label) if isinstance(label, Path) else label, name)
        assert self.code is not None, "a source of masks has their code"
        return self.code.ids(mask, name)

    def _reorder(self, ids: np.ndarray) -> np.ndarray:
        table = np.full(np.iinfo(ids.dtype).max + 1, self.ignore_label, ids.dtype)
        table[list(self.order)] = np.arange(len(self.order))
        return table[ids]

    def sizes(self) -> list[Size | None]:
        """Return (h, w) of every image as it is read, from the headers alone; None: unreadable."""

        def size(index: int) -> Size | None:
            try:
                id, image, label = self.records[index]
                if isinstance(image, Tile):
                    return image.height, image.width
                if isinstance(label, int):
                    return decode.image_size(image, id)
                labelled: Size | None = label.size if isinstance(label, Drawing) else None
                if isinstance(label, bytes | Path):
                    labelled = decode.image_size(label, id)
                return turn(image, id, labelled, self.exif_upright)[0]
            except Unreadable:
                return None

        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(size, range(len(self))))

    def name(self, index: int) -> str:
        """Return what a user knows a record by: its file or id, else its place."""
        try:
            id, image, _ = self.records[index]
        except Unreadable as error:
            return str(error).partition(":")[0]
        return _name(image, id)

    @cached_property
    def fingerprint(self) -> str:
        """What a resumed run must find again: the examples, the masks, the classes in order."""
        names = f"{len(self.class_names)} classes (names {digest(self.class_names)})"
        return f"{self.records.describe()}, {names}"


def _name(data: bytes | Path | Tile, id: str) -> str:
    return id if isinstance(data, bytes) else str(data)


def open_source(config: Config, split: str) -> Source:
    """Open a split of the data; raises UserError for what is missing or does not fit together."""
    if config.data.source == "folder":
        from deeplab_jax.data.folder import open_folder

        root, classes = config.machine.root, config.model.num_classes
        known = None
        if config.data.label_map and config.task.classes:
            known = ClassTable(config.task.classes, config.task.colors, origin="task.classes")
        source = open_folder(root, split, data=config.data, num_classes=classes, table=known)
    else:
        from deeplab_jax.data.tfds import open_prepared  # TFDS takes a while to import

        source = open_prepared(config, split)
    return read_as(source, config)


def read_as(source: Source, config: Config) -> Source:
    """The source with its images read as the configuration's network wants them."""
    transparent = config.data.transparent == "ignore"
    reading = reading_of(config.model, config.task)
    return replace(source, reading=reading, transparent=transparent)


def image_of(example: Example, name: str) -> np.ndarray:
    """Decode an example's image to u8[h w channels], as its mask and its source want it."""
    upright, reading = example["upright"], example["reading"]
    return decode.decode_image(example["image"], name, exif=upright, reading=reading)


def turn(
    image: bytes | Path | np.ndarray, name: str, mask_size: Size | None, exif_upright: bool
) -> tuple[Size, bool, str]:
    """Decide whether an image is read upright or as stored: as its mask's size proves, if it does.

    Else as `exif_upright` says. From the headers alone. Returns the size (h, w) that it has then,
    whether EXIF turns it, and why it may not fit.
    """
    if isinstance(image, np.ndarray):
        return (image.shape[0], image.shape[1]), False, ""
    h, w = decode.image_size(image, name)
    if (h, w) == mask_size and not exif_upright:
        return (h, w), False, ""  # most images; a PNG's orientation may stand at its end
    orientation = decode.read_orientation(image, name)
    sizes = {False: (h, w), True: (w, h) if orientation in decode.TURNING else (h, w)}
    proven = [upright for upright, size in sizes.items() if size == mask_size]
    upright = proven[0] if len(proven) == 1 else exif_upright
    note = f" (EXIF orientation {orientation} turns it)" if orientation != 1 else ""
    return sizes[upright], upright, note


def digest(parts: Iterable[object]) -> str:
    """Eight letters that change with any part."""
    return hashlib.blake2b(repr(list(parts)).encode(), digest_size=4).hexdigest()


# ---- samples, tried before the work


class Facts(NamedTuple):
    """What is known of one sound example; `pixels` by class id, without the `ignored` ones.

    `several`: how many pixels belong to shapes of several classes.
    """

    position: int
    name: str
    digest: bytes
    header: Header
    pixels: dict[int, int]
    ignored: int
    several: int = 0


def examine(source: Source, index: int) -> Facts:
    """Read an example as training does, raising what that raises (`UNREADABLE`)."""
    example, name = source[index], source.name(index)
    image = example["image"]
    header = decode.examine_image(image, name, example["reading"])
    if example["upright"] and header.orientation in decode.TURNING:
        header = header._replace(size=header.size[::-1])
    content = image.tobytes() if isinstance(image, np.ndarray) else image
    content = hashlib.blake2b(content, digest_size=16).digest()
    values, counts = np.unique_counts(example["label"])
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    label, size = source.records[index].label, (len(example["label"]), len(example["label"][0]))
    several = paint_counting(label, name, size)[1] if isinstance(label, Drawing) else 0
    ignored = pixels.pop(source.ignore_label, 0)
    return Facts(index, name, content, header, pixels, ignored, several)


def evenly_spread(count: int, samples: int = 16) -> list[int]:
    """Positions among `count` of the samples that are looked at before training."""
    return np.unique(np.linspace(0, count - 1, min(samples, count)).astype(int)).tolist()


def check_source(source: Source, max_bad: int = 0, samples: int = 16) -> list[Facts]:
    """Read `samples` examples, evenly spread, before the work; return the facts of the sound ones.

    Up to `max_bad` that cannot be read at all are named on stderr.

    Raises:
      UserError: an example does not fit, which is named; more are unreadable, or all; the masks
        hold nothing to learn.
    """
    if source.doubt:
        raise UserError(f"{source.doubt}\n`deeplab check-data`, with the same arguments, has all")
    found: list[Facts] = []
    bad: list[str] = []
    for index in evenly_spread(len(source), samples):
        try:
            found.append(examine(source, index))
        except Unreadable as error:
            bad.append(str(error))
            print(f"warning: its pixels are ignored: {error}", file=sys.stderr)
    if len(bad) > max_bad or not found:
        share = f"{len(bad)} of {len(bad) + len(found)} samples cannot be read"
        raise UserError(f"{share} (machine.max_bad_records = {max_bad}). The first: {bad[0]}")
    if not any(facts.pixels for facts in found):
        _check_learnable(source)
    return found


def _check_learnable(source: Source) -> None:
    """Raise UserError if all pixels of all labels are ignored; they are read until one is not."""
    for index in range(len(source)):
        with contextlib.suppress(Unreadable):
            if (source[index]["label"] != source.ignore_label).any():
                return
    raise UserError(
        "every pixel of every mask is ignored: nothing can be learnt. Is --data.ignore_label right?"
    )
