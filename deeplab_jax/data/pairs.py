"""Which images and masks below a folder belong together, by the words in their paths.

A path says what a file is (`masks`, `SegmentationClass`, `trainannot`), of which split (`train`),
and, with these words and a constant prefix or suffix taken away, to which other it belongs.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product, takewhile
from pathlib import Path
from typing import NamedTuple

from deeplab_jax.data.layouts import SPLIT_NAMES, Item, Layout, split_name
from deeplab_jax.data.masks import list_some
from deeplab_jax.errors import UserError
from deeplab_jax.files import read_user_text

# Words of folders, in lower case.
MASK_WORDS = frozenset((
    "mask", "masks", "label", "labels", "annotation", "annotations", "ann", "anns", "ann_dir",
    "annot", "gt", "groundtruth", "ground_truth", "segmentationclass", "segmentationclassaug",
    "segmentationclasspng", "segmentation", "segmentations", "semantic", "target", "targets",
    "truth", "masks_machine", "masks_png", "labelsapproved_full", "labeledapproved_full",
    "labelids", "segmentationclasscontext",
))  # fmt: skip
# Of folders with other renderings of masks, or with single objects.
OTHER_WORDS = frozenset((
    "segmentationobject", "segmentationobjectpng", "segmentationclassvisualization",
    "visualization", "visualizations", "segmentationobjectvisualization", "semantic_rgb",
    "instance", "instances", "masks_human", "overlay", "overlays", "color", "colors", "preview",
    "previews", "instance_masks", "segmentationclassnpy",
))  # fmt: skip
IMAGE_WORDS = frozenset((
    "image", "images", "img", "imgs", "img_dir", "jpegimages", "image_2", "photo", "photos",
    "rgb", "input", "inputs", "picture", "pictures", "images_png", "data", "x", "frames",
    "701_stillsraw_full",
))  # fmt: skip
LISTS = ("", "ImageSets/Segmentation", "ImageSets/SegmentationContext", "splits", "lists")
NO_LISTS = ("classes", "labelmap", "label_colors", "labels", "class_names", "codes", "readme")
LOOKED_AT = 50  # masks, to find how they are named
FEW = 4  # names shown of files that have no partner
_SPLITS = {word: ours for ours, words in SPLIT_NAMES.items() for word in words}


Key = tuple[str, str]  # split, and path without suffix
Lists = dict[str, tuple[Path, list[str]]]  # by split


class Place(NamedTuple):
    """A file by its path's words: its `group`, a folder with splits written *, and split.

    `rest` is what remains: the folders below the group, and the name without suffix.
    """

    group: str
    split: str
    rest: str
    path: Path


class Pairs(NamedTuple):
    """Images and masks of one reading; `mask_dir`: the setting that chooses it."""

    images: dict[Key, Path]
    masks: dict[Key, Path]
    told: str
    mask_dir: str


def place(path: Path, root: Path) -> Place:
    """What a file's path says; `root` is the folder of data."""
    *folders, name = path.relative_to(root).parts
    split, group, after = "", [], 0
    for i, folder in enumerate(folders):
        found, pattern = _split_in(folder)
        if found and not split:
            split = found
        if found or _is_word(folder):
            after = i + 1
        group.append(pattern)
    if after == 0 and folders:
        after = 1
    rest = "/".join([*folders[after:], name.rpartition(".")[0]])
    return Place("/".join(group[:after]), split, rest, path)


def _split_in(folder: str) -> tuple[str, str]:
    """The split that a folder's name says, or "", and the name with * in its place.

    Other words may stand beside it: trainannot, train_labels, images_val.
    """
    lower = folder.lower()
    if lower in _SPLITS:
        return split_name(folder), "*"
    for word in sorted(_SPLITS, key=len, reverse=True):
        for other in (lower.removeprefix(word), lower.removesuffix(word)):
            if other != lower and _is_word(other.strip("_- ")):
                return _SPLITS[word], lower.replace(word, "*")
    return "", folder


def _is_word(folder: str) -> bool:
    return folder.lower() in MASK_WORDS | OTHER_WORDS | IMAGE_WORDS


def _says(group: str, words: frozenset[str]) -> bool:
    parts = group.lower().split("/")
    return any(part.replace("*", "").strip("_- ") in words for part in parts)


# ---- pairing


