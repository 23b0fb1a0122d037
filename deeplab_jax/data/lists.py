"""Lists of a split's images: train.txt, val.txt, ImageSets/Segmentation/train.txt and so on."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import product
from pathlib import Path

from deeplab_jax.data.layouts import SPLIT_NAMES, TEST, TRAIN, VAL, Layout, split_name
from deeplab_jax.data.masks import list_some
from deeplab_jax.errors import UserError
from deeplab_jax.files import read_user_text

FOLDERS = ("", "ImageSets/Segmentation", "ImageSets/SegmentationContext", "splits", "lists")
NO_LISTS = ("classes", "labelmap", "label_colors", "labels", "class_names", "codes", "readme")

Lists = dict[str, tuple[Path, list[str]]]  # by split


def read_lists(bases: Iterable[Path]) -> Lists:
    """The file and lines of each list in the first of these folders that has any."""
    for base, folder in product(bases, FOLDERS):
        files = sorted((base / folder).glob("*.txt"))
        found = {
            split_name(f.stem): (f, _lines(f)) for f in files if f.stem.lower() not in NO_LISTS
        }
        named = {s: v for s, v in found.items() if s in SPLIT_NAMES or folder}
        if named:
            return named
    return {}


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in read_user_text(file).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def divide(ids: Collection[str], lists: Lists) -> dict[str, list[str]]:
    """The ids of images that each list names: by as much of the path's end as there is.

    Where only evaluation has a list, the others are for training, in `ids`' order.

    Raises:
      UserError: a list names an image twice, or what is none.
    """
    known: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        parts = id.split("/")
        for i in range(len(parts)):
            known["/".join(parts[i:])].append(id)
    for file, lines in lists.values():
        if doubled := [line for line, n in Counter(lines).items() if n > 1]:
            raise UserError(f"{file} lists {doubled[0]} more than once")
    splits = {
        split: [_find(line, known, file) for line in lines]
        for split, (file, lines) in lists.items()
        if lines
    }
    if splits and splits.keys() <= {VAL, TEST}:
        listed = {id for some in splits.values() for id in some}
        splits[TRAIN] = [id for id in ids if id not in listed]
    return splits


def divide_layout(layout: Layout, bases: Iterable[Path]) -> Layout:
    """The layout with the splits of lists in one of `bases`, where it has none of its own."""
    if layout.splits.keys() != {""} or not (lists := read_lists(bases)):
        return layout
    items = {item.id: item for item in layout.splits[""]}
    splits = {s: tuple(items[id] for id in ids) for s, ids in divide(items, lists).items()}
    told = f"{layout.told}; splits by {list_some(file for file, _ in lists.values())}"
    return layout._replace(splits=splits, told=told)


def _find(line: str, known: Mapping[str, list[str]], file: Path) -> str:
    """The image that a list's line names, with or without folders and suffix."""
    # A line may name the mask too; a name may hold spaces.
    for text in (line, line.split()[0]):
        parts = text.replace("\\", "/").strip("/").split("/")
        for i in range(len(parts)):
            tail = "/".join(parts[i:])
            for name in (tail, tail.rpartition(".")[0]):
                if len(found := known.get(name, [])) == 1:
                    return found[0]
    raise UserError(f"{file} lists {line!r}, which is the name of no image, or of several")
