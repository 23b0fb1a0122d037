"""What the path of an image or a mask says of it, by the words in it.

A folder's name says what its files are (`masks`, `SegmentationClass`), of which split (`train`), or
both (`trainannot`). What tools and data sets call their folders stands in the lists of words here.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from deeplab_jax.data.layouts import SPLIT_NAMES, split_name

# Words of folders, in lower case.
MASK_WORDS = frozenset((
    "mask", "masks", "label", "labels", "annotation", "annotations", "ann", "anns", "ann_dir",
    "annot", "gt", "groundtruth", "ground_truth", "segmentationclass", "segmentationclassaug",
    "segmentationclasspng", "segmentation", "segmentations", "semantic", "target", "targets",
    "truth", "masks_machine", "masks_png", "labelsapproved_full", "labeledapproved_full",
    "labelids", "segmentationclasscontext", "labelstr",
))  # fmt: skip
# Of folders with other renderings of masks, or with single objects.
OTHER_WORDS = frozenset((
    "segmentationobject", "segmentationobjectpng", "segmentationclassvisualization",
    "visualization", "visualizations", "segmentationobjectvisualization", "semantic_rgb",
    "instance", "instances", "masks_human", "overlay", "overlays", "color", "colors", "preview",
    "previews", "instance_masks", "segmentationclassnpy", "colormap", "colormaps",
))  # fmt: skip
IMAGE_WORDS = frozenset((
    "image", "images", "img", "imgs", "img_dir", "jpegimages", "image_2", "photo", "photos",
    "rgb", "input", "inputs", "picture", "pictures", "images_png", "data", "x", "frames",
    "701_stillsraw_full", "imagestr",
))  # fmt: skip
WORDS = MASK_WORDS | OTHER_WORDS | IMAGE_WORDS
SEPARATORS = r"[_\-. ]+"
_SPLITS = {word: ours for ours, words in SPLIT_NAMES.items() for word in words}


class Place(NamedTuple):
    """A file by its path's words: its `group`, a folder with splits written *, and split.

    `rest` is what remains: the folders below the group, and the name without suffix.
    """

    group: str
    split: str
    rest: str
    path: Path


def place(path: Path, root: Path) -> Place:
    """What a file's path says; `root` is the folder of data."""
    *folders, name = path.relative_to(root).parts
    split, group, after = "", [], 0
    says = is_word if any(map(is_word, folders)) else _has_word
    for i, folder in enumerate(folders):
        found, pattern = split_in(folder)
        if found and not split:
            split = found
        if found or says(folder):
            after = i + 1
        group.append(pattern)
    if after == 0 and folders:
        after = 1
    rest = "/".join([*folders[after:], name.rpartition(".")[0]])
    return Place("/".join(group[:after]), split, rest, path)


def split_in(folder: str) -> tuple[str, str]:
    """The split that a folder's name says, or "", and the name with * in its place.

    Other words may stand beside it: trainannot, train_labels, Task1_Training_Input.
    """
    lower = folder.lower()
    if (split := split_name(folder)) in SPLIT_NAMES:
        return split, "*"
    for word in sorted(_SPLITS, key=len, reverse=True):
        for other in (lower.removeprefix(word), lower.removesuffix(word)):
            if other != lower and is_word(other.strip("_- ")):
                return _SPLITS[word], lower.replace(word, "*")
    word = next((part for part in re.split(SEPARATORS, lower) if part in _SPLITS), "")
    return (_SPLITS[word], lower.replace(word, "*")) if word and _has_word(lower) else ("", folder)


def is_word(folder: str) -> bool:
    return folder.lower() in WORDS


def _has_word(folder: str) -> bool:
    return bool(WORDS.intersection(re.split(SEPARATORS, folder.lower())))


def says(group: str, words: frozenset[str]) -> bool:
    """Whether one of a group's folders is of these words; where none is any word, a part of one."""
    folders = _folders(group)
    return not words.isdisjoint(_parts(group) if WORDS.isdisjoint(folders) else folders)


def says_masks(group: str) -> bool:
    """Whether a group holds masks, and not another rendering of them."""
    return says(group, MASK_WORDS) and not says(group, OTHER_WORDS)


def says_images(group: str) -> bool:
    """Whether a group may hold images: neither masks nor another rendering of them."""
    return not says(group, MASK_WORDS) and OTHER_WORDS.isdisjoint(_folders(group))


def choose(groups: Iterable[str], words: frozenset[str]) -> list[str]:
    """The groups that say one of these words; those with a folder of this very name, if any has."""
    groups = [g for g in groups if says(g, words)]
    return [g for g in groups if not words.isdisjoint(_folders(g))] or groups


def _folders(group: str) -> list[str]:
    return [part.replace("*", "").strip("_- ") for part in group.lower().split("/")]


def _parts(group: str) -> list[str]:
    return re.split(SEPARATORS, "_".join(_folders(group)))
