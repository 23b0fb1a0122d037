"""YOLO's text files of polygons, and the data.yaml that says where they are.

Coordinates are shares of the image's width and height, so a drawing has no size. Smaller objects
lie on top of larger ones. Source: ultralytics/ultralytics, data/utils.py.
"""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from deeplab_jax.data.annotations.files import (
    MAX_DEPTH,
    Images,
    clean,
    find,
    index_images,
    list_files,
    load_head,
    load_text,
    show,
    stem,
)
from deeplab_jax.data.annotations.gather import (
    BACKGROUND,
    BOXES,
    INVALID,
    class_name,
    conclude,
    draw,
    gather_nothing,
    number_classes,
)
from deeplab_jax.data.annotations.shapes import MAX_POINTS, VOID, Shape, area, ring
from deeplab_jax.data.layouts import TEST, TRAIN, VAL, ClassTable, Item, Layout, split_name
from deeplab_jax.data.tiles import READERS
from deeplab_jax.errors import UserError

LOOK = re.compile(r"(?:^|[{,])\s*['\"]?(names|train)['\"]?\s*:", re.MULTILINE)
MAX_YAML = 2**18  # bytes: what is read of it slowly
MAX_LABELS = 2**26  # bytes of a file
SPLITS = ("train", "val", "validation", "test")
FAR = 1.0  # image sizes outside the image: there, coordinates are no shares but pixels
BARE = "image[|s] without labels [is|are] background"


class Named(NamedTuple):
    """An image by its key, and its id."""

    key: str
    id: str


def read(folder: Path) -> Layout | None:
    """Read a folder with a data.yaml of YOLO's; None of others, and where it names masks.

    Raises:
      UserError: a file of it is broken, a path leads out of the folder, or nothing is drawn.
    """
    found = _find_yaml(folder)
    if found is None:
        return None
    file, told = found
    names = _read_names(told, str(file))
    images, gathered = index_images(folder), gather_nothing()
    bases = _bases(folder, file, told)
    masks = told.get("masks_dir")
    if masks is None:
        table, ids = number_classes(names, str(file))
        numbers = [ids[name] for name in names]
    else:
        table = _table_of_masks(told, names, str(file))

    def item(image: Named) -> tuple[Item, Counter[str]]:
        if masks is not None:
            key = _in_place_of_images(image.key, str(masks))
            mask = images.get(f"{stem(key)}.png") or images.get(key)
            return Item(image.id, images[image.key], mask), Counter([] if mask else [BARE])
        shapes, skipped = _read_labels(folder / _label_path(image.key), numbers, str(file))
        return Item(image.id, images[image.key], draw(None, shapes)), skipped

    for key in SPLITS:
        if told.get(key) is None:
            continue
        named = _find_images(folder, file, key, told[key], bases, images)
        if not named and key == TRAIN:
            raise UserError(
                f"{file}: {key}: {show(told[key])} has no images below {folder}; paths are"
                " relative to the file, or to its `path`"
            )
        gathered.skipped[f"split ({key}) has no images"] += not named
        items = gathered.splits.setdefault(split_name(key), [])
        with ThreadPoolExecutor(READERS) as pool:
            for one, skipped in pool.map(item, named):
                items.append(one)
                gathered.skipped.update(skipped)
    if masks is not None:
        told_ = f"Ultralytics' masks ({file.name}: masks_dir)"
        return conclude("ultralytics", told_, gathered, table, folder)
    return conclude("yolo", f"YOLO's text files ({file.name})", gathered, table, folder)


# ---- data.yaml


def _find_yaml(folder: Path) -> tuple[Path, dict[Any, Any]] | None:
    files = []
    for file in list_files(folder, ".yaml", ".yml"):
        if {match[1] for match in LOOK.finditer(load_head(file))} == {"names", "train"}:
            told = _parse(file)
            named = isinstance(told, dict) and "names" in told
            if named and isinstance(told.get("train"), str | list):
                files.append((file, told))
    if len(files) > 1:
        raise UserError(f"{files[0][0]} and {files[1][0]} both name images: keep one of them")
    return files[0] if files else None


def _parse(file: Path) -> Any:
    text = load_text(file, MAX_YAML)
    if "<<" in text:  # merged keys multiply: a few lines can become millions of entries
        raise UserError(f"{file}: holds '<<' (merged keys), which is not read: write the keys out")
    try:
        return yaml.safe_load(text)
    except Exception as error:  # of odd values it raises IndexError, AttributeError, ValueError ...
        what = " ".join(str(error).split())[:300]
        raise UserError(f"{file}: not readable as YAML ({what})") from error


def _read_names(told: dict[Any, Any], origin: str) -> list[str]:
    names, count = told["names"], told.get("nc")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise UserError(f"{origin}: the keys of names must be the numbers 0, 1, 2 and so on")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{origin}: names must be a list, or numbers with names")
    if count is not None and count != len(names):
        raise UserError(f"{origin}: nc is {show(count)}, but there are {len(names)} names")
    return [class_name(name, f"{origin}: names") for name in names]


# ---- paths


