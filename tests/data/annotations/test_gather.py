"""Classes are numbered after the background; what is skipped is told; nothing drawn is an error."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeplab_jax import UserError
from deeplab_jax.data.annotations.gather import (
    BOXES,
    Gathered,
    class_name,
    conclude,
    draw,
    number_classes,
    side,
    tell,
)
from deeplab_jax.data.annotations.shapes import Shape
from deeplab_jax.data.layouts import ClassTable, Item

DRAWING = draw((4, 6), [Shape(1, (np.zeros((3, 2), np.float32),))])
TABLE = ClassTable(("background", "a"))


def item(id: str, label: Any = DRAWING) -> Item:
    return Item(id, Path(id), label)


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (["b", "a"], ("background", "b", "a")),
        (["b", "BACKGROUND"], ("BACKGROUND", "b")),
        (["b", "_background_", "a"], ("_background_", "b", "a")),
    ],
)
def test_the_background_is_class_0(names: list[str], table: tuple[str, ...]) -> None:
    classes = number_classes(names, "x")
    assert classes.table.names == table and not classes.table.colors
    assert classes.ids == {name: i for i, name in enumerate(table)}
    colors = [(i, i, i) for i in range(1, 1 + len(names))]
    assert len(number_classes(names, "x", colors).table.colors) == len(table)


@pytest.mark.parametrize(
    "names",
    [[], ["background"], ["a", "a"], ["a", "background", "Background"], [*map(str, range(255))]],
)
def test_what_cannot_be_numbered(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"^x: "):
        number_classes(names, "x")


def test_names_are_texts() -> None:
    assert class_name("  a \u00a0 b\t", "x") == "a b"
    assert class_name(7, "x") == "7"
    wrong: list[object] = [None, True, 1.5, "", " ", "a\0", "\ud800", "a" * 201, [], 10**5000, -1]
    for value in wrong:
        with pytest.raises(UserError, match="is no class name"):
            class_name(value, "x")


def test_sides_are_whole_numbers() -> None:
    assert side(640.0, "x") == side(640, "x") == 640
    wrong: list[object] = [0, -1, 1.5, True, None, "4", float("nan"), float("inf"), 10**5000, []]
    for value in wrong:
        with pytest.raises(UserError, match=r"^x: .* no width or height"):
            side(value, "x")


def test_notes_have_numbers() -> None:
    assert tell(Counter({BOXES: 1})) == ("1 box without polygons is not painted",)
    assert tell(Counter({BOXES: 12, "x": 0})) == ("12 boxes without polygons are not painted",)


def test_splits_are_as_the_layouts_have_them() -> None:
    def splits(**items: list[Item]) -> dict[str, Any]:
        names = {"none" if name == "" else name: some for name, some in items.items()}
        gathered = Gathered({"" if n == "none" else n: i for n, i in names.items()}, Counter(), [])
        return {**conclude("coco", "told", gathered, TABLE, Path("x")).splits}

    assert splits(default=[item("a")]) == {"": (item("a"),)}
    assert splits(none=[item("a")], default=[item("b")]).keys() == {""}
    assert splits(none=[item("a")], train=[item("b")], val=[]).keys() == {"default", "train"}


@pytest.mark.parametrize(
    ("items", "missing", "said"),
    [
        ([item("a", None)], [], "no polygon or mask"),
        ([item("a"), item("a")], [], "images named twice.*'a'"),
        ([], ["gone.jpg"], "1 of the images are not there, such as 'gone.jpg'"),
        ([], [], "no polygon or mask"),
    ],
)
def test_what_is_no_data_set(items: list[Item], missing: list[str], said: str) -> None:
    with pytest.raises(UserError, match=rf"^x: told: {said}"):
        conclude("coco", "told", Gathered({"": items}, Counter(), missing), TABLE, Path("x"))


def test_a_split_without_annotations_is_noted() -> None:
    gathered = Gathered({"train": [item("a")], "val": [item("a", None)]}, Counter(), [])
    layout = conclude("coco", "told", gathered, TABLE, Path("x"))
    assert layout.notes == ("no image of 'val' has an annotation",)
