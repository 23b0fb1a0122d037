"""LabelMe JSON: one file for each image, shapes in the order of drawing. Source: wkentaro/labelme.

Classes are those of labels.txt in the data's root, else the labels in order of name. A label
`__ignore__` is void. Lines have the width with which LabelMe draws them.
"""

import base64
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab_jax.config import Size
from deeplab_jax.data.annotations.files import (
    Images,
    clean,
    find,
    index_images,
    list_files,
    load_head,
    load_json,
    load_text,
    show,
    stem,
)
from deeplab_jax.data.annotations.gather import (
    INVALID,
    OTHERS,
    Gathered,
    check_found,
    class_name,
    conclude,
    draw,
    gather_nothing,
    number_classes,
    side,
)
from deeplab_jax.data.annotations.shapes import (
    MAX_COORDINATE,
    VOID,
    Runs,
    Shape,
    ellipse,
    encode_runs,
    rectangle,
    ring,
    stroke,
)
from deeplab_jax.data.decode import MAX_PIXELS, image_size
from deeplab_jax.data.layouts import TEST, TRAIN, VAL, Item, Layout, split_name
from deeplab_jax.data.masks import list_some, read_mask
from deeplab_jax.data.walk import list_folders
from deeplab_jax.errors import UserError

IGNORE = "__ignore__"
LINE_WIDTH = 10  # pixels
LISTED = 2**20  # bytes, at most, of labels.txt
LOOK = re.compile(r'"(shapes|imageData|imagePath)"\s*:')
TRIED = 3  # files of a folder, to see whether it is one of LabelMe's
LOOSE = "image[|s] without a JSON file [is|are] left out"
FOREIGN = "JSON file[|s] of another kind [is|are] passed over"
RECTANGLES = "rectangle[|s] [is|are] painted"


class Sheet(NamedTuple):
    """What a file says of its image; `shapes` are pairs of a label and what it covers."""

    split: str
    id: str
    image: Path | bytes
    size: Size
    shapes: list[tuple[str, Shape]]


def read(folder: Path) -> Layout | None:
    """Read a folder of LabelMe's JSON files; None of others.

    Raises:
      UserError: a file of it is broken, has a label that labels.txt lacks, or nothing is drawn.
    """
    files = [path for place in _places(folder) for path in _annotation_files(place)]
    if not files:
        return None
    images, gathered = index_images(folder), gather_nothing()
    stems = {stem(key): key for key in images}
    sheets = [s for path in files if (s := _read_sheet(folder, path, images, stems, gathered))]
    told = f"LabelMe's JSON ({len(files)} files)"
    if not sheets:
        check_found(told, gathered, folder)
    listed = _read_labels(folder / "labels.txt")
    labels = {label for sheet in sheets for label, _ in sheet.shapes} - {IGNORE}
    if listed is not None and (unknown := sorted(labels.difference(listed))):
        raise UserError(
            f"{folder / 'labels.txt'} lacks {len(unknown)} labels of the JSON files:"
            f" {list_some(map(show, unknown))}; add them, or remove the list"
        )
    if not labels and not listed:
        raise UserError(f"{folder}: none of {len(files)} JSON files of LabelMe has a shape")
    origin = str(folder / "labels.txt") if listed is not None else f"labels of {folder}"
    table, ids = number_classes(sorted(labels) if listed is None else listed, origin)
    ids[IGNORE] = VOID
    for split, id, image, size, shapes in sheets:
        painted = (shape._replace(class_id=ids[label]) for label, shape in shapes)
        gathered.splits.setdefault(split, []).append(Item(id, image, draw(size, painted)))
    if loose := len(images) - sum(isinstance(sheet.image, Path) for sheet in sheets):
        gathered.skipped[LOOSE] = loose
    return conclude("labelme", told, gathered, table, folder)


# ---- files


def _places(folder: Path) -> Iterator[Path]:
    """The folder, and those in it, two deep: SPLIT, annotations, SPLIT/annotations and so on."""
    yield folder
    for name in list_folders(folder):
        yield folder / name
        yield from (folder / name / inner for inner in list_folders(folder / name))


def _annotation_files(folder: Path) -> list[Path]:
    files = list_files(folder, ".json")
    return files if any(_is_sheet(path) for path in islice(files, TRIED)) else []


def _is_sheet(path: Path) -> bool:
    return bool(LOOK.search(load_head(path))) and _holds_shapes(load_json(path))


def _holds_shapes(tree: Any) -> bool:
    return (
        isinstance(tree, dict)
        and isinstance(tree.get("shapes"), list)
        and ("imagePath" in tree or "imageHeight" in tree)
    )


