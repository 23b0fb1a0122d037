"""Run lengths in a CSV file, as Kaggle's competitions give them: pairs of a start and a length.

Starts count from 1, down the columns unless their steps say that it is along the rows. No file says
how large an image is, so a drawing has no size. Sources: the rules of Airbus Ship Detection and
Severstal Steel Defect Detection.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab_jax.data.annotations.files import (
    MAX_BYTES,
    Images,
    clean,
    index_images,
    list_files,
    load_head,
    show,
    stem,
)
from deeplab_jax.data.annotations.gather import (
    INVALID,
    Gathered,
    class_name,
    conclude,
    draw,
    gather_nothing,
    number_classes,
)
from deeplab_jax.data.annotations.shapes import Runs, Shape, runs_from_starts
from deeplab_jax.data.decode import Unreadable, image_size
from deeplab_jax.data.layouts import TEST, TRAIN, VAL, Item, Layout, split_name
from deeplab_jax.errors import UserError

IMAGE = ("imageid", "id", "img", "image")
RUNS = ("encodedpixels", "rle_mask", "rle")
CLASS = ("classid", "class")
JOINED = "imageid_classid"
NONE = ("", "-1", "nan")
OBJECT = "object"  # the class of a file without classes
MAX_FIELD = 2**26  # letters
MASKS = {"mask", "masks", "label", "labels"}  # folders whose files have the images' names
LOOKED_AT = 100  # images, to see which way their runs go
LOOSE = "image[|s] that no row names [is|are] left out"


class Columns(NamedTuple):
    """Where in a row what is; no `label`: joined to the image's name, or there is none."""

    image: int
    runs: int
    label: int | None
    joined: bool


def read(folder: Path) -> Layout | None:
    """Read a folder with a CSV of run lengths, and images anywhere below it; None of others.

    What an upload should look like, sample_submission.csv, is passed over.

    Raises:
      UserError: the file is broken, or an image is there twice, or nothing is drawn.
    """
    files = [(path, columns) for path in _tables(folder) if (columns := _read_header(path))]
    if not files:
        return None
    images, gathered = index_images(folder), gather_nothing()
    tables = {}
    for path, columns in files:
        split = _split(path) if len(files) > 1 else ""
        if split in tables or (len(files) > 1 and not split):
            few = ", ".join(path.name for path, _ in files)
            raise UserError(
                f"{folder}: which of {few} is the list? Keep one, or train.csv, val.csv"
            )
        tables[split] = _read_rows(path, columns, gathered)
    names = {label: _label_name(label, path) for rows in tables.values() for label in rows.labels}
    order = sorted(names, key=lambda label: (len(label) if label.isdigit() else 0, label))
    table, ids = number_classes([names[label] for label in order], str(files[0][0]))
    places = _places(images)
    placed: list[tuple[str, str, list[tuple[str, Runs]]]] = []
    for split, rows in tables.items():
        for name, shapes in rows.images.items():
            if (key := _find(places, name, split, folder)) is None:
                gathered.missing.append(name)
            else:
                placed.append((split, key, shapes))
    by_column = not _go_along_rows([(images[key], shapes) for _, key, shapes in placed])
    for split, key, shapes in placed:
        painted = (
            Shape(ids[names[label]], runs=runs._replace(by_column=by_column))
            for label, runs in shapes
        )
        item = Item(stem(key), images[key], draw(None, painted))
        gathered.splits.setdefault(split, []).append(item)
    gathered.skipped[LOOSE] = len(images) - sum(map(len, gathered.splits.values()))
    way = "down columns" if by_column else "along rows"
    told = f"run lengths {way} ({', '.join(path.name for path, _ in files)})"
    return conclude("kaggle", told, gathered, table, folder)


# ---- the file


def _tables(folder: Path) -> list[Path]:
    files = list_files(folder, ".csv")
    return [path for path in files if not path.name.lower().startswith("sample")]


def _split(path: Path) -> str:
    words = (split_name(word) for word in path.stem.replace("-", "_").split("_"))
    return next((word for word in words if word in (TRAIN, VAL, TEST)), "")