def find_pairs(files: Sequence[Path], root: Path, image_dir: str, mask_dir: str) -> list[Pairs]:
    """Every way to pair these images; several, where more than one folder may be the masks.

    `image_dir` and `mask_dir`, where they are not "", name the folders.
    """
    groups: dict[str, list[Place]] = defaultdict(list)
    for file in files:
        where = _named(file, root, image_dir, mask_dir) or place(file, root)
        groups[where.group].append(where)
    masks = [g for g in groups if _says(g, MASK_WORDS) and not _says(g, OTHER_WORDS)]
    images = [g for g in groups if g not in masks and not _says(g, OTHER_WORDS)]
    images = [g for g in images if _says(g, IMAGE_WORDS)] or images
    if image_dir or mask_dir:
        images = [image_dir] if image_dir else [g for g in images if g != mask_dir]
        masks = [mask_dir] if mask_dir else [g for g in masks if g != image_dir]
    found = [
        pairs
        for i in images
        for m in masks
        if i in groups and m in groups and (pairs := _pair(groups[i], groups[m], i, m))
    ]
    if not found and not masks:
        found = [p for g in images for p in [_pair_in_one(groups[g], g)] if p]
        if not found and len(images) == 2:
            a, b = sorted(images, key=lambda g: _are_jpeg(groups[g]), reverse=True)
            found = [p for p in [_pair(groups[a], groups[b], a, b)] if p]
    return found


def _named(file: Path, root: Path, image_dir: str, mask_dir: str) -> Place | None:
    """The place of a file in a folder that the user has named; splits are folders in it."""
    for folder in (mask_dir, image_dir):
        if folder and file.is_relative_to(root / folder):
            *inner, _ = parts = file.relative_to(root / folder).parts
            split = split_name(inner[0]) if inner and split_name(inner[0]) in SPLIT_NAMES else ""
            rest = "/".join(parts[1 if split else 0 :]).rpartition(".")[0]
            return Place(folder, split, rest, file)
    return None


def _are_jpeg(places: Iterable[Place]) -> int:
    return sum(p.path.suffix.lower() in (".jpg", ".jpeg") for p in places)


def _pair(images: list[Place], masks: list[Place], i: str, m: str) -> Pairs | None:
    """Pair two groups whose names are the same, or but for a constant prefix and suffix."""
    ours, theirs = _by_key(images), _by_key(masks)
    told = f"images in {_show(i)}, masks in {_show(m)}"
    if not ours.keys() & theirs.keys():
        rests = [k[1] for k in ours], [k[1] for k in theirs]
        if ends := _find_ends(*rests):
            theirs = {(s, _strip(rest, ends)): path for (s, rest), path in theirs.items()}
            told += f", named {ends[0]}NAME{ends[1]}"
        elif rename := _rename(*rests):
            theirs = {(s, rename(rest)): path for (s, rest), path in theirs.items()}
        if not ours.keys() & theirs.keys():
            return None
    return Pairs(ours, theirs, told, m)


def _by_key(places: Iterable[Place]) -> dict[Key, Path]:
    found: dict[Key, Path] = {}
    for p in places:
        if (key := (p.split, p.rest)) in found:
            raise UserError(f"{found[key]} and {p.path} have the same name but for the suffix")
        found[key] = p.path
    return found


def _pair_in_one(places: list[Place], group: str) -> Pairs | None:
    """Pairs within one folder: NAME.jpg with NAME_mask.png, or with NAME.png."""
    there = f"images and masks in {_show(group)}"
    jpegs = [p for p in places if p.path.suffix.lower() in (".jpg", ".jpeg")]
    others = [p for p in places if p not in jpegs]
    if jpegs and {(p.split, p.rest) for p in jpegs} & {(p.split, p.rest) for p in others}:
        return Pairs(_by_key(jpegs), _by_key(others), f"{there}: JPEG and other files", group)
    names = {(p.split, p.rest) for p in places}
    ends: Counter[tuple[str, str]] = Counter()
    for split, rest in names:
        folder, slash, name = rest.rpartition("/")
        for cut in re.finditer(r"[_\-. ]+", name):
            before, after = name[: cut.start()], name[cut.end() :]
            if (split, folder + slash + before) in names:
                ends["", name[cut.start() :]] += 1
            if (split, folder + slash + after) in names:
                ends[name[: cut.end()], ""] += 1
    if not ends:
        return None
    end, _ = ends.most_common(1)[0]
    masks = [p for p in places if _strip(p.rest, end) != p.rest]
    images = [p for p in places if p not in masks]
    stripped = [p._replace(rest=_strip(p.rest, end)) for p in masks]
    told = f"{there}, masks named {end[0]}NAME{end[1]}"
    return Pairs(_by_key(images), _by_key(stripped), told, group)


def _show(group: str) -> str:
    """A group as people write it: images/SPLIT."""
    return group.replace("*", "SPLIT") or "one folder"