def _bases(folder: Path, file: Path, told: dict[Any, Any]) -> list[str]:
    """The folders that paths are relative to, below the root: `path`, if it is there; the root."""
    path = told.get("path")
    if path is None:
        return [""]
    if not isinstance(path, str):
        raise UserError(f"{file}: path is {show(path)}, not a text")
    found = _find_below(folder, path, [""])
    return [found, ""] if found else [""]


def _find_below(folder: Path, path: str, bases: list[str]) -> str | None:
    """A path in a data.yaml, as one below the root; "" is the root itself.

    It is tried as it is written, and without ../ at its beginning, which Roboflow writes as if
    data.yaml were a folder deeper. Of an absolute one, of the machine that wrote it, the ends are
    tried: of two names at least, or a split's name.
    """
    parts = [part for part in clean(path).split("/") if part not in ("", ".")]
    up = len(list(takewhile(lambda part: part == "..", parts)))
    tails = [parts] + ([parts[up:]] if 0 < up < len(parts) else [])
    if clean(path).startswith("/") or re.match("[A-Za-z]:", path):
        tails = [parts[i:] for i in range(len(parts))]
        tails = [t for t in tails if len(t) > 1 or split_name(t[0]) in (TRAIN, VAL, TEST)]
    for tail in tails[:MAX_DEPTH]:
        for base in bases:
            key = posixpath.normpath(posixpath.join(base, *tail))
            if not key.startswith(("..", "/")) and os.path.exists(folder / key):
                return "" if key == "." else key
    return None


def _find_images(
    folder: Path, file: Path, key: str, value: object, bases: list[str], images: Images
) -> list[Named]:
    """The images of a split: of a folder, of a list in a text file, or of several of these."""
    values = value if isinstance(value, list) else [value]
    named: list[Named] = []
    for path in values:
        if not isinstance(path, str):
            raise UserError(f"{file}: {key}: {show(path)} is no path")
        place = _find_below(folder, path, bases)
        if place is None:
            continue
        if (folder / place).is_file():
            named += _read_list(folder, place, bases, images)
            continue
        inside = f"{place}/" if place else ""
        start = 0 if len(values) > 1 else len(inside)
        named += [Named(key, stem(key[start:])) for key in images if key.startswith(inside)]
    return named


def _read_list(folder: Path, name: str, bases: list[str], images: Images) -> list[Named]:
    place = posixpath.dirname(name)
    named = []
    for line in filter(str.strip, load_text(folder / name).splitlines()):
        found = find(images, line, [place, *bases] if line.startswith("./") else [*bases, place])
        if not found:
            raise UserError(f"{folder / name}: {show(line)} is no image below {folder}")
        named.append(Named(found[0], stem(found[0])))
    return named


def _label_path(key: str) -> str:
    """Where an image's labels are: in labels/ in place of the last images/, or beside it."""
    return f"{stem(_in_place_of_images(key, 'labels'))}.txt"


def _in_place_of_images(key: str, folder: str) -> str:
    before, images, after = f"/{key}".rpartition("/images/")
    return (f"{before}/{folder}/{after}" if images else f"/{key}").removeprefix("/")


def _table_of_masks(told: Mapping[Any, Any], names: list[str], origin: str) -> ClassTable:
    """The classes of masks, by `label_mapping` where there is one; one class has a background."""
    mapping, pairs = told.get("label_mapping"), []
    if len(names) == 1:
        return ClassTable((BACKGROUND, *names), origin=origin)
    if mapping is not None and not isinstance(mapping, dict):
        raise UserError(f"{origin}: label_mapping is {show(mapping)}, not values and classes")
    for value, index in (mapping or {}).items():
        void = index in (None, "ignore_label")
        if type(value) is not int or not (void or index in range(len(names))):
            raise UserError(f"{origin}: label_mapping: {show(value)}: {show(index)} is no class")
        pairs += [(value, VOID if void else index)] if value >= 0 else []
    return ClassTable(tuple(names), values=tuple(pairs), origin=origin)


# ---- labels


def _read_labels(path: Path, numbers: list[int], origin: str) -> tuple[list[Shape], Counter[str]]:
    """The shapes of a text file, the largest first; what is skipped."""
    skipped: Counter[str] = Counter()
    if not path.is_file():
        return [], Counter((BARE,))
    shapes = []
    for i, line in enumerate(load_text(path, MAX_LABELS).splitlines()):
        words = line.split()
        if not words:
            continue
        where = f"{path}:{i + 1}"
        try:
            index = float(words[0])
            values = [float(word) for word in words[1 : 2 * MAX_POINTS + 3]]
        except ValueError as error:
            raise UserError(f"{where}: {show(line)} is not a class and numbers") from error
        if index not in range(len(numbers)):
            known = f"{origin} names {len(numbers)} classes, 0 to {len(numbers) - 1}"
            raise UserError(f"{where}: class {words[0][:50]}, but {known}")
        if len(values) == 4:
            skipped[BOXES] += 1
            continue
        try:
            points = ring(values)
        except ValueError:
            skipped[INVALID] += 1
            continue
        if points.min() < -FAR or points.max() > 1 + FAR:
            raise UserError(
                f"{where}: a coordinate of {np.abs(points).max():g}; they are shares of the image's"
                " width and height, 0 to 1: divide by these"
            )
        shapes.append(Shape(numbers[int(index)], (points,)))
    return sorted(shapes, key=lambda shape: -area(shape)), skipped
