"""How a folder of images and masks is laid out: what is found, and what to tell of the rest."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from deeplab_jax.config import Config
from deeplab_jax.data.walk import list_folders

VOC_LISTS = "ImageSets/Segmentation"
VOC_IMAGES = "JPEGImages"
TRAIN_SPLITS, EVAL_SPLITS = ("train", "training"), ("val", "valid", "validation", "test")
HOLDOUT = 0.1  # of images that have no splits


def settings_for(base: Config, root: Path, *, named: bool) -> Config:
    """`base` on the data in a folder; unless a configuration was `named`, splits as they are found.

    images/ may hold a folder for training and one for evaluation (`TRAIN_SPLITS`, `EVAL_SPLITS`),
    or the images themselves, of which a tenth is then held out. What is chosen is said on stderr;
    what is not understood is left as it is, for `open_source` to refuse. Unless a configuration was
    named, the run's folder is runs/NAME of the data.
    """
    folder, data = root.expanduser(), base.data
    machine = replace(base.machine, root=str(root))
    if not named:
        machine = replace(machine, workdir=f"runs/{folder.resolve().name or 'data'}")
    images = folder / data.image_dir
    if not named and images.is_dir():
        there = list_folders(images)
        train, evaluation = (
            next((split for split in splits if split in there), None)
            for splits in (TRAIN_SPLITS, EVAL_SPLITS)
        )
        if train and evaluation:
            data = replace(data, train_split=train, eval_split=evaluation)
            print(f"{images}: trains on {train}/, evaluates on {evaluation}/", file=sys.stderr)
        elif not there:
            data = replace(data, train_split="train", eval_split="val", holdout=HOLDOUT)
            share = f"about {HOLDOUT:.0%} of the images are held out for evaluation"
            print(f"{images} has no splits: {share} (--data.holdout)", file=sys.stderr)
    return replace(base, machine=machine, data=data)


def other_layout(folder: Path, split: str, image_dir: str, mask_dir: str) -> str:
    """What to tell of a folder that has another layout; begins with a full stop, or is empty."""
    found = list_folders(folder) if folder.is_dir() else []
    if split in found:
        return (
            f". There is {folder / split}, the other way round: move its images to "
            f"{folder}/{image_dir}/{split} and its masks to {folder}/{mask_dir}/{split}"
        )
    advice = (
        f". There are {', '.join(found[:8])}: name the folder of the images by --data.image_dir, "
        "that of the masks by --data.mask_dir"
    )
    if (folder / VOC_LISTS).is_dir() and (folder / VOC_IMAGES).is_dir():
        advice += (
            ", and set --data.holdout=0.1, because the lists in ImageSets are read of PASCAL VOC "
            "alone (its 21 classes: --data.source=voc2012)"
        )
    return advice if found else ""


def near_misses(images: Sequence[str], masks: Sequence[str]) -> str:
    """What to tell of ids without partners, if most differ by the same part of their names.

    The part is at the ends, as in p1 and p1_mask, or at the beginnings, as in img_1 and gt_1.
    """
    there = set(masks)
    for turn in (1, -1):  # -1: the beginnings, as ends of names that are read from behind
        ends = [
            _find_start(id.rpartition("/")[2][::-turn] for id in ids)[::-1]
            for ids in (images, masks)
        ]
        old, new = (end.removeprefix(_find_start(ends)) for end in ends)
        if old == new or (len(images) == 1 and old and new):
            continue  # p05 and p07 are no misspelling of each other
        renamed = {id: _rename(id, turn, old, new) for id in images}
        found = [id for id in images if renamed[id] in there]
        if 2 * len(found) > len(images):
            old, new = old[::turn], new[::turn]
            change = f"{new!r} becoming {old!r}" if old else f"without {new!r}"
            return (
                f". {len(found)} have one of nearly the same name, such as {renamed[found[0]]} for "
                f"{found[0]}: rename it, {change}"
            )
    return ""


def _find_start(names: Iterable[str]) -> str:
    """The letters that all names begin with."""
    columns = takewhile(lambda letters: len({*letters}) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in columns)


def _rename(id: str, turn: int, old: str, new: str) -> str:
    """An id whose name, read in a direction, ends with `new` instead of `old`."""
    folder, slash, name = id.rpartition("/")
    return folder + slash + (name[::turn].removesuffix(old) + new)[::turn]
