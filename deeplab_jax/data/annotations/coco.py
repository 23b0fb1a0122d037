"""COCO JSON of instances: polygons and run lengths, as CVAT, Roboflow and Label Studio export them.

Categories are sorted by id and numbered. Smaller objects lie on top of larger ones. Sources:
cocoapi, common/maskApi.c; detectron2, data/datasets/coco.py; rf-detr, pull request 1303.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deeplab_jax.config import Size
from deeplab_jax.data.annotations.files import (
    Images,
    clean,
    find,
    index_images,
    list_files,
    load_head,
    load_json,
    show,
)
from deeplab_jax.data.annotations.gather import (
    BOXES,
    INVALID,
    Classes,
    Gathered,
    class_name,
    conclude,
    draw,
    gather_nothing,
    number_classes,
    side,
)
from deeplab_jax.data.annotations.shapes import Runs, Shape, area, box_runs, parse_coco_string, ring
from deeplab_jax.data.layouts import TEST, TRAIN, VAL, Item, Layout, split_name
from deeplab_jax.data.walk import list_folders
from deeplab_jax.errors import UserError

ROBOFLOW = "_annotations.coco.json"
LISTS = ("images", "annotations", "categories")
LOOK = re.compile(rf'"({"|".join(LISTS)})"\s*:\s*\[')
MAX_FILES = 20  # in a folder: LabelMe has one for each image
STORED_NAME = re.compile(r"(^|/)[0-9a-f]{8}-(?=[^/]*$)")  # Label Studio's, before a file's own

Key = int | str


class Export(NamedTuple):
    """A file, what it holds, its split, and the word in its name, or its folder's, that says so."""

    path: Path
    tree: dict[str, Any]
    word: str
    split: str


def read(folder: Path) -> Layout | None:
    """Read a folder that holds COCO JSON of instances; None of others.

    Raises:
      UserError: a file of it is broken, or there is nothing to paint.
    """
    exports = _find_exports(folder)
    if not exports:
        return None
    classes, ids = _number(exports)
    images, gathered = index_images(folder), gather_nothing()
    for export in exports:
        items = gathered.splits.setdefault(export.split, [])
        items += _read_items(folder, export, images, ids, gathered)
    names = ", ".join(export.path.relative_to(folder).as_posix() for export in exports)
    return conclude("coco", f"COCO annotations ({names})", gathered, classes.table, folder)


# ---- files


def _find_exports(folder: Path) -> list[Export]:
    inside = list_folders(folder)
    roboflow = [(folder / name / ROBOFLOW, name) for name in inside]
    splits = [name for name in inside if split_name(name) in (TRAIN, VAL, TEST)]
    instances = list_files(folder / "annotations", ".json")
    named = [path for path in instances if path.name.startswith("instances_")]
    places = (
        [(path, word) for path, word in roboflow if path.is_file()],
        [(path, _word(path)) for path in named or instances],
        [(path, _word(path)) for path in list_files(folder, ".json")],
        [(path, name) for name in splits for path in list_files(folder / name, ".json")],
    )
    for place in places:
        if len(place) > MAX_FILES:
            continue
        if found := [export for path, word in place if (export := _open(path, word))]:
            alone = len(found) == 1 and found[0].split not in (TRAIN, VAL, TEST)
            return [found[0]._replace(split="")] if alone else found
    return []


def _word(path: Path) -> str:
    """The part of a file's name that says its split: "train2017" of instances_train2017.json."""
    words = re.split(r"[_\-. ]", path.stem)
    known = [word for word in words if split_name(word) in (TRAIN, VAL, TEST)]
    return known[-1] if known else path.stem.removeprefix("instances_")


def _open(path: Path, word: str) -> Export | None:
    head = load_head(path)
    if not head.lstrip().startswith("{") or not LOOK.search(head):
        return None
    tree = load_json(path)
    if not isinstance(tree, dict) or not all(isinstance(tree.get(name), list) for name in LISTS):
        return None
    first = tree["annotations"][:1]
    if first and isinstance(first[0], dict) and "segments_info" in first[0]:
        return None  # panoptic: its masks are files
    return Export(path, tree, word, split_name(word))


