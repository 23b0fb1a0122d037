"""Folders of images and labels: what is in them is found by looking, and told."""

import hashlib
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from deeplab_jax.config import Color, DataConfig
from deeplab_jax.data.annotations import coco, cvat, kaggle, labelme, yolo
from deeplab_jax.data.annotations.foreign import name_foreign
from deeplab_jax.data.annotations.shapes import VOID, Drawing
from deeplab_jax.data.codes import Reading, decide, find_mixture
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import cityscapes
from deeplab_jax.data.decode import Unreadable, read_file
from deeplab_jax.data.layouts import TEST, TRAIN, VAL, ClassTable, Item, Layout, split_name
from deeplab_jax.data.lists import divide_layout
from deeplab_jax.data.masks import list_some, read_mask
from deeplab_jax.data.pairs import find_pairs, make_layout
from deeplab_jax.data.source import READERS, Record, Source, digest
from deeplab_jax.data.tables import find_table, read_table
from deeplab_jax.data.tally import Tally, add_up, tally
from deeplab_jax.data.walk import SUFFIXES, Walk, is_hidden, list_folders, walk_images
from deeplab_jax.errors import UserError
from deeplab_jax.files import with_retries

FOLDER = DataConfig(source="folder")
FEW = 4  # names shown
MASKS_LOOKED_AT = 256  # where a list of classes says what the masks' values are
ANNOTATIONS = {m.__name__.rpartition(".")[2]: m.read for m in (coco, labelme, yolo, cvat, kaggle)}

TEXTS = (".txt", ".csv", ".json", ".xml", ".yaml", ".yml", ".md")  # beside images

Found = tuple[Layout, str]  # and the flag that chooses it
T = TypeVar("T")


@dataclass(frozen=True)
class Folder:
    """The items of a split, found by `open_folder`."""

    items: tuple[Item, ...]
    void: int = VOID

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Record:
        return Record(*self.items[index])

    def describe(self) -> str:
        """How many pairs, and a digest of ids, image sizes in bytes and labels.

        Nothing of where and when: the data may be copied while a run is interrupted. What masks
        mean stands in the configuration (data.label_map).
        """
        contents = digest([self.void, *_read_each(_content, self.items)])
        return f"{len(self)} pairs (contents {contents})"


def _content(item: Item) -> tuple[str, int, bytes]:
    """What tells an item from another of its name: the image's bytes counted, the label's read."""
    id, image, label = item
    try:
        size = len(image) if isinstance(image, bytes) else with_retries(image.stat).st_size
        data = read_file(label) if isinstance(label, Path) else pickle.dumps(label)
        return id, size, hashlib.blake2b(data, digest_size=16).digest()
    except (Unreadable, OSError):
        return id, -1, b"unreadable"


def _read_each(read: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, items))


class Understood(NamedTuple):
    """What a folder holds: items by split, classes, and how masks are read (None: no masks).

    `doubt`: what is wrong with some of the masks, "" if nothing is.
    """

    layout: Layout
    splits: dict[str, tuple[Item, ...]]
    names: tuple[str, ...]
    colors: tuple[Color, ...]
    reading: Reading | None
    told: tuple[str, ...]
    doubt: str = ""


def open_folder(
    root: str | Path, split: str, *, data: DataConfig = FOLDER, num_classes: int | None = None
) -> Source:
    """Open a split of a folder, whatever its layout; what was understood is said on stderr.

    Raises:
      UserError: nothing is understood, or more than one thing; or there is no such split.
    """
    found = understand(Path(root), data, num_classes)
    for line in found.told:
        _say_once(line)
    split = split_name(split)
    if split not in found.splits:
        there = list_some(found.splits)
        raise UserError(
            f"{root} has no split {split!r}; there are {there} (--data.train_split,"
            " --data.eval_split)"
        )
    code = None if found.reading is None else found.reading.code
    return Source(
        Folder(found.splits[split], VOID if data.ignore_label is None else data.ignore_label),
        found.names,
        found.colors,
        code=code,
        doubt=found.doubt,
        # Labelling tools show images upright.
        exif_upright=data.exif_upright or found.layout.name in ANNOTATIONS,
    )


@cache
def _say_once(text: str) -> None:
    # Both splits are of the same folder.
    print(text, file=sys.stderr)


# ---- understanding


def understand(root: Path, data: DataConfig, num_classes: int | None = None) -> Understood:
    """Find the layout, the classes and the meaning of masks; hold images out where need be.

    Raises:
      UserError: nothing is understood, or more than one thing.
    """
    folder = root.expanduser()
    layout = find_layout(folder, data)
    there = split_name(data.eval_split) in layout.splits
    splits, held = hold_out(layout.splits, 0.0 if there else data.holdout)
    told = (f"{root}: {layout.told}", *layout.notes, *held)
    items = [item for split in layout.splits.values() for item in split]
    masks = tuple(sorted({i.label for i in items if isinstance(i.label, Path)}))
    table = _table(folder, layout, data)
    if not masks or layout.name in ANNOTATIONS:
        if table is None:
            raise UserError(f"{root}: no list of classes: write one class name a line, classes.txt")
        colors = table.colors or voc_colormap(len(table.names))
        return Understood(layout, splits, table.names, colors, None, told)
    every = table is None and not data.label_map
    chosen = masks if every else _spread(masks, MASKS_LOOKED_AT)
    found = _tally_all(tuple((path, _state(path)) for path in chosen))
    reading, doubt = _decide(found, table, data, num_classes)
    told = (*told, *reading.told, *_warn_of_one_value(found))
    return Understood(layout, splits, reading.names, reading.colors, reading, told, doubt)


