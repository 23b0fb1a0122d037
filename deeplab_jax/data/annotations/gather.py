"""What every reader does with what it has read: number classes, count what it skips, conclude."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab_jax.config import Color, Size
from deeplab_jax.data.annotations.files import show
from deeplab_jax.data.annotations.shapes import MAX_POINTS, VOID, Drawing, Shape
from deeplab_jax.data.layouts import BACKGROUND_NAMES, VOID_NAMES, ClassTable, Item, Layout
from deeplab_jax.data.masks import list_some
from deeplab_jax.errors import UserError

BACKGROUND = "background"
MAX_NAME = 200  # letters
MAX_SIDE = 2**31
SEVERAL = re.compile(r"\[(.*?)\|(.*?)\]")  # [of one|of several]
ADVICE = "export the annotations as polygons or masks (segmentation)"
ONLY_BOXES = f"nothing but boxes, which do not say which pixels are an object; {ADVICE}"
NOTHING = f"no polygon or mask of any object; {ADVICE}"
BOXES = "box[|es] without polygons [is|are] not painted"
OTHERS = "shape[|s] of kinds without an area (points, lines ...) [is|are] not painted"
INVALID = (
    f"malformed shape[|s] skipped: not 3 to {MAX_POINTS} points, not finite, or of another size"
)


class Classes(NamedTuple):
    """The table of a data set's classes, and the class ids of the labels in its files."""

    table: ClassTable
    ids: dict[str, int]


def class_name(value: object, where: str) -> str:
    """A class's name, its spaces as they are seen; raises UserError for what is none."""
    if type(value) is int and 0 <= value < 10**9:
        value = str(value)
    name = " ".join(value.split()) if isinstance(value, str) else ""
    odd = any(unicodedata.category(c) in ("Cc", "Cs") for c in name)
    if not name or odd or len(name) > MAX_NAME:
        shown = show(value)
        raise UserError(
            f"{where}: {shown} is no class name: a text of 1 to {MAX_NAME} letters (in YAML, yes,"
            " no, on and off are names only in quotes)"
        )
    return name


def number_classes(names: Sequence[str], origin: str, colors: Sequence[Color] = ()) -> Classes:
    """Number classes in their order from 1, after the background; one of that name is class 0.

    Names in `VOID_NAMES` are those of ignored pixels.

    Raises:
      UserError: there is none, or a name twice, or more than class ids.
    """
    doubled = [name for name, n in Counter(names).items() if n > 1]
    if doubled:
        raise UserError(f"{origin}: several classes are named {list_some(doubled, 4)}; rename them")
    background = [name for name in names if name.casefold() in BACKGROUND_NAMES]
    if len(background) > 1:
        raise UserError(
            f"{origin}: {list_some(background)} all are the background; rename all but one"
        )
    void = {name: VOID for name in names if name.casefold() in VOID_NAMES}
    rest = [name for name in names if name not in background and name not in void]
    if not rest or len(rest) >= VOID:
        few = list_some(names, 4) or "none"
        raise UserError(f"{origin}: {len(rest)} classes ({few}); possible are 1 to {VOID - 1}")
    order = [*(background or [BACKGROUND]), *rest]
    palette = dict(zip(names, colors, strict=True)) if colors else {}
    table = ClassTable(
        tuple(order),
        tuple(palette.get(name, (0, 0, 0)) for name in order) if palette else (),
        origin=origin,
    )
    return Classes(table, {name: i for i, name in enumerate(order)} | void)


def side(value: object, where: str) -> int:
    """A width or height; raises UserError."""
    whole = isinstance(value, int | float) and value == value // 1 and 1 <= value <= MAX_SIDE
    if not whole or isinstance(value, bool):
        raise UserError(f"{where}: {show(value)} is no width or height in pixels (1 to {MAX_SIDE})")
    return int(value)  # type: ignore[call-overload]


def draw(size: Size | None, shapes: Iterable[Shape]) -> Drawing | None:
    """A drawing, or None of no shapes."""
    return Drawing(size, found) if (found := tuple(shapes)) else None


def tell(skipped: Counter[str]) -> tuple[str, ...]:
    """What was skipped, as '12 boxes without polygons are not painted'."""

    def words(what: str, n: int) -> str:
        return SEVERAL.sub(lambda match: match[1 + (n > 1)], what)

    return tuple(f"{n} {words(what, n)}" for what, n in skipped.most_common() if n)


class Gathered(NamedTuple):
    """What a reader has read: the items of each split, what it skipped, what it did not find."""

    splits: dict[str, list[Item]]
    skipped: Counter[str]
    missing: list[str]


def gather_nothing() -> Gathered:
    """To be filled."""
    return Gathered({}, Counter(), [])


def check_found(told: str, gathered: Gathered, folder: Path) -> tuple[str, ...]:
    """What to tell of images that are not there; raises UserError where there is none."""
    if not gathered.missing:
        return ()
    first = show(gathered.missing[0])
    lost = f"{len(gathered.missing)} of the images are not there, such as {first}"
    if not any(gathered.splits.values()):
        raise UserError(f"{folder}: {told}: {lost}; put the images below {folder}")
    return (lost,)


def conclude(name: str, told: str, gathered: Gathered, table: ClassTable, folder: Path) -> Layout:
    """The layout of what was read.

    Raises:
      UserError: nothing is drawn, two images have the same id, or there is none.
    """
    where, (splits, skipped, _) = f"{folder}: {told}", gathered
    lost = check_found(told, gathered, folder)
    items = {split: tuple(some) for split, some in splits.items() if some}
    if {*items} <= {"", "default"}:  # CVAT's name where there are no splits
        items = {"": sum(items.values(), ())}
    elif "" in items:
        items["default"] = items.pop("")
    for split, some in items.items():
        if doubled := [id for id, n in Counter(item.id for item in some).items() if n > 1]:
            few = list_some(map(show, doubled), 4)
            raise UserError(
                f"{where}: images named twice, or but for the suffix, in {split!r}: {few}"
            )
    notes = tell(skipped) + lost
    drawn = {split: any(item.label for item in some) for split, some in items.items()}
    if not any(drawn.values()):
        counts = f" ({'; '.join(notes)})" if notes else ""
        raise UserError(f"{where}: {ONLY_BOXES if skipped[BOXES] else NOTHING}{counts}")
    bare = (f"no image of {split!r} has an annotation" for split, any_ in drawn.items() if not any_)
    return Layout(name, told, items, table, (*notes, *bare))
