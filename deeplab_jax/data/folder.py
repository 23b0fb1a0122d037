"""Folders of images and masks: which files are pairs, and what their classes are."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from deeplab_jax.config import DataConfig, TaskConfig
from deeplab_jax.data.classes import read_classes
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.decode import Unreadable, decode_label, read_file
from deeplab_jax.data.layout import near_misses, other_layout
from deeplab_jax.data.masks import list_some
from deeplab_jax.data.source import READERS, Record, Source, digest
from deeplab_jax.data.walk import SUFFIXES, list_folders, walk_images
from deeplab_jax.errors import UserError
from deeplab_jax.files import with_retries

FOLDER, TASK = DataConfig(source="folder"), TaskConfig()

Pair = tuple[str, str, str]  # id, file of the image, file of the mask
T = TypeVar("T")


@dataclass(frozen=True)
class Folder:
    """Pairs of files, found by `open_folder`."""

    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Record:
        id, image, mask = self.pairs[index]
        return Record(id, Path(image), Path(mask))

    def describe(self, void: int) -> str:
        """How many pairs, and a digest of ids, image sizes in bytes and masks.

        Nothing of where and when: the data may be copied while a run is interrupted.
        """
        contents = digest([void, *_read_each(_content, self.pairs)])
        return f"{len(self)} pairs (contents {contents})"


def _content(pair: Pair) -> tuple[str, int, bytes]:
    """What tells a pair from another of its name: the image's bytes counted, the mask's read."""
    id, image, mask = pair
    try:
        content = hashlib.blake2b(read_file(Path(mask)), digest_size=16).digest()
        return id, with_retries(Path(image).stat).st_size, content
    except (Unreadable, OSError):
        return id, -1, b"unreadable"


def _read_each(read: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, items))


# ---- finding the pairs


def open_folder(
    root: str | Path,
    split: str,
    *,
    data: DataConfig = FOLDER,
    task: TaskConfig = TASK,
    num_classes: int | None = None,
) -> Source:
    """Pair `root/image_dir/split/**` with `root/mask_dir/split/**` by path and name without suffix.

    With `data.holdout` both folders are flat, and about that fraction, decided by each name alone,
    is the split for evaluation, the rest `data.train_split`. Classes come from the file
    `data.classes` (default: root/classes.txt) or, where there is none, have no names: they are
    `num_classes`, or as many as the masks show. What is passed over is said on stderr. Raises
    UserError for what is missing or unpaired; what is in the files, `check_source` checks.
    """
    folder = Path(root).expanduser()
    images, masks = folder / data.image_dir, folder / data.mask_dir
    for path in (folder, images, masks):
        if not path.is_dir():
            other = other_layout(folder, split, data.image_dir, data.mask_dir)
            expected = f"expected are {images / split} and {masks / split}"
            raise UserError(f"{path} is missing: {expected}{other}")
    if images.samefile(masks):
        same = f"data.image_dir = {data.image_dir} and data.mask_dir = {data.mask_dir} are the same"
        raise UserError(f"{same} folder; give the masks a folder of their own")
    pairs = _find_split(images, masks, split, data)
    ignored = task.void
    listed = Path(data.classes).expanduser() if data.classes else folder / "classes.txt"
    if data.classes or listed.is_file():
        names, colors = read_classes(listed)
    else:
        n = num_classes or _count_classes(masks, _list_states(masks), data.palette_masks, ignored)
        names, colors = tuple(f"class {i}" for i in range(n)), voc_colormap(n)
    reading = data.palette_masks, data.exif_upright
    return Source(Folder(pairs), names, colors, ignored, *reading)


def _find_split(images: Path, masks: Path, split: str, data: DataConfig) -> tuple[Pair, ...]:
    splits, holdout = list_folders(images), data.holdout
    if not holdout and split in splits:
        return _find_pairs(images / split, masks / split)
    if holdout and not splits:
        train = split == data.train_split
        found = _find_pairs(images, masks)
        if pairs := tuple(p for p in found if _is_held_out(p[0], holdout) != train):
            return pairs
        raise UserError(f"data.holdout = {holdout} leaves no image of {images} for {split!r}")
    there = f"there are {list_some(splits)} (--data.train_split, --data.eval_split)"
    if not splits:
        there = "set --data.holdout=0.1 to hold out a tenth of a flat folder for evaluation"
    elif holdout:
        there = f"data.holdout = {holdout} is for a flat folder, and there are {list_some(splits)}"
    raise UserError(f"{images} has no split {split!r}; {there}")


def _is_held_out(id: str, holdout: float) -> bool:
    # By the name alone, so that adding images moves none from one side to the other.
    # A checksum would not do: it is far from uniform over names that count up.
    return int(hashlib.blake2b(id.encode(), digest_size=8).hexdigest(), 16) < holdout * 2**64


def _find_pairs(images: Path, masks: Path) -> tuple[Pair, ...]:
    found = {"image": _find_files(images), "mask": _find_files(masks)}
    lone_images = sorted(found["image"].keys() - found["mask"].keys())
    lone_masks = sorted(found["mask"].keys() - found["image"].keys())
    for what, alone, other in (("image", lone_images, "mask"), ("mask", lone_masks, "image")):
        if alone:
            files, where = found[what], images if other == "image" else masks
            few = list_some((files[id] for id in alone), 4) + near_misses(lone_images, lone_masks)
            count = f"{len(alone)} of {len(files)} files"
            raise UserError(f"{count} have no {other} of the same name in {where}: {few}")
    return tuple((id, file, found["mask"][id]) for id, file in sorted(found["image"].items()))


def _find_files(folder: Path) -> dict[str, str]:
    """The images of a folder by their ids: their paths in it, without suffixes."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing")
    files: dict[str, str] = {}
    walk = walk_images(folder)
    if walk.passed_over:
        _say_once(f"{folder}: {walk.describe()}")
    for path in walk.images:
        id = path.relative_to(folder).with_suffix("").as_posix()
        shown = str(path).encode(errors="backslashreplace").decode()
        if shown != str(path):
            raise UserError(f"{shown}: the name is not in UTF-8 (an old archive?); rename it")
        if id in files:
            raise UserError(f"{files[id]} and {path} have the same name but for the suffix")
        files[id] = str(path)
    if not files:
        raise UserError(f"{folder} has no images (files ending in {', '.join(sorted(SUFFIXES))})")
    return files


