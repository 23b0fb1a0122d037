"""What a folder of data holds, as it is understood."""

import re
from pathlib import Path
from typing import NamedTuple

from deeplab_jax.config import Color
from deeplab_jax.data.annotations.shapes import Drawing

# Names, in lower case, that stand for ignored pixels, and for what is no object.
VOID_NAMES = frozenset(
    ("void", "ignore", "ignored", "__ignore__", "unlabeled", "unlabelled", "void--unlabeled")
)
BACKGROUND_NAMES = ("background", "_background_")
TRAIN, VAL, TEST = "train", "val", "test"
SPLIT_NAMES = {  # in lower case, as other tools call them
    TRAIN: ("train", "training"),
    VAL: ("val", "valid", "validation", "eval", "dev"),
    TEST: ("test", "testing"),
}


class ClassTable(NamedTuple):
    """The classes of a data set, as `origin`, a file, lists them.

    `colors`, to draw the classes in, are () where it gives none. What masks hold: `values` are
    pairs of a value and its class id or VOID, () if value i is class i; `by_color` the same of
    colours, () where it gives none.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()
    values: tuple[tuple[int, int], ...] = ()
    by_color: tuple[tuple[Color, int], ...] = ()
    origin: str = ""


class Tile(NamedTuple):
    """A part of an image or mask that is too large for memory."""

    file: Path
    top: int
    left: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.file}@{self.top},{self.left}"


class Item(NamedTuple):
    """An image, its file or content, and what labels it: a mask's file, or shapes to paint.

    `id`: the image's path without suffix, or its name in a list. No label: all is background.
    """

    id: str
    image: Path | bytes | Tile
    label: Path | Drawing | Tile | None


class Layout(NamedTuple):
    """The items of each split; one alone, named "", where there are no splits.

    `name` is the one of `--data.layout`, `told` says it in words, `notes` are what a user should
    know of the reading, such as what was skipped, with numbers.
    """

    name: str
    told: str
    splits: dict[str, tuple[Item, ...]]
    table: ClassTable | None = None
    notes: tuple[str, ...] = ()


def split_name(name: str) -> str:
    """A split's name as it is used here: "Validation" and "val2017" are val; others stay."""
    lower = re.sub(r"20\d\d$", "", name.lower())
    return next((ours for ours, theirs in SPLIT_NAMES.items() if lower in theirs), name)
