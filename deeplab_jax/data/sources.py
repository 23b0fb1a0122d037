"""Random access to examples: folders of image and mask pairs, and data sets prepared by TFDS."""

import contextlib
import hashlib
import io
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict, TypeVar, get_args

import numpy as np
import tensorflow_datasets as tfds

from deeplab_jax.config import DataKind
from deeplab_jax.data.colors import Color, voc_colormap
from deeplab_jax.data.datasets import cityscapes, scenes, voc
from deeplab_jax.data.decode import (
    TURNING,
    Held,
    MaskError,
    Unreadable,
    count_values,
    decode_image,
    decode_label,
    image_size,
    read_file,
    read_orientation,
)
from deeplab_jax.data.layout import folders_of, near_misses, other_layout
from deeplab_jax.data.walk import SUFFIXES, walk_images
from deeplab_jax.errors import UserError
from deeplab_jax.files import locked, read_user_text, with_retries, writable_folder

DATA_DIR = "~/.cache/deeplab_jax/tfds"
# What reading a record raises where it is not sound; the last two are ArrayRecord's own.
BROKEN_RECORD = (OSError, ValueError, RuntimeError)
UNREADABLE = (UserError, *BROKEN_RECORD)
READERS = 8  # threads, where many small files are read at once

T = TypeVar("T")

Size = tuple[int, int]
# Of what one mask alone does not decide.
SEE_ALL = (
    "What helps depends on all masks: python -m deeplab_jax check-data, with the same arguments, "
    "reads and judges them"
)
NO_CLASS = 65535  # the ignored label of images with one class: above every class id


class Example(TypedDict):
    """One image, encoded or u8[h w 3], and its mask of class ids u8[h w], or one id u16[1 1].

    `image_of` decodes the image: turned as EXIF says where it is `upright`, scaled by its `white`.
    """

    id: str
    image: bytes | np.ndarray
    label: np.ndarray
    upright: NotRequired[bool]
    white: NotRequired[int | None]