@cache
def _say_once(text: str) -> None:
    # Both sides of a holdout walk through the same folder.
    print(text, file=sys.stderr)


def _list_states(masks: Path) -> tuple[tuple[Path, int], ...]:
    return tuple((path, path.lstat().st_mtime_ns) for path in walk_images(masks).images)


@lru_cache(maxsize=8)  # the masks of all splits are read once, not once for each split
def _count_classes(
    masks: Path, states: tuple[tuple[Path, int], ...], palette: bool, ignore_label: int
) -> int:
    """The highest id in the masks of all splits but the ignored one, plus one; at least 2.

    Raises:
      UserError: the values have large gaps, as gray levels do; or no mask can be read: the first.
    """

    def find_values(state: tuple[Path, int]) -> set[int] | UserError:
        try:
            ids = decode_label(read_file(state[0]), str(state[0]), palette=palette)
        except UserError as error:
            return error
        return {*np.unique(ids).tolist()} - {ignore_label}

    found = _read_each(find_values, states)
    values = {value for ids in found if isinstance(ids, set) for value in ids}
    if not any(isinstance(ids, set) for ids in found):
        raise next(error for error in found if isinstance(error, UserError))
    n = max(values | {1}) + 1
    if n > 2 * max(len(values), 2):
        few = f"the masks hold {list_some(sorted(values))}, and there is no classes.txt"
        raise UserError(f"{masks}: {few}: write one class name a line, or set --model.num_classes")
    named = f"named 'class 0' to 'class {n - 1}', because there is no classes.txt"
    print(f"{masks}: the masks hold {n} classes, {named}", file=sys.stderr)
    return n
