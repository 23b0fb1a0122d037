"""Folders of images and labels: what is in them is found by looking, and told."""

import hashlib
import pickle
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from deeplab_jax.config import Color, DataConfig
from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.codes import Reading
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.decode import Unreadable, read_file
from deeplab_jax.data.layouts import TEST, TRAIN, VAL, ClassTable, Item, Layout, Tile, split_name
from deeplab_jax.data.look import ANNOTATIONS, between, find_layout, say_once
from deeplab_jax.data.masks import list_some
from deeplab_jax.data.meaning import FEW, find_meaning
from deeplab_jax.data.source import Record, Source, digest
from deeplab_jax.data.tables import find_table, read_table
from deeplab_jax.data.tiles import READERS, TILE, cut_large
from deeplab_jax.data.walk import list_folders, state_of
from deeplab_jax.errors import UserError
from deeplab_jax.files import with_retries

FOLDER = DataConfig(source="folder")


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
        with ThreadPoolExecutor(READERS) as pool:
            contents = digest([self.void, *pool.map(_content, self.items)])
        return f"{len(self)} pairs (contents {contents})"


def _content(item: Item) -> tuple[str, int, bytes]:
    """What tells an item from another of its name: the image's bytes counted, the label's read."""
    id, image, label = item
    try:
        file = image.file if isinstance(image, Tile) else image
        size = len(file) if isinstance(file, bytes) else with_retries(file.stat).st_size
        if isinstance(label, Tile):  # of which each tells only how large its whole file is
            label = label._replace(file=Path(str(with_retries(label.file.stat).st_size)))
        data = read_file(label) if isinstance(label, Path) else pickle.dumps(label)
        return id, size, hashlib.blake2b(data, digest_size=16).digest()
    except (Unreadable, OSError):
        return id, -1, b"unreadable"


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
    root: str | Path,
    split: str,
    *,
    data: DataConfig = FOLDER,
    num_classes: int | None = None,
    table: ClassTable | None = None,
) -> Source:
    """Open a split of a folder, whatever its layout; what was understood is said on stderr.

    `table`: the classes, where they are known already.

    Raises:
      UserError: nothing is understood, or more than one thing; or there is no such split.
    """
    found = understand(Path(root), data, num_classes, table)
    for line in found.told:
        say_once(line)
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


# ---- understanding


def understand(
    root: Path,
    data: DataConfig,
    num_classes: int | None = None,
    table: ClassTable | None = None,
) -> Understood:
    """Find the layout, the classes and the meaning of masks; hold images out where need be.

    Raises:
      UserError: nothing is understood, or more than one thing.
    """
    # A list of classes may lie elsewhere.
    listed = Path(data.classes).expanduser()
    time = listed.stat().st_mtime_ns if listed.is_file() else 0
    return _understand(root, data, num_classes, table, (state_of(root.expanduser()), time))


@lru_cache(maxsize=4)  # annotations and masks are read once, not once for each split
def _understand(
    root: Path,
    data: DataConfig,
    num_classes: int | None,
    table: ClassTable | None,
    _: tuple[int, int],
) -> Understood:
    folder = root.expanduser()
    layout = find_layout(folder, data)
    there = split_name(data.eval_split) in layout.splits
    splits, held = hold_out(layout.splits, 0.0 if there else data.holdout)
    told = (f"{root}: {layout.told}", *layout.notes, *held)
    cut = {split: cut_large(items) for split, items in splits.items()}
    splits = {split: items for split, (items, _) in cut.items()}
    if count := sum(n for _, n in cut.values()):
        of = f"{count} images of more than 64 megapixels are"
        told = (*told, f"{of} read as tiles of {TILE} x {TILE} pixels")
    items = [item for split in splits.values() for item in split]
    masks = tuple(dict.fromkeys(i.label for i in items if isinstance(i.label, Path | Tile)))
    table = table or _table(folder, layout, data)
    if not masks or layout.name in ANNOTATIONS:
        _refuse_settings_of_masks(data, layout.told)
        if table is None:
            raise UserError(f"{root}: no list of classes: write one class name a line, classes.txt")
        colors = table.colors or voc_colormap(len(table.names))
        return Understood(layout, splits, table.names, colors, None, told)
    reading, doubt = find_meaning(masks, table, data, num_classes)
    told = (*told, *reading.told)
    return Understood(layout, splits, reading.names, reading.colors, reading, told, doubt)


def _refuse_settings_of_masks(data: DataConfig, told: str) -> None:
    """Raise UserError where settings say what masks hold, and there are none."""
    for name in ("label_map", "zero", "ignore_label", "edges"):
        value = getattr(data, name)
        if value != getattr(FOLDER, name):
            raise UserError(f"data.{name} = {value!r} is for masks, and the labels are {told}")


def _table(folder: Path, layout: Layout, data: DataConfig) -> ClassTable | None:
    if data.classes:
        table, theirs = read_table(Path(data.classes).expanduser()), layout.table
        if theirs is not None and len(theirs.names) != len(table.names):
            raise UserError(
                f"{table.origin} lists {len(table.names)} classes, and {theirs.origin}"
                f" {len(theirs.names)} ({list_some(theirs.names, FEW)}): leave --data.classes out,"
                " or list as many"
            )
        return table
    if layout.table is not None:
        return layout.table
    items = [item for split in layout.splits.values() for item in split]
    paths = [p for item in items for p in (item.image, item.label) if isinstance(p, Path)]
    inside = (folder / name for name in list_folders(folder))
    return find_table(dict.fromkeys([folder, *inside, *between(folder, paths)]))


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