def _strip(rest: str, ends: tuple[str, str]) -> str:
    """A path's last name without a prefix and suffix, if it has both; else as it is."""
    folder, slash, name = rest.rpartition("/")
    if name.startswith(ends[0]) and name.endswith(ends[1]) and len(name) > sum(map(len, ends)):
        name = name[len(ends[0]) : len(name) - len(ends[1])]
    return folder + slash + name


def _find_ends(images: Sequence[str], masks: Sequence[str]) -> tuple[str, str] | None:
    """The prefix and suffix that most masks' names have around an image's; None: they have none."""
    there, some = {_name(rest) for rest in images}, masks[:LOOKED_AT]
    ends: Counter[tuple[str, str]] = Counter()
    for name in map(_name, some):
        for n in range(len(name), 0, -1):
            cuts = [(i, i + n) for i in range(len(name) - n + 1) if name[i : i + n] in there]
            ends.update((name[:i], name[j:]) for i, j in cuts)
            if cuts:
                break
    end, count = (ends.most_common(1) or [(("", ""), 0)])[0]
    return end if 2 * count > len(some) else None


def _rename(images: Sequence[str], masks: Sequence[str]) -> Callable[[str], str] | None:
    """From masks' names to images', where both have ends of their own: a_gt becomes a_rgb."""
    (before, after), old = _common_ends(images), _common_ends(masks)
    renamed = [before + _strip(_name(rest), old) + after for rest in masks]
    if len(images) < 2 or 2 * len({*renamed} & {*map(_name, images)}) <= len(images):
        return None

    def rename(rest: str) -> str:
        folder, slash, _ = rest.rpartition("/")
        return folder + slash + before + _strip(_name(rest), old) + after

    return rename


def _name(rest: str) -> str:
    return rest.rpartition("/")[2]


def _common_ends(rests: Sequence[str]) -> tuple[str, str]:
    """The letters that all names begin with, and those that all end with."""
    names = [_name(rest) for rest in rests]
    before = _start(names)
    return before, _start([name[len(before) :][::-1] for name in names])[::-1]


def _start(names: Sequence[str]) -> str:
    columns = takewhile(lambda letters: len({*letters}) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in columns)


# ---- splits


def make_layout(pairs: Pairs, bases: Iterable[Path], *, empty_is_background: bool) -> Layout:
    """The layout of pairs; without folders of splits, of the lists in one of `bases`, if any.

    `empty_is_background`: an image without mask shows only background, as CVAT means it.

    Raises:
      UserError: an image has no mask, or a mask no image.
    """
    images, masks, told = pairs.images, pairs.masks, pairs.told
    splits: dict[str, list[Key]] = defaultdict(list)
    for key in sorted(images):
        splits[key[0]].append(key)
    lists = read_lists(bases) if splits.keys() == {""} else {}
    if lists:
        splits = _by_lists(images, lists)
        told += f"; splits by {list_some(file for file, _ in lists.values())}"
    masked = {split for split, keys in splits.items() if any(key in masks for key in keys)}
    notes = tuple(
        f"the images of {split} have no masks: passed over"
        for split in sorted(splits.keys() - masked)
    )
    items = {
        split: tuple(Item(key[1], images[key], masks.get(key)) for key in splits[split])
        for split in masked
    }
    lone = [i.image for split in items.values() for i in split if i.label is None]
    left = [] if lists else [path for key, path in sorted(masks.items()) if key not in images]
    _refuse_lone([] if empty_is_background else lone, left, len(images))
    return Layout("pairs", told, items, notes=notes)


def _refuse_lone(images: Sequence[object], masks: Sequence[object], count: int) -> None:
    for what, alone, other in (("images", images, "mask"), ("masks", masks, "image")):
        if alone:
            raise UserError(
                f"{len(alone)} {what} have no {other} of the same name (there are {count} images):"
                f" {list_some(alone, FEW)}"
            )


def read_lists(bases: Iterable[Path]) -> Lists:
    """Lists of images by split, as train.txt and ImageSets/Segmentation/val.txt: file and lines."""
    for base, folder in product(bases, LISTS):
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


def _by_lists(images: Mapping[Key, Path], lists: Lists) -> dict[str, list[Key]]:
    """The images that each list names: by as much of the path's end as there is."""
    known: dict[str, list[Key]] = defaultdict(list)
    for key in images:
        parts = key[1].split("/")
        for i in range(len(parts)):
            known["/".join(parts[i:])].append(key)
    for file, lines in lists.values():
        if doubled := [line for line, n in Counter(lines).items() if n > 1]:
            raise UserError(f"{file} lists {doubled[0]} more than once")
    return {
        split: [_find_listed(line, known, file) for line in lines]
        for split, (file, lines) in lists.items()
        if lines
    }


def _find_listed(line: str, known: Mapping[str, list[Key]], file: Path) -> Key:
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
