"""LabelMe: every kind of shape, labels.txt, images that are elsewhere, bad files."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import SQUARE, box, labels, make_images, painted, write
from PIL import Image

from deeplab_jax import UserError
from deeplab_jax.data.annotations import labelme
from deeplab_jax.data.annotations.shapes import VOID

PAIRS = [[1, 1], [5, 1], [5, 3], [1, 3]]
MASKS = [  # 3 x 2: [1 1 0], [0 1 1]; of 8 bits and of one
    "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAAAAAC4HznGAAAAEElEQVR4nGNgZGRgZGBkAAAAGwAFwyGmzgAAAABJRU5Er"
    "kJggg==",
    "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACAQAAAAC1D1u3AAAADElEQVR4nGM4wJAAAAKkASGgqoIMAAAAAElFTkSuQmCC",
]


def shape(kind: str | None = "polygon", points: Any = PAIRS, **other: Any) -> dict[str, Any]:
    return {"label": "cat", "points": points, "shape_type": kind, "flags": {}, **other}


def sheet(*shapes: Any, **other: Any) -> dict[str, Any]:
    basic = {"version": "5.0", "flags": {}, "shapes": [*shapes], "imagePath": "a.jpg"}
    return {**basic, "imageData": None, "imageHeight": 4, "imageWidth": 6, **other}


def put(root: Path, content: Any, name: str = "a.json") -> Path:
    make_images(root, "a.jpg")
    write(root / name, content)
    return root


def label_of(root: Path, *shapes: Any) -> np.ndarray:
    return labels(labelme.read(put(root, sheet(*shapes))))["a"]


# Shapes


@pytest.mark.parametrize("kind", ["polygon", None, "oriented_rectangle"])
def test_polygons(tmp_path: Path, kind: str | None) -> None:
    np.testing.assert_array_equal(label_of(tmp_path, shape(kind)), box(1, np.s_[1:3], np.s_[1:5]))


@pytest.mark.parametrize("corners", [[[1, 1], [5, 3]], [[5, 3], [1, 1]], [[5, 1], [1, 3]]])
def test_rectangles_have_corners_in_any_order(tmp_path: Path, corners: Any) -> None:
    label = label_of(tmp_path, shape("rectangle", corners))
    np.testing.assert_array_equal(label, box(1, np.s_[1:3], np.s_[1:5]))


@pytest.mark.parametrize("text", MASKS)
def test_masks_lie_between_two_pixels_that_belong_to_them(tmp_path: Path, text: str) -> None:
    label = label_of(tmp_path, shape("mask", [[2, 1], [4, 2]], mask=text))
    expected = np.zeros((4, 6), np.uint8)
    expected[1, 2:4] = expected[2, 3:5] = 1
    np.testing.assert_array_equal(label, expected)
    label = label_of(tmp_path, shape("mask", [[4.9, -1.2], [7.1, 0]], mask=text))
    assert label[0].tolist() == [0] * 6 and label.sum() == 0  # its second row begins with 0
    label = label_of(tmp_path, shape("mask", [[4, -1], [6, 0]], mask=text), shape())
    assert label[0].tolist() == [0, 0, 0, 0, 0, 1]


def test_circles_and_lines(tmp_path: Path) -> None:
    content = sheet(
        shape("circle", [[30, 30], [30, 50]], label="disc"),
        shape("line", [[60, 20], [90, 20]], label="line"),
        shape("linestrip", [[60, 50], [90, 50], [90, 90]], label="strip"),
        imageHeight=100,
        imageWidth=100,
    )
    make_images(tmp_path, "a.jpg", size=(100, 100))
    write(tmp_path / "a.json", content)
    label = labels(labelme.read(tmp_path))["a"]
    assert (label == 1).sum() == pytest.approx(np.pi * 400, rel=0.01)
    assert (label == 2).sum() == 300 and (label[15:25, 60:90] == 2).all()
    assert (label == 3).sum() == 300 + 400 - 25


def test_later_shapes_lie_on_top_and_ignored_ones_are_void(tmp_path: Path) -> None:
    other = [[3, 0], [6, 0], [6, 4], [3, 4]]
    label = label_of(
        tmp_path,
        shape(),
        shape(points=other, label="__ignore__"),
        shape(points=[[0, 0], [2, 0], [2, 2]]),
    )
    assert label[1].tolist() == [0, 1, 1, VOID, VOID, VOID]
    label = label_of(tmp_path, shape(), shape(points=other, label="_background_"))
    assert label[1].tolist() == [0, 1, 1, 0, 0, 0]


def test_what_is_skipped_is_counted(tmp_path: Path) -> None:
    bad: list[Any] = [
        None,
        shape(points=[[1, 1], [2, 2]]),
        shape(points=None),
        shape(points=[[1, 1, 1]] * 3),
        shape(points=[[0, float("inf")]] * 3),
        shape(points=[[0, 0]] * 200_000),
        shape(label=None),
        shape("circle", [[1, 1]]),
        shape("mask", [[2, 1], [4, 2]]),
        shape("mask", [[2, 1], [4, 2]], mask="no PNG"),
        shape("mask", [[2, 1], [5, 2]], mask=MASKS[0]),
        shape("mask", [[2, 1], [1e300, 2]], mask=MASKS[0]),
    ]
    others = shape("points"), shape("point", [[1, 1]]), shape(["x"])
    layout = labelme.read(put(tmp_path, sheet(shape(), *others, *bad)))
    assert layout and labels(layout)["a"].sum() == 8
    assert any(note.startswith("3 shapes of kinds without an area") for note in layout.notes)
    assert any(note.startswith(f"{len(bad)} malformed shapes skipped") for note in layout.notes)


# Classes


def test_classes_are_those_of_labels_txt_or_in_order_of_name(tmp_path: Path) -> None:
    put(tmp_path, sheet(shape(label=" dog "), shape(label="cat")))
    layout = labelme.read(tmp_path)
    assert layout and layout.table and layout.table.names == ("background", "cat", "dog")
    write(tmp_path / "labels.txt", "\ufeff__ignore__\r\n_background_\r\ndog\r\ncat\r\nowl\r\n")
    layout = labelme.read(tmp_path)
    assert layout and layout.table and layout.table.names == ("_background_", "dog", "cat", "owl")
    write(tmp_path / "labels.txt", "__ignore__\n_background_\ncat\n")
    with pytest.raises(UserError, match=r"labels.txt lacks 1 labels of the JSON files: 'dog'"):
        labelme.read(tmp_path)


# Where images are


@pytest.mark.parametrize(
    ("image", "file", "path", "split", "id"),
    [
        ("a.jpg", "a.json", "a.jpg", "", "a"),
        ("a.JPG", "a.json", "a.jpg", "", "a"),
        ("train/a.jpg", "train/a.json", "a.jpg", "train", "a"),
        ("valid/images/a.jpg", "valid/json/a.json", "a.jpg", "val", "images/a"),
        ("images/a.jpg", "json/a.json", r"..\images\a.jpg", "", "images/a"),
        ("images/a.jpg", "labels/a.json", "a.jpg", "", "images/a"),
        ("images/a.jpg", "labels/a.json", None, "", "images/a"),
        ("images/train/a.jpg", "annotations/train/a.json", "a.jpg", "train", "images/train/a"),
        ("a.jpg", "a.json", r"C:\Users\me\a.jpg", "", "a"),
        ("a.jpg", "a.json", "/home/me/b.jpg", "", "a"),
        ("a.jpg", "a.json", "../../../../etc/passwd", "", "a"),
        ("b.jpg", "a.json", "b.jpg", "", "b"),
    ],
)
def test_places(
    tmp_path: Path, image: str, file: str, path: str | None, split: str, id: str
) -> None:
    make_images(tmp_path, image)
    write(tmp_path / file, sheet(shape(), imagePath=path))
    layout = labelme.read(tmp_path)
    assert layout and [item.image for item in layout.splits[split]] == [tmp_path / image]
    assert labels(layout, split)[id].sum() == 8


def test_an_embedded_image_is_taken_where_its_file_is_missing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    # In the order in which newer versions write: the image before the shapes.
    content = {"imageData": "A" * 200_000, **sheet(shape(), imageHeight=None, imageData=text)}
    write(tmp_path / "a.json", content)
    layout = labelme.read(tmp_path)
    assert layout and isinstance(layout.splits[""][0].image, bytes)
    assert painted(layout.splits[""][0]).sum() == 8
    make_images(tmp_path, "a.png")
    layout = labelme.read(tmp_path)
    assert layout and layout.splits[""][0].image == tmp_path / "a.png"


def test_images_without_a_file_and_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    make_images(tmp_path, "b.jpg")
    write(tmp_path / "notes.json", {"classes": []})
    layout = labelme.read(put(tmp_path, sheet(shape())))
    assert layout and len(layout.splits[""]) == 1
    assert "1 image without a JSON file is left out" in layout.notes
    assert "1 JSON file of another kind is passed over" in layout.notes


# Bad files


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        {"shapes": []},
        {"shapes": {}, "imagePath": "a"},
        {"images": [], "annotations": []},
    ],
    ids=str,
)
def test_json_of_another_kind_is_none(tmp_path: Path, content: Any) -> None:
    assert labelme.read(put(tmp_path, content)) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (sheet(), "none of 1 JSON files of LabelMe has a shape"),
        (sheet(shape("point")), "none of 1 JSON files"),
        (sheet(shape(), imageHeight="4"), "'4' is no width or height"),
        (sheet(shape(), imageHeight=10**12), "is no width or height"),
        ('{"shapes": [', "not a readable JSON file"),
        ('{"shapes": ' + "[" * 200_000, "not a readable JSON file"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_broken_files_are_one_message(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        labelme.read(put(tmp_path, content))


def test_without_images_that_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.json", sheet(shape(), imageData="no base64 \u00e4"))
    with pytest.raises(UserError, match=r"1 of the images are not there, such as 'a.jpg'"):
        labelme.read(tmp_path)


def test_masks_that_claim_much_are_refused_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelme, "MAX_PIXELS", 100 * 100)
    buffer = io.BytesIO()
    Image.new("1", (100, 100)).save(buffer, "PNG")
    mask = shape("mask", [[0, 0], [99, 99]], mask=base64.b64encode(buffer.getvalue()).decode())
    write(tmp_path / "a.json", json.dumps(sheet(*[mask] * 100, imageHeight=9000, imageWidth=9000)))
    make_images(tmp_path, "a.jpg")
    with pytest.raises(UserError, match="far too large together"):
        labelme.read(tmp_path)


def test_flat_points_are_read_too(tmp_path: Path) -> None:
    assert label_of(tmp_path, shape(points=SQUARE)).sum() == 8