class Source(Protocol):
    """Examples in a fixed order; it can be pickled, so that Grain's workers can read it."""

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def colors(self) -> tuple[Color, ...]: ...
    @property
    def ignore_label(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...

    def sizes(self) -> list[Size | None]:
        """Return (h, w) of every image as it is read, from the headers alone; None: unreadable."""
        ...

    def name(self, index: int) -> str:
        """Return what a user knows a record by: its file, or its id."""
        ...

    @property
    def fingerprint(self) -> str:
        """What a resumed run must find again: the examples, the masks, the classes in order."""
        ...


def image_of(example: Example, name: str) -> np.ndarray:
    """Decode an example's image to RGB u8[h w 3], as its mask and its source want it."""
    upright, white = example.get("upright", False), example.get("white")
    return decode_image(example["image"], name, exif=upright, white=white)


def open_source(
    kind: DataKind,
    split: str,
    *,
    root: str | None = None,
    data_dir: str = DATA_DIR,
    classes: str | None = None,
    num_classes: int | None = None,
    ignore_label: int = 255,
    image_dir: str = "images",
    mask_dir: str = "masks",
    holdout: float | None = None,
    palette: bool = False,
    exif_upright: bool = False,
    white: int | None = None,
) -> Source:
    """Open a split of a data set, prepared below `data_dir` as ArrayRecord if it comes from TFDS.

    `root` is the folder of the data: of the pairs ("folder"), the VOCdevkit ("voc2012") or the zips
    as downloaded ("cityscapes", "imagenet2012", whose builders need TensorFlow for preparing,
    once). The arguments after `data_dir` belong to "folder" (see `open_folder`), `num_classes` to
    "imagenet2012" too. Raises UserError for what is missing or does not fit together.
    """
    if kind == "scenes":
        made = prepare(scenes.Scenes(data_dir=_expand(data_dir)))
        return open_tfds(made, split, scenes.CLASS_NAMES, scenes.COLORS)
    if root is None:
        raise UserError(f"data kind {kind!r} needs root, the folder that holds the data")
    if kind == "folder":
        return open_folder(
            root,
            split,
            classes=classes,
            num_classes=num_classes,
            ignore_label=ignore_label,
            image_dir=image_dir,
            mask_dir=mask_dir,
            holdout=holdout,
            palette=palette,
            exif_upright=exif_upright,
            white=white,
        )
    if kind == "voc2012":
        made = prepare(voc.Voc2012Segmentation(devkit=root, data_dir=_expand(data_dir)))
        return open_tfds(made, split, voc.CLASS_NAMES, voc.COLORS)
    if kind == "cityscapes":
        return _open_cityscapes(root, split, data_dir)
    if kind == "imagenet2012":
        return _open_imagenet(root, split, data_dir, num_classes)
    raise UserError(f"data kind {kind!r} is unknown; there are {', '.join(get_args(DataKind))}")


# ---- what every source promises of an example


def check_pair(
    id: str, size: Size, label: np.ndarray, num_classes: int, ignore_label: int, note: str = ""
) -> None:
    """Raise UserError unless the mask u8[h w] has its image's size (h, w) and only valid ids.

    `note` says more of a size that does not fit.
    """
    if label.shape != size:
        (h, w), (label_h, label_w) = size, label.shape
        raise UserError(
            f"{id}: the image is {w} x {h} but its mask {label_w} x {label_h} (width x height); "
            f"they must be equal{note}"
        )
    wrong = label[(label >= num_classes) & (label != ignore_label)]
    if wrong.size:
        values = np.unique(wrong).tolist()
        raise MaskError(
            f"{id}: the mask holds {_some(values)}; allowed are the classes 0 to {num_classes - 1} "
            f"and {ignore_label} (ignore_label)",
            Held(count_values(label)),
        )


def evenly_spread(count: int, samples: int = 16) -> list[int]:
    """Positions among `count` of the samples that are looked at before training."""
    return np.unique(np.linspace(0, count - 1, min(samples, count)).astype(int)).tolist()


def check_source(source: Source, max_bad: int = 0, samples: int = 16) -> None:
    """Read `samples` examples, evenly spread, before the work.

    Up to `max_bad` that cannot be read at all are named on stderr.

    Raises:
      UserError: an example does not fit, which is named; more are unreadable, or all; the masks
        hold nothing to learn.
    """
    picks = evenly_spread(len(source), samples)
    values: set[int] = set()
    bad: list[str] = []
    for index in picks:
        try:
            example = source[index]
            image_of(example, source.name(index))
            values.update(np.unique(example["label"]).tolist())
        except MaskError as error:
            raise UserError(f"{error}\n{SEE_ALL}") from error
        except Unreadable as error:
            bad.append(str(error))
            print(f"warning: its pixels are ignored: {error}", file=sys.stderr)
    if len(bad) > max_bad or len(bad) == len(picks):
        raise UserError(
            f"{len(bad)} of {len(picks)} samples cannot be read (machine.max_bad_records = {max_bad})."
            f" The first: {bad[0]}"
        )
    wrong = drawn_in_255(values, source.class_names)
    if wrong and not _any_mask(source, lambda label: (label == 1).any()):
        raise UserError(wrong)
    ignored = source.ignore_label
    if values <= {ignored} and not _any_mask(source, lambda label: (label != ignored).any()):
        raise UserError(
            f"every pixel of every mask is {ignored}, which is ignored: nothing can be learnt from "
            f"{len(source)} examples, such as {source.name(0)}. Is task.ignore_label right?"
        )


def drawn_in_255(values: set[int], class_names: tuple[str, ...]) -> str:
    """What to tell of two classes whose masks hold only `values` 0 and 255; "" of others.

    With 255 ignored, a mask drawn in 0/255 looks valid: all of class 1 is ignored.
    """
    if len(class_names) != 2 or values != {0, 255}:
        return ""
    return (
        f"no mask holds class 1 ({class_names[1]!r}), only 0 and 255: they look like binary masks "
        "saved as 0/255. Save them as 0/1 (mask // 255) and leave --task.ignore_label at 255"
    )


def _any_mask(source: Source, holds: Callable[[np.ndarray], Any]) -> bool:
    """Whether a mask of the source, read until one is found, has what `holds` tells of it."""
    for index in range(len(source)):
        with contextlib.suppress(Unreadable):
            if holds(source[index]["label"]):
                return True
    return False


def _some(values: Iterable[object], at_most: int = 8) -> str:
    shown = [str(value) for value in values]
    more = f" and {len(shown) - at_most} more" if len(shown) > at_most else ""
    return ", ".join(shown[:at_most]) + more


def _each(function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
    """Apply a function that waits for the disk to each of many, several at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(function, *arguments))


def _digest(parts: Iterable[object]) -> str:
    """Eight letters that change with any part."""
    return hashlib.blake2b(repr(list(parts)).encode(), digest_size=4).hexdigest()


# ---- folders


class Turn(NamedTuple):
    """How an image is read: its size (h, w) then, whether EXIF turns it, and why it may not fit."""

    size: Size
    upright: bool
    note: str = ""


def turn(image: bytes | Path, name: str, mask_size: Size, exif_upright: bool) -> Turn:
    """Decide whether an image is read upright or as stored: as its mask's size proves, if it does.

    Else as `exif_upright` says. From the headers alone.
    """
    h, w = image_size(image, name)
    if (h, w) == mask_size and not exif_upright:
        return Turn((h, w), False)  # most images; a PNG's orientation may stand at its end
    orientation = read_orientation(image, name)
    sizes = {False: (h, w), True: (w, h) if orientation in TURNING else (h, w)}
    proven = [upright for upright, size in sizes.items() if size == mask_size]
    upright = proven[0] if len(proven) == 1 else exif_upright
    note = f" (EXIF orientation {orientation} turns it)" if orientation != 1 else ""
    return Turn(sizes[upright], upright, note)


@dataclass(frozen=True)
class FolderSource:
    """Pairs of files (id, image, mask) from `open_folder`; reading a bad pair raises UserError."""

    pairs: tuple[tuple[str, str, str], ...]
    class_names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_label: int
    palette: bool
    exif_upright: bool = False
    white: int | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        id, image_file, mask_file = self.pairs[index]
        image = read_file(Path(image_file))
        label = decode_label(read_file(Path(mask_file)), mask_file, palette=self.palette)
        h, w = label.shape
        size, upright, note = turn(image, image_file, (h, w), self.exif_upright)
        check_pair(mask_file, size, label, len(self.class_names), self.ignore_label, note)
        return {
            "id": id,
            "image": image,
            "label": label,
            "upright": upright,
            "white": self.white,
        }

    def sizes(self) -> list[Size | None]:
        """Return (h, w) of every image as it is read, from the headers alone; None: unreadable."""

        def size(pair: tuple[str, str, str]) -> Size | None:
            _, image, mask = pair
            try:
                mask_size = image_size(Path(mask), mask)
                return turn(Path(image), image, mask_size, self.exif_upright).size
            except Unreadable:
                return None

        return _each(size, self.pairs)

    def name(self, index: int) -> str:
        """Return the image's file."""
        return self.pairs[index][1]

    @cached_property
    def fingerprint(self) -> str:
        """How many pairs, a digest of ids, image sizes in bytes and masks, and the classes.

        Nothing of where and when: the data may be copied while a run is interrupted.
        """
        contents = _digest([self.ignore_label, *_each(_content, self.pairs)])
        names = f"{len(self.class_names)} classes (names {_digest(self.class_names)})"
        return f"{len(self)} pairs (contents {contents}), {names}"


def _content(pair: tuple[str, str, str]) -> tuple[str, int, bytes]:
    """What tells a pair from another of its name: the image's bytes counted, the mask's read."""
    id, image, mask = pair
    try:
        digest = hashlib.blake2b(read_file(Path(mask)), digest_size=16).digest()
        return id, with_retries(Path(image).stat).st_size, digest
    except (Unreadable, OSError):
        return id, -1, b"unreadable"


def open_folder(
    root: str,
    split: str,
    *,
    classes: str | None = None,
    num_classes: int | None = None,
    ignore_label: int = 255,
    image_dir: str = "images",
    mask_dir: str = "masks",
    holdout: float | None = None,
    palette: bool = False,
    exif_upright: bool = False,
    white: int | None = None,
) -> FolderSource:
    """Pair `root/image_dir/split/**` with `root/mask_dir/split/**` by path and name without suffix.

    With `holdout` in (0, 1) both folders are flat, and about that fraction, decided by each name
    alone, is the split "val", the rest "train". Classes come from the file `classes` (default:
    root/classes.txt) or, where there is none, are `num_classes` without names. `palette` takes the
    indices of palette masks as ids; `exif_upright` and `white` are those of `DataConfig`. What is
    passed over is said on stderr. Raises UserError for what is missing or unpaired; what is in the
    files is checked by reading them (`check_source`).
    """
    folder = Path(root).expanduser()
    names, colors = _classes(folder, classes, num_classes)
    if not 0 <= ignore_label <= 255:
        raise UserError(
            f"ignore_label is {ignore_label}; allowed are 0 to 255, the values of an 8-bit mask"
        )
    for path in (folder, folder / image_dir, folder / mask_dir):
        if not path.is_dir():
            raise UserError(
                f"{path} is missing: expected are {folder}/{image_dir}/{split} and "
                f"{folder}/{mask_dir}/{split}{other_layout(folder, split, image_dir, mask_dir)}"
            )
    if (folder / image_dir).samefile(folder / mask_dir):
        raise UserError(
            f"data.image_dir = {image_dir} and data.mask_dir = {mask_dir} are the same folder, "
            "where each image would be its own mask; give the masks a folder of their own"
        )
    subdir = _split_folder(folder / image_dir, split, holdout)
    pairs = _pairs(folder / image_dir / subdir, folder / mask_dir / subdir)
    if holdout is not None:
        pairs = tuple(pair for pair in pairs if _held_out(pair[0], holdout) == (split == "val"))
        if not pairs:
            raise UserError(
                f"holdout={holdout} leaves no image of {folder / image_dir} for {split!r}; "
                "change it"
            )
    return FolderSource(pairs, names, colors, ignore_label, palette, exif_upright, white)


CLASS_LINE = re.compile(r"\s*([^#]*[^#\s])(?:\s+#([0-9a-fA-F]{6}))?\s*")
NUMBERED = re.compile(r"\W*(\d+)(?!\w)\W*\w")  # a number before a name
# A number and a separator, three numbers at the end (a colour), brackets, quotes, a list's dash, an
# empty last column.
FOREIGN = re.compile(
    r"^\W*\d+\s*[,:;=\t]|(?:\d+[\s,:;]+){2}\d+\W*$|[\[\]{}\"=<>;\t]|^\s*[-*']\s*\S|[,:]\s*$"
)


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Read names and colours (default: VOC's) from a file of lines `name` or `name #rrggbb`.

    Raises UserError, naming the line, for what is empty, doubled, malformed or a table of numbers.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: write one class name a line, or give num_classes")
    lines = read_user_text(path).rstrip().splitlines()
    _refuse_tables(path, lines)
    names: list[str] = []
    colors: list[Color | None] = []
    for number, line in enumerate(lines, start=1):
        match = CLASS_LINE.fullmatch(line)
        if match is None or match[1] in names:
            what = f"{line!r}" if line.strip() else "an empty line"
            raise UserError(
                f"{path}:{number}: {what} is not a new 'name' or 'name #rrggbb' "
                "(line 1 is class 0, and so on)"
            )
        names.append(match[1])
        colors.append(_rgb(match[2]) if match[2] else None)
    return tuple(names), tuple(
        color or default for color, default in zip(colors, voc_colormap(len(names)), strict=True)
    )


def _refuse_tables(path: Path, lines: Sequence[str]) -> None:
    """Raise UserError for what other tools write, which would become part of the names."""
    listed = [NUMBERED.match(line) for line in lines]
    counts = [int(match[1]) for match in listed if match]
    # Two in order are enough: a class may well be called "2 wheeler".
    if len(lines) > 1 and counts in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        background = "" if counts[0] == 0 else ", which is often the background"
        raise UserError(
            f"{path}:1: {lines[0]!r} and the other lines are numbered from {counts[0]}: write the "
            f"names alone, one a line; line 1 is class 0{background}"
        )
    for number, line in enumerate(lines, start=1):
        if found := FOREIGN.search(line):
            raise UserError(
                f"{path}:{number}: {line!r} looks like a line of a table or a program, because of "
                f"{found[0]!r}; write a 'name' or 'name #rrggbb', such as 'red #800000' (line 1 is "
                "class 0, and so on)"
            )
        if line.strip() == "__ignore__":
            raise UserError(
                f"{path}:{number}: labelme's __ignore__ is no class; leave the line out (its pixels"
                " are those of task.ignore_label)"
            )
    if len(lines) == 1 and "," in lines[0]:
        raise UserError(f"{path}:1: {lines[0]!r} is one line: write one class name a line")


def _rgb(hexadecimal: str) -> Color:
    red, green, blue = bytes.fromhex(hexadecimal)
    return red, green, blue


def _classes(
    folder: Path, classes: str | None, num_classes: int | None
) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    path = Path(classes).expanduser() if classes else folder / "classes.txt"
    if classes is None and num_classes is not None and not path.is_file():
        _check_num_classes(num_classes, "num_classes")
        return tuple(f"class {i}" for i in range(num_classes)), voc_colormap(num_classes)
    names, colors = read_classes(path)
    if len(names) == 1:
        raise UserError(
            f"{path} lists one class, {names[0]!r}; to tell it from the rest takes two: write "
            f"'background' on a line before it, and 0 for it in the masks"
        )
    _check_num_classes(len(names), str(path))
    return names, colors


def _check_num_classes(num_classes: int, name: str) -> None:
    if not 2 <= num_classes <= 256:
        raise UserError(
            f"{name}: {num_classes} classes; allowed are 2 to 256, background counted: to tell one "
            "class from the rest takes two"
        )


def _split_folder(images: Path, split: str, holdout: float | None) -> str:
    splits = folders_of(images)
    if holdout is None:
        if split in splits:
            return split
        if splits:
            raise UserError(
                f"{images} has no split {split!r}; there are {_some(splits)} (--data.train_split, "
                "--data.eval_split)"
            )
        raise UserError(
            f"{images} has no folders for splits, such as {split}/; "
            "set --data.holdout=0.1 to hold out a tenth of a flat folder as 'val'"
        )
    if splits:
        raise UserError(
            f"holdout is for images in one flat folder, but {images} has folders: {_some(splits)}"
        )
    if not 0 < holdout < 1 or split not in ("train", "val"):
        raise UserError(
            f"holdout={holdout} with split {split!r}: holdout must be between 0 and 1, "
            "the split 'train' or 'val'"
        )
    return ""


def _held_out(id: str, holdout: float) -> bool:
    # By the name alone, so that adding images moves none from one side to the other.
    # A checksum would not do: it is far from uniform over names that count up.
    return int(hashlib.blake2b(id.encode(), digest_size=8).hexdigest(), 16) < holdout * 2**64


def _pairs(images: Path, masks: Path) -> tuple[tuple[str, str, str], ...]:
    image_files, mask_files = _files_by_id(images), _files_by_id(masks)
    lone_images = sorted(image_files.keys() - mask_files.keys())
    lone_masks = sorted(mask_files.keys() - image_files.keys())
    for alone, found, what, other in (
        (lone_images, image_files, "mask", masks),
        (lone_masks, mask_files, "image", images),
    ):
        if alone:
            raise UserError(
                f"{len(alone)} of {len(found)} files have no {what} of the same name in {other}: "
                f"{_some((found[id] for id in alone), 4)}{near_misses(lone_images, lone_masks)}"
            )
    return tuple((id, image_files[id], mask_files[id]) for id in sorted(image_files))


def _files_by_id(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise UserError(f"{folder} is missing")
    files: dict[str, str] = {}
    walk = walk_images(folder)
    if walk.passed_over:
        _say_once(f"{folder}: {walk.describe()}")
    for path in walk.images:
        id = path.relative_to(folder).with_suffix("").as_posix()
        if not _is_unicode(id):
            raise UserError(
                f"{str(path).encode(errors='backslashreplace').decode()}: the name is not in UTF-8 "
                "(an old archive?); rename it"
            )
        if id in files:
            raise UserError(
                f"{files[id]} and {path} have the same name but for the suffix; one must go"
            )
        files[id] = str(path)
    if not files:
        raise UserError(f"{folder} has no images (files ending in {_some(sorted(SUFFIXES), 20)})")
    return files


@cache
def _say_once(text: str) -> None:
    # Both sides of a holdout walk through the same folder.
    print(text, file=sys.stderr)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that Python could only carry along, not print
        return False
    return True


# ---- TFDS


@dataclass(frozen=True)
class TfdsSource:
    """A split of a prepared TFDS data set, read without TensorFlow; made by `open_tfds`.

    `label_map` has 256 entries, the class id for each value in the masks. With `label_offset` the
    labels are no masks but a class an image, counted from there. Reading a bad example raises
    UserError.
    """

    builder_dir: str
    split: str
    class_names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_label: int = 255
    id_key: str = "id"
    image_key: str = "image"
    label_key: str = "label"
    label_map: tuple[int, ...] | None = None
    label_offset: int | None = None

    def __len__(self) -> int:
        return len(self._records())

    def __getitem__(self, index: int) -> Example:
        record = self._record(index)
        id, image = record[self.id_key].decode(), record[self.image_key]
        if self.label_offset is not None:
            if record[self.label_key] < 0:  # TFDS's -1
                raise UserError(f"{id}: the split {self.split!r} has no labels")
            class_id = np.uint16(record[self.label_key] + self.label_offset)
            return {"id": id, "image": image, "label": class_id.reshape(1, 1)}
        label = decode_label(record[self.label_key], f"mask of {id}")
        if self.label_map is not None:
            label = np.asarray(self.label_map, np.uint8)[label]
        check_pair(id, image_size(image, id), label, len(self.class_names), self.ignore_label)
        return {"id": id, "image": image, "label": label}

    def sizes(self) -> list[Size | None]:
        """Return (h, w) of every image from its header; None: unreadable. Reads all records."""

        def size(index: int) -> Size | None:
            try:
                return image_size(self._record(index)[self.image_key], self.name(index))
            except Unreadable:
                return None

        return [size(index) for index in range(len(self))]

    def name(self, index: int) -> str:
        """Return the record's id, or its place where it cannot be read."""
        try:
            id: str = self._record(index)[self.id_key].decode()
        except Unreadable:
            return f"{self.split}[{index}]"
        return id

    @cached_property
    def fingerprint(self) -> str:
        """Name, version and split of the data set, its examples and bytes, and the classes."""
        info = tfds.builder_from_directory(self.builder_dir).info
        size = info.splits[self.split].num_bytes
        examples = f"{len(self)} examples of {self.split} ({size} bytes)"
        names = f"{len(self.class_names)} classes (names {_digest(self.class_names)})"
        return f"{info.full_name}, {examples}, {names}"

    def _record(self, index: int) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            try:
                record: dict[str, Any] = self._records()[index]
            except BROKEN_RECORD:
                _open_records.cache_clear()  # a reader that has failed stays so
                raise
            return record

        try:
            return with_retries(read, BROKEN_RECORD)
        except BROKEN_RECORD as error:
            name = f"{self.split}[{index}]"
            raise Unreadable(f"{name}: the record cannot be read ({error})") from error

    def _records(self) -> Any:
        # Not held by the object: open files cannot be pickled; each worker process opens its own.
        return _open_records(self.builder_dir, self.split, self.image_key, self.label_key)


def open_tfds(
    builder_dir: str,
    split: str,
    class_names: tuple[str, ...],
    colors: tuple[Color, ...],
    *,
    ignore_label: int = 255,
    id_key: str = "id",
    image_key: str = "image",
    label_key: str = "label",
    label_map: tuple[int, ...] | None = None,
    label_offset: int | None = None,
) -> TfdsSource:
    """Open a split (or a part, as "train[:100]") of any prepared TFDS data set with labels.

    Raises UserError for a split or feature that it does not have, and if it is not ArrayRecord.
    """
    info = tfds.builder_from_directory(builder_dir).info
    if split.split("[")[0] not in info.splits:
        raise UserError(
            f"{info.name} has no split {split!r}; there are {_some(sorted(info.splits))}"
        )
    for key in (id_key, image_key, label_key):
        if key not in info.features:
            raise UserError(
                f"{info.name} has no feature {key!r}; there are {_some(sorted(info.features))}"
            )
    source = TfdsSource(
        builder_dir,
        split,
        class_names,
        colors,
        ignore_label,
        id_key,
        image_key,
        label_key,
        label_map,
        label_offset,
    )
    try:
        if len(source) == 0:
            raise UserError(f"split {split!r} of {info.name} is empty")
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"split {split!r} of {info.name} in {builder_dir} cannot be read: {error}"
        ) from error
    return source


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str | None = None) -> str:
    """Return the data set's folder, prepared as ArrayRecord; `manual_dir` holds its downloads."""
    made = Path(builder.data_dir)
    if made.is_dir():  # whole, as TFDS renames it last; the folder around it may be read-only
        return str(made)
    with _locked(writable_folder(made.parent, "machine.prepared_dir")):
        if not made.is_dir():
            # What a killed run left behind; while the lock is held it is nobody's work in progress.
            for left in made.parent.glob(f"incomplete.*_{made.name}"):
                shutil.rmtree(left)
            print(f"preparing {builder.name} in {made}, once ...", flush=True)
            config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
            tfds.disable_progress_bar()
            # TFDS writes beside the folder and renames at the end: a killed run leaves nothing
            # half-made. It prints "Downloading ...", which alarms where nothing is.
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(download_config=config, file_format="array_record")
    return str(made)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Two processes started together; the system frees the lock of a process that dies.
    with locked(folder / ".lock", wait=True):
        yield


@lru_cache(maxsize=8)
def _open_records(builder_dir: str, split: str, image_key: str, label_key: str) -> Any:
    # Undecoded: TFDS's own decoding differs with what is installed (OpenCV or PIL).
    decoders = {image_key: tfds.decode.SkipDecoding(), label_key: tfds.decode.SkipDecoding()}
    return tfds.builder_from_directory(builder_dir).as_data_source(split, decoders=decoders)


def _prepare_downloads(builder: tfds.core.DatasetBuilder, root: str) -> str:
    try:
        return prepare(builder, manual_dir=_expand(root))
    except AssertionError as error:  # TFDS's way to say which files are missing
        raise UserError(f"{error} (root is {root})") from error
    except ImportError as error:
        raise UserError(
            f"preparing {builder.name}, once, needs more packages ({error}): "
            "pip install tensorflow-cpu importlib_resources"
        ) from error


def _open_cityscapes(root: str, split: str, data_dir: str) -> Source:
    builder = tfds.builder("cityscapes/semantic_segmentation", data_dir=_expand(data_dir))
    return open_tfds(
        _prepare_downloads(builder, root),
        split,
        cityscapes.CLASS_NAMES,
        cityscapes.COLORS,
        ignore_label=cityscapes.IGNORE_LABEL,
        id_key="image_id",
        image_key="image_left",
        label_key="segmentation_label",
        label_map=cityscapes.ID_TO_TRAIN_ID,
    )


def _open_imagenet(root: str, split: str, data_dir: str, num_classes: int | None) -> Source:
    """Classes are named by their WordNet ids; with one more of them, class 0 is "background".

    So it is in the official networks of 1001 classes.
    """
    builder = tfds.builder("imagenet2012", data_dir=_expand(data_dir))
    tars = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
    missing = [tar for tar in tars if not Path(_expand(root), tar).is_file()]
    if missing and not Path(builder.data_dir).is_dir():
        raise UserError(
            f"imagenet2012 is not prepared in {builder.data_dir} (--machine.prepared_dir), and root, "
            f"{root}, lacks {' and '.join(missing)}: register at "
            "https://image-net.org/download-images, put both there and run the same command "
            "again, which prepares them once (with TensorFlow: pip install tensorflow-cpu)"
        )
    made = _prepare_downloads(builder, root)
    names = tuple(tfds.builder_from_directory(made).info.features["label"].names)
    background = num_classes == len(names) + 1
    return open_tfds(
        made,
        split,
        ("background", *names) if background else names,
        voc_colormap(len(names) + background),
        ignore_label=NO_CLASS,
        id_key="file_name",
        label_offset=int(background),
    )


def _expand(path: str) -> str:
    return str(Path(path).expanduser())


# ---- the classes in another order


@dataclass(frozen=True)
class ReorderedSource:
    """A source with its classes in another order: `class_names[i]` was its class `ids[i]`.

    Ignored pixels have an id that is no class, whatever they had before.
    """

    source: Source
    class_names: tuple[str, ...]
    colors: tuple[Color, ...]
    ids: tuple[int, ...]
    ignore_label: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        label = example["label"]
        table = np.full(np.iinfo(label.dtype).max + 1, self.ignore_label, label.dtype)
        table[list(self.ids)] = np.arange(len(self.ids))
        table[self.source.ignore_label] = self.ignore_label
        return {**example, "label": table[label]}

    def sizes(self) -> list[Size | None]:
        """Return (h, w) of every image, from the headers alone."""
        return self.source.sizes()

    def name(self, index: int) -> str:
        """Return the image's file or id."""
        return self.source.name(index)

    @property
    def fingerprint(self) -> str:
        """That of the source, and the order."""
        return f"{self.source.fingerprint}, in the order {', '.join(self.class_names)}"


def match_classes(
    source: Source, names: tuple[str, ...], colors: tuple[Color, ...], whose: str
) -> Source:
    """The source with its classes in the order of `names`, those that `whose` network predicts.

    The same names in another order are mapped, and this is said; so are names that differ.

    Raises:
      UserError: there is another number of classes.
    """
    theirs = source.class_names
    if len(theirs) != len(names):
        raise UserError(
            f"{whose} predicts {len(names)} classes ({_some(names, 4)}), and the data set has"
            f" {len(theirs)} ({_some(theirs, 4)}): they cannot be compared. Choose weights that"
            " were trained on these classes, or the data with the classes of the weights"
        )
    if theirs == names:
        return source
    if set(theirs) == set(names):
        print(f"the data's classes are in another order than {whose}'s: mapped", file=sys.stderr)
        ids = tuple(theirs.index(name) for name in names)
        wide = source[0]["label"].dtype == np.uint16
        return ReorderedSource(source, names, colors, ids, NO_CLASS if wide else 255)
    if other := other_names(names, theirs):
        print(
            f"warning: the classes of {whose} and of the data have other names, and are compared by"
            f" their ids: {other}",
            file=sys.stderr,
        )
    return source


def other_names(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """Where as many classes have other names, as "1: 'car' / 'bus'"; "" if nowhere.

    Classes without names, "class 0" and so on, differ from none.
    """
    numbered = tuple(f"class {i}" for i in range(len(ours)))
    if len(ours) != len(theirs) or numbered in (ours, theirs):
        return ""
    pairs = enumerate(zip(ours, theirs, strict=True))
    return _some([f"{i}: {a!r} / {b!r}" for i, (a, b) in pairs if a != b])
