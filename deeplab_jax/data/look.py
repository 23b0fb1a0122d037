"""Which layout a folder of data has: found by looking, and asked about where two would do."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from deeplab_jax.config import DataConfig
from deeplab_jax.data.annotations import coco, cvat, kaggle, labelme, yolo
from deeplab_jax.data.annotations.foreign import name_foreign
from deeplab_jax.data.annotations.shapes import Drawing
from deeplab_jax.data.datasets import cityscapes
from deeplab_jax.data.layouts import Item, Layout
from deeplab_jax.data.lists import divide_layout
from deeplab_jax.data.masks import list_some
from deeplab_jax.data.meaning import spread
from deeplab_jax.data.pairs import find_pairs, make_layout
from deeplab_jax.data.walk import SUFFIXES, Walk, is_hidden, list_folders, walk_images
from deeplab_jax.errors import UserError

ANNOTATIONS = {m.__name__.rpartition(".")[2]: m.read for m in (coco, labelme, yolo, cvat, kaggle)}
TEXTS = (".txt", ".csv", ".json", ".xml", ".yaml", ".yml", ".md")  # beside images

Found = tuple[Layout, str]  # and the flag that chooses it


def find_layout(folder: Path, data: DataConfig) -> Layout:
    """The one layout that fits a folder.

    Raises:
      UserError: none does, with what there is; or several, each with the flag that chooses it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: there is no such folder (--machine.root)")
    # What is unpacked may be a folder deeper. Of images and masks the words tell, how deep.
    known = ([*_annotated(one, data), *_cityscapes(one, data)] for one in _only_folders(folder))
    found = next(filter(None, known), [])
    if not {layout.name for layout, _ in found} & {"ultralytics", "cityscapes"}:  # which are pairs
        found += _masked(folder, data)
    if len(found) == 1:
        return found[0][0]
    if not found:
        raise UserError(_say_what_is_there(folder, data))
    readings = "\n  - ".join(f"{layout.told}: {flag}" for layout, flag in found)
    raise UserError(f"{folder} can be understood in several ways; choose one:\n  - {readings}")


def _annotated(folder: Path, data: DataConfig) -> Iterator[Found]:
    for name, read in ANNOTATIONS.items():
        kinds = (name, "ultralytics") if name == "yolo" else (name,)
        named = data.image_dir or data.mask_dir
        if data.layout not in kinds and (data.layout != "auto" or named):
            continue
        layout = read(folder)
        if layout is not None and data.layout in ("auto", layout.name):
            layout = _with_overlap(divide_layout(layout, _only_folders(folder)), data)
            yield layout, f"--data.layout={layout.name}"


def _with_overlap(layout: Layout, data: DataConfig) -> Layout:
    """The layout with the shapes' overlap as it is asked for."""
    if data.overlap == "paint":
        return layout

    def change(item: Item) -> Item:
        if not isinstance(item.label, Drawing):
            return item
        return item._replace(label=item.label._replace(overlap=data.overlap))

    splits = {split: tuple(map(change, items)) for split, items in layout.splits.items()}
    return layout._replace(splits=splits)


def _only_folders(folder: Path) -> Iterator[Path]:
    """The folder, and the one in it, and the one in that, as long as it is the only one."""
    yield folder
    while len(names := list_folders(folder)) == 1:
        folder /= names[0]
        yield folder


def _cityscapes(folder: Path, data: DataConfig) -> Iterator[Found]:
    if data.layout in ("auto", "cityscapes") and (layout := cityscapes.read(folder)):
        yield layout, "--data.layout=cityscapes"


def _masked(folder: Path, data: DataConfig) -> Iterator[Found]:
    if data.layout not in ("auto", "pairs"):
        return
    walk = walk_images(folder)
    others = Walk([], Counter({k: n for k, n in walk.passed_over.items() if k not in TEXTS}))
    if others.passed_over:
        say_once(f"{folder}: {others.describe()}")
    for path in walk.images:
        shown = str(path).encode(errors="backslashreplace").decode()
        if shown != str(path):
            raise UserError(f"{shown}: the name is not in UTF-8 (an old archive?); rename it")
    named = [name if name != "." else "" for name in (data.image_dir, data.mask_dir)]
    found = (find_pairs(walk.images, one, *named) for one in _only_folders(folder))
    every = next(filter(None, found), [])
    dirs = [("image_dir", [p.image_dir for p in every]), ("mask_dir", [p.mask_dir for p in every])]
    for i, pairs in enumerate(every):
        bases = between(folder, pairs.images.values())
        cvat_list = any((base / "labelmap.txt").is_file() for base in bases)
        layout = make_layout(pairs, bases, empty_is_background=cvat_list)
        flags = (f"--data.{name}={where[i]}" for name, where in dirs if len({*where}) > 1)
        yield layout, " ".join(flags) or "--data.layout=pairs"


def between(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """The folders from one down to those of some of the paths below it."""
    some = spread(sorted(paths), 8)
    above = {one for path in some for one in path.parents if one.is_relative_to(folder)}
    return sorted(above, key=lambda path: (len(path.parts), path))


def _say_what_is_there(folder: Path, data: DataConfig) -> str:
    """What to tell of a folder that is not understood: what it holds, and what would be."""
    images = walk_images(folder).images
    names = [p.name + ("/" if p.is_dir() else "") for p in sorted(folder.iterdir())]
    there = list_some(name for name in names if not is_hidden(name)) or "nothing"
    if not images:
        kinds = ", ".join(sorted(SUFFIXES))
        return f"{folder} holds no images ({kinds}); in it there are {there}"
    if foreign := name_foreign(folder):
        return f"{folder} is not understood: {foreign}"
    asked = f" as --data.layout={data.layout}" if data.layout != "auto" else ""
    return (
        f"{folder} is not understood{asked}: {len(images)} images, such as {images[0]}, and no"
        f" masks or annotations that belong to them; in it there are {there}. Understood are"
        " images/ and masks/, with or without train/ and val/ in them, NAME.jpg beside"
        " NAME_mask.png, COCO, LabelMe, YOLO, CVAT, Roboflow, VOC, Cityscapes (docs/data.md)."
        " Folders of other names: --data.image_dir and --data.mask_dir, as masks or SPLIT/masks"
    )


@cache
def say_once(text: str) -> None:
    """Print on stderr what every split of a folder would say again."""
    print(text, file=sys.stderr)
