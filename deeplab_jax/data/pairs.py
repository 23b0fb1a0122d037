"""Which images and masks below a folder belong together, by the words in their paths.

With these and a constant prefix or suffix taken away, a path says to which other it belongs.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product, takewhile
from pathlib import Path
from typing import NamedTuple

from deeplab_jax.data.layouts import SPLIT_NAMES, TRAIN, Item, Layout, split_name
from deeplab_jax.data.lists import divide, read_lists
from deeplab_jax.data.masks import list_some
from deeplab_jax.data.places import (
    IMAGE_WORDS,
    MASK_WORDS,
    SEPARATORS,
    Place,
    choose,
    is_word,
    place,
    says_images,
    says_masks,
    split_in,
)
from deeplab_jax.errors import UserError

ANNOT = "annot"  # CVAT's and SegNet's folder of masks is that of images and this
MASK_ENDS = MASK_WORDS | {"seg", "lbl", "l", "p", "manual"}  # of names, beside those of folders
LOOKED_AT = 50  # masks, to find how they are named
FEW = 4  # names shown of files that have no partner


Key = tuple[str, str]  # split, and path without suffix


class Pairs(NamedTuple):
    """Images and masks of one reading, and the settings that choose it, of folders with SPLIT."""

    images: dict[Key, Path]
    masks: dict[Key, Path]
    told: str
    image_dir: str
    mask_dir: str


# ---- pairing


def find_pairs(files: Sequence[Path], root: Path, image_dir: str, mask_dir: str) -> list[Pairs]:
    """Every way to pair these images; several, where more than one folder may be the masks.

    `image_dir` and `mask_dir`, where they are not "", name the folders.
    """
    image_dir, mask_dir = (_pattern(folder, root) for folder in (image_dir, mask_dir))
    groups: dict[str, list[Place]] = defaultdict(list)
    for file in files:
        where = _named(file, root, image_dir, mask_dir) or place(file, root)
        groups[where.group].append(where)
    groups = _join(groups)
    masks = choose(filter(says_masks, groups), MASK_WORDS)
    images = [*filter(says_images, groups)]
    images = choose(images, IMAGE_WORDS) or images
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
            found = _pair_unnamed(groups, *images)
    return found


def _pair_unnamed(groups: Mapping[str, list[Place]], a: str, b: str) -> list[Pairs]:
    """Pairs of two folders whose names say little: images are JPEG, or either may be the masks."""
    jpegs = _are_jpeg(groups[a]) - _are_jpeg(groups[b]) or b.endswith(ANNOT) - a.endswith(ANNOT)
    orders = [(a, b)] * (jpegs >= 0) + [(b, a)] * (jpegs <= 0)
    return [p for i, m in orders for p in [_pair(groups[i], groups[m], i, m)] if p]


def _pattern(folder: str, root: Path) -> str:
    """A folder that a user names, below `root`, with * for splits: SPLIT/labels, ./masks/."""
    path = Path(folder).expanduser()
    path = path.relative_to(root) if path.is_absolute() and path.is_relative_to(root) else path
    return "" if str(path) == "." else path.as_posix().strip("/").replace("SPLIT", "*")


def _named(file: Path, root: Path, image_dir: str, mask_dir: str) -> Place | None:
    """The place of a file in a folder that the user has named; splits are folders in it."""
    parts = file.relative_to(root).parts
    for folder in filter(None, (mask_dir, image_dir)):
        n, split = len(folder.split("/")), ""
        if len(parts) <= n:
            continue
        for name, wanted in zip(parts, folder.split("/"), strict=False):
            found, pattern = split_in(name)
            split = split or found
            if wanted not in (name, pattern):
                break
        else:
            inner = split_name(parts[n]) if len(parts) > n + 1 else ""
            below = not split and inner in SPLIT_NAMES
            rest = "/".join(parts[n + below :]).rpartition(".")[0]
            return Place(folder, inner if below else split, rest, file)
    return None


def _join(groups: Mapping[str, list[Place]]) -> dict[str, list[Place]]:
    """Folders of images, and of masks, in each of several others (Urban/images) as one group."""
    above: dict[str, dict[str, str]] = defaultdict(dict)  # by words, the folders between them
    for group in groups:
        parts = group.split("/")
        said = [part for part in parts if "*" in part or is_word(part)]
        above["/".join(said)]["/".join(part for part in parts if part not in said)] = group
    joined = dict(groups)
    for words, inner in above.items():
        others = (other for key, other in above.items() if key != words)
        if not any(len(inner.keys() & other.keys()) > 1 for other in others):
            continue
        places = [
            p._replace(group=words, rest=f"{between}/{p.rest}".lstrip("/"))
            for between, group in inner.items()
            for p in joined.pop(group)
        ]
        joined[words] = places
    return joined


def _is_jpeg(place: Place) -> bool:
    return place.path.suffix.lower() in (".jpg", ".jpeg")


def _are_jpeg(places: Iterable[Place]) -> int:
    return sum(map(_is_jpeg, places))


def _pair(images: list[Place], masks: list[Place], i: str, m: str) -> Pairs | None:
    """Pair two groups whose names are the same, or but for a constant prefix and suffix."""
    ours, theirs = _by_key(images), _by_key(masks)
    if not ours.keys() & theirs.keys():  # there may be a folder more: annotations/trimaps
        ours, theirs = _by_key(_without_folder(images)), _by_key(_without_folder(masks))
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
    return Pairs(ours, theirs, told, i.replace("*", "SPLIT"), m.replace("*", "SPLIT"))


def _without_folder(places: list[Place]) -> list[Place]:
    """Places without the first folders of their `rest` that all of them have."""
    while len(first := {p.rest.partition("/")[0] for p in places if "/" in p.rest}) == 1:
        if not all("/" in p.rest for p in places):
            break
        places = [p._replace(rest=p.rest.removeprefix(f"{min(first)}/")) for p in places]
    return places


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
    jpegs = [p for p in places if _is_jpeg(p)]
    others = [p for p in places if not _is_jpeg(p)]
    if jpegs and {(p.split, p.rest) for p in jpegs} & {(p.split, p.rest) for p in others}:
        return Pairs(
            _by_key(jpegs), _by_key(others), f"{there}: JPEG and other files", group, group
        )
    names = {(p.split, p.rest) for p in places}
    ends: Counter[tuple[str, str]] = Counter()
    for split, rest in names:
        folder, slash, name = rest.rpartition("/")
        for cut in re.finditer(SEPARATORS, name):
            before, after = name[: cut.start()], name[cut.end() :]
            if (split, folder + slash + before) in names:
                ends["", name[cut.start() :]] += 1
            if (split, folder + slash + after) in names:
                ends[name[: cut.end()], ""] += 1
    if not ends:
        return _pair_by_ends(places, group)
    end, _ = ends.most_common(1)[0]
    masks = [p for p in places if _strip(p.rest, end) != p.rest]
    images = [p for p in places if _strip(p.rest, end) == p.rest]
    stripped = [p._replace(rest=_strip(p.rest, end)) for p in masks]
    told = f"{there}, masks named {end[0]}NAME{end[1]}"
    return Pairs(_by_key(images), _by_key(stripped), told, group, group)


def _pair_by_ends(places: list[Place], group: str) -> Pairs | None:
    """Pairs within one folder where both have ends: NAME_sat.jpg, NAME_mask.png."""
    named: dict[tuple[str, str], dict[Key, Place]] = defaultdict(dict)
    for p in places:
        name = _name(p.rest)
        for cut in re.finditer(SEPARATORS, name):
            for end in (("", name[cut.start() :]), (name[: cut.end()], "")):
                named[end][p.split, _strip(p.rest, end)] = p
    ends = sorted(named, key=lambda end: len(named[end]), reverse=True)[:LOOKED_AT]
    of_masks = [
        e for e in ends if not MASK_ENDS.isdisjoint(re.split(SEPARATORS, "".join(e).lower()))
    ]
    for mask, image in product(of_masks, ends):
        count = len(named[mask].keys() & named[image].keys())
        if image not in of_masks and 4 * count > len(places):
            images = {key: p.path for key, p in named[image].items()}
            masks = {key: p.path for key, p in named[mask].items()}
            names = f"named {'NAME'.join(image)} and {'NAME'.join(mask)}"
            told = f"images and masks in {_show(group)}, {names}"
            return Pairs(images, masks, told, group, group)
    return None


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
        divided = divide([rest for _, rest in sorted(images)], lists)
        splits = defaultdict(list, {s: [("", id) for id in ids] for s, ids in divided.items()})
        if TRAIN in splits and TRAIN not in lists:  # all others: without those that have no mask
            splits[TRAIN] = [key for key in splits[TRAIN] if empty_is_background or key in masks]
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