def _read_labels(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    lines = [line.strip() for line in load_text(path, LISTED).splitlines()]
    return [class_name(line, str(path)) for line in lines if line not in ("", IGNORE)]


def _read_sheet(
    folder: Path, path: Path, images: Images, stems: dict[str, str], gathered: Gathered
) -> Sheet | None:
    tree = load_json(path)
    if not _holds_shapes(tree):
        gathered.skipped[FOREIGN] += 1
        return None
    above = path.parent.relative_to(folder).parts
    place = next((part for part in above if split_name(part) in (TRAIN, VAL, TEST)), "")
    image, id = _find_image(tree, stem(path.relative_to(folder).as_posix()), images, stems)
    if image is None:
        gathered.missing.append(str(tree.get("imagePath")))
        return None
    h, w = tree.get("imageHeight"), tree.get("imageWidth")
    if h is None or w is None:
        h, w = image_size(image, str(path))
    size = side(h, str(path)), side(w, str(path))
    shapes = list(_read_shapes(tree, size, gathered.skipped))
    return Sheet(split_name(place), id.removeprefix(f"{place}/"), image, size, shapes)


def _find_image(
    tree: dict[str, Any], name: str, images: Images, stems: dict[str, str]
) -> tuple[Path | bytes | None, str]:
    """The image of a file `name`, and its id: as it says, else by its own name, else embedded."""
    place, _, own = name.rpartition("/")
    above, _, last = place.rpartition("/")
    folders = [place, f"{above}/images" if above else "images", above, f"images/{last}", "images"]
    path = tree.get("imagePath")
    if isinstance(path, str) and clean(path) and (found := find(images, path, folders)):
        return images[found[0]], stem(found[0])
    if found := find(stems, own, folders):
        return images[stems[found[0]]], found[0]
    data = tree.get("imageData")
    if isinstance(data, str):
        try:
            return base64.b64decode(data), name
        except ValueError:
            pass
    return None, name


# ---- shapes


def _read_shapes(
    tree: dict[str, Any], size: Size, skipped: Counter[str]
) -> Iterator[tuple[str, Shape]]:
    patches = 0  # pixels: a few bytes may claim many
    for entry in tree["shapes"]:
        try:
            if not isinstance(entry, dict):
                raise ValueError("a shape that is no object")
            label = class_name(entry.get("label"), "a shape")
            shapes = _outline(entry, size)
        except (ValueError, UserError):
            skipped[INVALID] += 1
            continue
        if shapes is None:
            skipped[OTHERS] += 1
            continue
        skipped[RECTANGLES] += entry.get("shape_type") == "rectangle"
        for shape in shapes:
            patches += math.prod(shape.runs.size or ()) if shape.runs else 0
            yield label, shape
        if patches > 4 * MAX_PIXELS:
            raise UserError(f"{show(tree.get('imagePath'))}: its masks are far too large together")


def _outline(entry: dict[str, Any], size: Size) -> Iterable[Shape] | None:
    """What a shape covers; None of points. Raises ValueError, or UserError of a broken mask."""
    kind, points = entry.get("shape_type") or "polygon", entry.get("points")
    if kind in ("polygon", "oriented_rectangle"):
        return [Shape(-1, (ring(points),))]
    if kind in ("line", "linestrip"):
        return [Shape(-1, (part,)) for part in stroke(ring(points, 2), LINE_WIDTH)]
    if kind not in ("rectangle", "circle", "mask"):
        return None
    two = ring(points, 2)
    if len(two) != 2:
        raise ValueError(f"a {kind} of {len(two)} points")
    if kind == "rectangle":
        return [Shape(-1, (rectangle(two),))]
    if kind == "circle":
        (x, y), (rim_x, rim_y) = two.tolist()
        radius = math.hypot(rim_x - x, rim_y - y)
        return [Shape(-1, (ellipse(x, y, radius, radius),))]
    return [Shape(-1, runs=_read_mask(entry.get("mask"), two, size))]


def _read_mask(text: object, corners: np.ndarray, size: Size) -> Runs:
    """The runs of a PNG of a part of the image, between two pixels, both of which belong to it."""
    if not isinstance(text, str) or np.abs(corners).max() >= MAX_COORDINATE / 2:
        raise ValueError("a mask that is no text")
    data = base64.b64decode(text)
    (left, top), (right, bottom) = np.round(corners).astype(int).tolist()
    h, w = image_size(data, "a mask")
    if (h, w) != (bottom - top + 1, right - left + 1) or h > 2 * size[0] or w > 2 * size[1]:
        raise ValueError("a mask of another size than its place")
    lengths = encode_runs(read_mask(data, "a mask").values > 0, by_column=False)
    return Runs(lengths.astype(np.int32), (h, w), top, left, by_column=False)