def _decide(
    found: Sequence[tuple[Path, Tally]],
    table: ClassTable | None,
    data: DataConfig,
    num_classes: int | None,
) -> tuple[Reading, str]:
    """The reading of masks, or of most: then also what is wrong with the others.

    Raises:
      UserError: there is none; it names a mask.
    """

    def read(tallies: Iterable[Tally]) -> Reading:
        return decide(add_up(tallies), table, data, num_classes)

    try:
        reading = read(one for _, one in found)
        return reading, "" if data.label_map else find_mixture(found, reading)
    except UserError as error:
        odd = [path for path, one in found if not _fits(read, one)]
        usual = [one for path, one in found if path not in odd]
        such = f"\nSuch are {len(odd)} of {len(found)} masks: {list_some(odd, FEW)}"
        if not odd or len(odd) > len(usual):
            raise UserError(f"{error}{such if odd else ''}") from error
        return read(usual), f"{error}{such}"


def _fits(read: Callable[[Iterable[Tally]], Reading], one: Tally) -> bool:
    try:
        read([one])
    except UserError:
        return False
    return True


def _warn_of_one_value(found: Sequence[tuple[Path, Tally]]) -> list[str]:
    if len({value for _, one in found for value in one.colors or one.values}) > 1:
        return []
    where = found[0][0].parent
    return [
        f"warning: the masks in {where} are all of one value, of which nothing is learnt: if they"
        " are not those that you mean, set --data.mask_dir"
    ]


def _table(folder: Path, layout: Layout, data: DataConfig) -> ClassTable | None:
    if data.classes:
        return read_table(Path(data.classes).expanduser())
    if layout.table is not None:
        return layout.table
    items = [item for split in layout.splits.values() for item in split]
    paths = [p for item in items for p in (item.image, item.label) if isinstance(p, Path)]
    inside = (folder / name for name in list_folders(folder))
    return find_table(dict.fromkeys([folder, *inside, *_between(folder, paths)]))


def _spread(paths: Sequence[Path], count: int) -> tuple[Path, ...]:
    where = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))
    return tuple(paths[i] for i in where)


def _state(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


@lru_cache(maxsize=8)  # the masks of all splits are counted once, not once for each split
def _tally_all(states: tuple[tuple[Path, int], ...]) -> list[tuple[Path, Tally]]:
    """The tallies of masks, without those that cannot be read; UserError where none can."""

    def count(path: Path) -> Tally | UserError:
        try:
            return tally(read_mask(read_file(path), str(path)))
        except UserError as error:
            return error

    paths = [path for path, _ in states]
    found = _read_each(count, paths)
    sound = [(p, one) for p, one in zip(paths, found, strict=True) if isinstance(one, Tally)]
    if not sound:
        raise next(one for one in found if isinstance(one, UserError))
    return sound


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
        named = data.image_dir or data.mask_dir
        kinds = (name, "ultralytics") if name == "yolo" else (name,)
        wanted = data.layout in kinds or (data.layout == "auto" and not named)
        if wanted and (layout := read(folder)) is not None and data.layout in ("auto", layout.name):
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
        _say_once(f"{folder}: {others.describe()}")
    for path in walk.images:
        shown = str(path).encode(errors="backslashreplace").decode()
        if shown != str(path):
            raise UserError(f"{shown}: the name is not in UTF-8 (an old archive?); rename it")
    named = [name if name != "." else "" for name in (data.image_dir, data.mask_dir)]
    found = (find_pairs(walk.images, one, *named) for one in _only_folders(folder))
    every = next(filter(None, found), [])
    dirs = [("image_dir", [p.image_dir for p in every]), ("mask_dir", [p.mask_dir for p in every])]
    for i, pairs in enumerate(every):
        bases = _between(folder, pairs.images.values())
        cvat_list = any((base / "labelmap.txt").is_file() for base in bases)
        layout = make_layout(pairs, bases, empty_is_background=cvat_list)
        flags = (f"--data.{name}={where[i]}" for name, where in dirs if len({*where}) > 1)
        yield layout, " ".join(flags) or "--data.layout=pairs"


def _between(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """The folders from one down to those of some of the paths below it."""
    some = _spread(sorted(paths), 8)
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


# ---- splits


def hold_out(
    splits: Mapping[str, tuple[Item, ...]], share: float
) -> tuple[dict[str, tuple[Item, ...]], tuple[str, ...]]:
    """Splits with one for evaluation, and what to tell: held out of training where there is none.

    `share` of the images, rounded, are held out, by a digest of their names: the same ones
    whenever and wherever. Roboflow's copies of an image stay together.
    """
    found = dict(splits)
    if len(found) == 1 and not found.keys() & {VAL, TEST}:  # "", or CVAT's "default"
        found = {TRAIN: next(iter(splits.values()))}
    if VAL in found or TRAIN not in found:
        return found, ()
    if TEST in found:
        return found | {VAL: found[TEST]}, (f"evaluates on {TEST}: there is no {VAL}",)
    items = found[TRAIN]
    sizes = Counter(_source(item) for item in items)
    held: set[str] = set()
    for source in sorted(sizes, key=lambda name: hashlib.blake2b(name.encode()).digest()):
        if sum(sizes[name] for name in held) < max(1, round(share * len(items))):
            held.add(source)
    if share == 0 or len(held) == len(sizes):
        return found, ()
    for split, inside in ((TRAIN, False), (VAL, True)):
        found[split] = tuple(item for item in items if (_source(item) in held) == inside)
    count = f"{len(found[VAL])} of {len(items)} images"
    return found, (f"no split for evaluation: {count} are held out for it (--data.holdout)",)


def _source(item: Item) -> str:
    return item.id.partition(".rf.")[0]
