"""Which layout a folder of data has: found by looking, and asked about where two would do."""

import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from deeplab_jax.config import DataConfig
from deeplab_jax.data.annotations import coco, cvat, kaggle, labelme, yolo
from deeplab_jax.data.annotations.shapes import Drawing
from deeplab_jax.data.datasets import cityscapes
from deeplab_jax.data.layouts import Item, Layout
from deeplab_jax.data.masks import list_some
from deeplab_jax.data.meaning import spread
from deeplab_jax.data.pairs import find_pairs, make_layout
from deeplab_jax.data.walk import SUFFIXES, Walk, is_hidden, walk_images
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
    found = list(_annotated(folder, data))
    if not any(layout.name == "ultralytics" for layout, _ in found):  # whose masks are pairs, too
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
        rows = name == "kaggle" and data.runs == "rows"
        layout = kaggle.read(folder, by_column=False) if rows else read(folder)
        if layout is not None and data.layout in ("auto", layout.name):
            yield _with_overlap(layout, data), f"--data.layout={layout.name}"


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


def _masked(folder: Path, data: DataConfig) -> Iterator[Found]:
    if data.layout in ("auto", "cityscapes") and (layout := cityscapes.read(folder)):
        yield layout, "--data.layout=cityscapes"
        return
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
    cvat_list = (folder / "labelmap.txt").is_file()
    named = [name if name != "." else "" for name in (data.image_dir, data.mask_dir)]
    every = find_pairs(walk.images, folder, *named)
    for pairs in every:
        inner = sorted({p.parent.parent for p in spread(sorted(pairs.images.values()), 8)})
        layout = make_layout(pairs, [folder, *inner], empty_is_background=cvat_list)
        several = len(every) > 1
        yield layout, f"--data.mask_dir={pairs.mask_dir}" if several else "--data.layout=pairs"


def _say_what_is_there(folder: Path, data: DataConfig) -> str:
    """What to tell of a folder that is not understood: what it holds, and what would be."""
    images = walk_images(folder).images
    names = [p.name + ("/" if p.is_dir() else "") for p in sorted(folder.iterdir())]
    there = list_some(name for name in names if not is_hidden(name)) or "nothing"
    if not images:
        kinds = ", ".join(sorted(SUFFIXES))
        return f"{folder} holds no images ({kinds}); in it there are {there}"
    asked = f" as --data.layout={data.layout}" if data.layout != "auto" else ""
    return (
        f"{folder} is not understood{asked}: {len(images)} images, such as {images[0]}, and no"
        f" masks or annotations that belong to them; in it there are {there}. Understood are"
        " images/ and masks/, with or without train/ and val/ in them, NAME.jpg beside"
        " NAME_mask.png, COCO, LabelMe, YOLO, CVAT, Roboflow, VOC, Cityscapes (docs/data.md)."
        " Folders of other names: --data.image_dir and --data.mask_dir"
    )


@cache
def say_once(text: str) -> None:
    """Print on stderr what every split of a folder would say again."""
    print(text, file=sys.stderr)