def _entries(export: Export, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Each entry of a list, and where it stands."""
    for i, entry in enumerate(export.tree[name]):
        if not isinstance(entry, dict):
            raise UserError(f"{export.path}: {name}[{i}] is {show(entry)}, not an object")
        yield entry, f"{export.path}: {name}[{i}]"


def _key(entry: dict[str, Any], name: str, where: str) -> Key:
    value = entry.get(name)
    if not isinstance(value, int | str):
        raise UserError(f"{where}.{name} is {show(value)}; ids are numbers or texts")
    return value


# ---- classes


def _number(exports: list[Export]) -> tuple[Classes, dict[Key, int]]:
    """The classes of all files, which must agree, and the class id of each category's."""
    names: dict[Key, str] = {}
    parents: dict[Key, object] = {}
    for export in exports:
        seen: set[Key] = set()
        for entry, where in _entries(export, "categories"):
            id, name = _key(entry, "id", where), class_name(entry.get("name"), where)
            if id in seen or names.setdefault(id, name) != name:
                other = f"{id!r} is {name!r} and {names[id]!r}"
                raise UserError(
                    f"{where}: category ids must be unique, and alike in all files: {other}"
                )
            seen.add(id)
            parents[id] = entry.get("supercategory")
    used = {
        _key(entry, "category_id", where)
        for export in exports
        for entry, where in _entries(export, "annotations")
    }
    # Roboflow makes a category of the project's name, of which the others are parts.
    for id, name in list(names.items()):
        if id not in used and any(parents[other] == name for other in names if other != id):
            del names[id]
    origin = str(exports[0].path)
    if unknown := used - names.keys():
        few = show(sorted(unknown, key=str)[:4])
        raise UserError(
            f"{origin}: annotations name {len(unknown)} categories that no list has: {few}"
        )
    order = sorted(names, key=lambda id: (isinstance(id, str), id))
    counts = Counter(names.values())
    told = [f"{names[id]} ({id})" if counts[names[id]] > 1 else names[id] for id in order]
    classes = number_classes(told, origin)
    return classes, {id: classes.ids[name] for id, name in zip(order, told, strict=True)}


# ---- images


def _read_items(
    folder: Path, export: Export, images: Images, ids: dict[Key, int], gathered: Gathered
) -> Iterator[Item]:
    entries = {}
    for entry, where in _entries(export, "images"):
        id = _key(entry, "id", where)
        if id in entries:
            raise UserError(f"{where}.id is {show(id)}, as another's; ids must be unique")
        if not isinstance(entry.get("file_name"), str):
            raise UserError(f"{where} has no file_name, but {show(entry)}")
        entries[id] = entry, where
    annotations = defaultdict(list)
    for entry, where in _entries(export, "annotations"):
        annotations[_key(entry, "image_id", where)].append(entry)
    if unknown := annotations.keys() - entries.keys():
        few = show(sorted(unknown, key=str)[:4])
        raise UserError(
            f"{export.path}: annotations of {len(unknown)} images that it does not list: {few}"
        )
    folders = _image_folders(folder, export)
    for id, (entry, where) in entries.items():
        name = clean(entry["file_name"])
        found = find(images, name, folders) or find(images, STORED_NAME.sub(r"\1", name), folders)
        if not found:
            gathered.missing.append(name)
            continue
        size = side(entry.get("height"), where), side(entry.get("width"), where)
        objects = [
            _read_shapes(annotation, ids[annotation["category_id"]], size, gathered.skipped)
            for annotation in annotations[id]
        ]
        objects.sort(key=lambda shapes: -sum(map(area, shapes)))
        shapes = (shape for shapes in objects for shape in shapes)
        yield Item(found[1], images[found[0]], draw(size, shapes))


def _image_folders(folder: Path, export: Export) -> list[str]:
    beside = export.path.parent.relative_to(folder).as_posix().removeprefix(".")
    words = filter(None, dict.fromkeys((export.word, split_name(export.word))))
    forms = ("images/{}", "{}", "{}/images", "{}2017")
    own = [form.format(word) for word in words for form in forms]
    return [beside, *own, "images", ""]


def _read_shapes(
    annotation: dict[str, Any], class_id: int, size: Size, skipped: Counter[str]
) -> list[Shape]:
    """The shapes of an object: one for each polygon, because they are no holes in one another."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        skipped[BOXES if annotation.get("bbox") else INVALID] += 1
        return []
    if isinstance(segmentation, dict):
        try:
            return [Shape(class_id, runs=_read_runs(segmentation, size))]
        except ValueError:
            skipped[INVALID] += 1
            return []
    polygons = segmentation if isinstance(segmentation, list) else [None]
    if not isinstance(polygons[0], list):
        polygons = [polygons]
    shapes = []
    for polygon in polygons:
        try:
            shapes.append(Shape(class_id, (ring(polygon),)))
        except ValueError:
            skipped[INVALID] += 1
    return shapes


def _read_runs(rle: dict[str, Any], size: Size) -> Runs:
    counts = rle.get("counts")
    if rle.get("size") != [*size]:
        raise ValueError("run lengths of another size than their image")
    return box_runs(parse_coco_string(counts) if isinstance(counts, str) else counts, size)