def _read_header(path: Path) -> Columns | None:
    line = load_head(path).partition("\n")[0]
    names = [name.strip(" \t\r\"'").lower() for name in line.split(",")]

    def where(*known: str) -> int | None:
        return next((names.index(name) for name in known if name in names), None)

    image, joined, runs = where(*IMAGE), where(JOINED), where(*RUNS)
    if runs is None or (image is None and joined is None):
        return None
    if image is None:
        return Columns(joined or 0, runs, None, True)
    return Columns(image, runs, where(*CLASS), False)


class Rows(NamedTuple):
    """The labels of a file, and of each image its labels with their runs."""

    labels: set[str]
    images: dict[str, list[tuple[str, Runs]]]


def _read_rows(path: Path, columns: Columns, gathered: Gathered) -> Rows:
    rows = Rows(set(), {})
    last = max(columns.image, columns.runs, columns.label or 0)
    before = csv.field_size_limit(MAX_FIELD)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: more than {MAX_BYTES // 2**30} GB; cut it in parts")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            next(reader)
            for row in reader:
                if not row:
                    continue
                if len(row) <= last:
                    raise UserError(
                        f"{path}:{reader.line_num}: {len(row)} cells; {last + 1} needed"
                    )
                name, text = row[columns.image].strip(), row[columns.runs].strip()
                label = OBJECT if columns.label is None else row[columns.label].strip()
                if columns.joined:
                    name, _, label = name.rpartition("_")
                rows.labels.add(label)
                shapes = rows.images.setdefault(name, [])
                if text.lower() not in NONE:
                    try:
                        shapes.append((label, _parse(text)))
                    except ValueError:
                        gathered.skipped[INVALID] += 1
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror})") from error
    except (csv.Error, UnicodeDecodeError, StopIteration) as error:
        raise UserError(f"{path}: not readable as CSV in UTF-8 ({error})") from error
    finally:
        csv.field_size_limit(before)
    return rows


def _parse(text: str) -> Runs:
    words = text.split()
    if len(words) % 2:
        raise ValueError("an odd number of starts and lengths")
    try:
        pairs = np.array(words, dtype=np.int64).reshape(-1, 2)
    except OverflowError as error:
        raise ValueError("numbers that are far too large") from error
    return runs_from_starts(pairs)


def _go_along_rows(found: Sequence[tuple[Path, list[tuple[str, Runs]]]]) -> bool:
    """Whether runs begin about a width apart, line by line of a shape, and not a height."""
    rows = columns = 0
    for image, shapes in found[:: len(found) // LOOKED_AT + 1]:
        try:
            h, w = image_size(image, str(image))
        except Unreadable:
            continue
        for _, runs in shapes:
            steps = np.diff(np.cumsum(runs.lengths)[::2])
            near = min(abs(h - w) / 2, h / 4, w / 4)
            rows += int((np.abs(steps - w) < near).sum())
            columns += int((np.abs(steps - h) < near).sum())
    return rows > 4 * columns


def _label_name(label: str, path: Path) -> str:
    return f"class {label}" if label.isdigit() else class_name(label, str(path))


# ---- images


def _places(images: Images) -> dict[str, list[str]]:
    """The keys of images by their names, with and without suffix; masks are none."""
    places: dict[str, list[str]] = {}
    for key in images:
        *folders, name = key.split("/")
        if not MASKS & {part.lower() for part in folders}:
            for called in {name, stem(name)}:
                places.setdefault(called, []).append(key)
    return places


def _find(places: dict[str, list[str]], name: str, split: str, folder: Path) -> str | None:
    keys = places.get(clean(name).rpartition("/")[2], [])
    if len(keys) > 1:
        named = clean(name)
        keys = (
            [key for key in keys if named in (key, stem(key))]
            or [key for key in keys if split and split in map(split_name, key.split("/")[:-1])]
            or keys
        )
    if len(keys) > 1:
        raise UserError(f"{folder}: {show(name)} is {keys[0]} and {keys[1]}: remove one")
    return keys[0] if keys else None
