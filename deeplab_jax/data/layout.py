"""What to tell of a folder of images and masks that is laid out or named in another way."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from deeplab_jax.config import Config
from deeplab_jax.data.walk import is_hidden

VOC_LISTS = "ImageSets/Segmentation"
VOC_IMAGES = "JPEGImages"
TRAIN_SPLITS, EVAL_SPLITS = ("train", "training"), ("val", "valid", "validation", "test")
HOLDOUT = 0.1  # of images that have no splits


def folders_of(folder: Path) -> list[str]:
    """The names of the folders in a folder, without hidden ones and the system's own."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def other_layout(folder: Path, split: str, image_dir: str, mask_dir: str) -> str:
    """What to tell of a folder that has another layout."""
    found = folders_of(folder) if folder.is_dir() else []
    if split in found:
        return (
            f". There is {folder / split}, the other way round: move its images to "
            f"{folder}/{image_dir}/{split} and its masks to {folder}/{mask_dir}/{split}"
        )
    there = f". There are {', '.join(found[:8])}: name the folder of the images by "
    advice = f"{there}--data.image_dir, that of the masks by --data.mask_dir"
    if (folder / VOC_LISTS).is_dir() and (folder / VOC_IMAGES).is_dir():
        advice += (
            ", and set --data.holdout=0.1, because the lists in ImageSets are read of PASCAL VOC "
            "alone (its 21 classes: --data.source=voc2012)"
        )
    return advice if found else ""


def settings_for(base: Config, root: Path, *, named: bool) -> Config:
    """`base` on the data in a folder; unless a configuration was `named`, splits as they are found.

    The run's folder is runs/NAME of the data.
    """
    name = root.resolve().name or "data"
    machine = replace(base.machine, root=str(root), workdir=f"runs/{name}")
    data = base.data
    images = root.expanduser() / data.image_dir
    if not named and images.is_dir():
        there = folders_of(images)
        split = next((s for s in EVAL_SPLITS if s in there), data.eval_split)
        train = next((s for s in TRAIN_SPLITS if s in there), data.train_split)
        data = replace(data, train_split=train, eval_split=split)
        if not there:
            data = replace(data, holdout=HOLDOUT)
    return replace(base, machine=machine, data=data)


class Renaming(NamedTuple):
    """How an image's id becomes its mask's: `old`, at the end or at the beginning, is `new`."""

    at_end: bool
    old: str
    new: str

    def __call__(self, id: str) -> str | None:
        """Return the mask's id; None: this image has not `old` there."""
        folder, slash, name = id.rpartition("/")
        if self.at_end:
            mask = name.removesuffix(self.old) + self.new if name.endswith(self.old) else None
        else:
            mask = self.new + name.removeprefix(self.old) if name.startswith(self.old) else None
        return None if mask is None else f"{folder}{slash}{mask}"


def near_misses(images: Sequence[str], masks: Sequence[str]) -> str:
    """What to tell of ids without partners, if most differ from them by a fixed part alone."""
    there, best, most = set(masks), None, len(images) // 2
    for image in images[:3]:
        for renaming in {r for mask in masks for r in _renamings(image, mask)}:
            if len(images) == 1 and renaming.old and renaming.new:
                continue  # p05 and p07 are no misspelling of each other
            if sum(renaming(i) in there for i in images[:3]) < min(2, len(images)):
                continue  # quickly, because each mask has such a renaming
            count = sum(renaming(i) in there for i in images)
            if count > most:
                best, most = renaming, count
    if best is None:
        return ""
    image = next(i for i in images if best(i) in there)
    change = f"{best.new!r} becoming {best.old!r}" if best.old else f"without {best.new!r}"
    names = f"{best(image)} for {image}"
    return f". {most} have one of nearly the same name, such as {names}: rename it, {change}"


def _renamings(image: str, mask: str) -> list[Renaming]:
    """What makes the mask's name of the image's, where they have a part in common."""
    a, b = (id.rpartition("/")[2] for id in (image, mask))
    start, end = _alike(a, b), _alike(a[::-1], b[::-1])
    both = (Renaming(True, a[start:], b[start:]), Renaming(False, a[:-end], b[:-end]))
    return [r for r, alike in zip(both, (start, end), strict=True) if alike]


def _alike(a: str, b: str) -> int:
    """How many letters are the same from the start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
