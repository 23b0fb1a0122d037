"""COCO JSON from CVAT, Roboflow, Label Studio and COCO: classes, images, shapes, bad files."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import SQUARE, box, labels, make_images, write

from deeplab_jax import UserError
from deeplab_jax.data.annotations import coco

CATEGORIES = [{"id": 1, "name": "disc"}, {"id": 2, "name": "box"}]


def image(id: int = 1, name: str = "a.jpg", **other: Any) -> dict[str, Any]:
    return {"id": id, "file_name": name, "width": 6, "height": 4, **other}


def annotation(segmentation: Any = (SQUARE,), **other: Any) -> dict[str, Any]:
    shape = [*segmentation] if isinstance(segmentation, tuple) else segmentation
    basic = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 2], "iscrowd": 0}
    return {**basic, "segmentation": shape, **other}


def tree(*annotations: Any, **other: Any) -> dict[str, Any]:
    lists = {"images": [image()], "categories": CATEGORIES}
    return {"info": {}, **lists, "annotations": [*annotations] or [annotation()], **other}


def put(root: Path, content: Any, name: str = "result.json") -> Path:
    make_images(root, "images/a.jpg")
    write(root / name, content)
    return root


# Where things are


@pytest.mark.parametrize(
    ("file", "split", "place"),
    [
        ("train/_annotations.coco.json", "train", "train"),
        ("valid/_annotations.coco.json", "val", "valid"),
        ("annotations/instances_train.json", "train", "images/train"),
        ("annotations/instances_val.json", "val", "images"),
        ("annotations/instances_val.json", "val", "val"),
        ("annotations/instances_train2017.json", "train", "train2017"),
        ("annotations/instances_train.json", "train", "train2017"),
        ("annotations/instances_default.json", "", "images/default"),
        ("annotations/train.json", "train", "train/images"),
        ("result.json", "", "images"),
        ("result.json", "", "."),
        ("val.json", "val", "images"),
        ("train/annotations.json", "train", "train/images"),
    ],
)
def test_places(tmp_path: Path, file: str, split: str, place: str) -> None:
    make_images(tmp_path, f"{place}/sub/a.jpg", f"{place}/b.jpg")
    images = [image(name="sub\\a.jpg"), image(2, "b.jpg")]
    write(tmp_path / file, tree(images=images))
    layout = coco.read(tmp_path)
    assert layout and layout.name == "coco" and file in layout.told
    assert layout.table and layout.table.names == ("background", "disc", "box")
    found = labels(layout, split)
    np.testing.assert_array_equal(found["sub/a"], box(1, np.s_[1:3], np.s_[1:5]))
    assert not found["b"].any() and layout.splits[split][1].label is None
    assert pickle.loads(pickle.dumps(layout)).told == layout.told


def test_label_studio_stores_names_with_a_prefix_and_paths_of_its_own(tmp_path: Path) -> None:
    make_images(tmp_path, "images/0123abcd-a.jpg", "images/b.jpg")
    write(tmp_path / "notes.json", {"categories": [{"id": 0, "name": "disc"}], "info": {}})
    names = ["../../label-studio/data/media/upload/1/0123abcd-a.jpg", r"images\89abcdef-b.jpg"]
    images = [image(i + 1, name) for i, name in enumerate(names)]
    put(tmp_path, tree(images=images))
    found = labels(coco.read(tmp_path))
    assert found.keys() == {"0123abcd-a", "images/b"}


def test_splits_have_their_own_images_of_the_same_name(tmp_path: Path) -> None:
    for split, value in (("train", 1), ("val", 2)):
        make_images(tmp_path, f"images/{split}/a.jpg")
        content = tree(annotation(category_id=value))
        write(tmp_path / f"annotations/instances_{split}.json", content)
    write(tmp_path / "annotations/panoptic_val.json", "{}")
    layout = coco.read(tmp_path)
    assert layout and layout.splits.keys() == {"train", "val"}
    for split, value in (("train", 1), ("val", 2)):
        assert labels(layout, split)["a"].max() == value
        assert layout.splits[split][0].image == tmp_path / f"images/{split}/a.jpg"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        {"shapes": [], "imagePath": "a.jpg"},
        {"images": [], "categories": []},
        {"images": 1, "annotations": 2, "categories": []},
        tree({"segments_info": [], "file_name": "a.png", "image_id": 1}),
    ],
    ids=lambda content: str(content)[:30],
)
def test_json_of_another_kind_is_none(tmp_path: Path, content: Any) -> None:
    assert coco.read(put(tmp_path, content)) is None


# Classes


def test_roboflows_root_is_no_class(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "shapes", "supercategory": "none"},
        {"id": 2, "name": "box", "supercategory": "shapes"},
        {"id": 1, "name": "disc", "supercategory": "shapes"},
    ]
    both = annotation(), annotation(category_id=2)
    layout = coco.read(put(tmp_path, tree(*both, categories=categories)))
    assert layout and layout.table and layout.table.names == ("background", "disc", "box")
    used = tree(annotation(category_id=0), categories=categories)
    layout = coco.read(put(tmp_path, used))
    assert layout and layout.table and layout.table.names[1:] == ("shapes", "disc", "box")


def test_ids_have_gaps_names_repeat_and_the_background_may_be_listed(tmp_path: Path) -> None:
    names = {90: "a", 13: "Background", 7: "b", 44: "b"}
    categories = [{"id": id, "name": name} for id, name in names.items()]
    layout = coco.read(put(tmp_path, tree(annotation(category_id=44), categories=categories)))
    assert layout and layout.table
    assert layout.table.names == ("Background", "b (7)", "b (44)", "a")
    assert labels(layout)["a"].max() == 2


# Shapes


def test_run_lengths_in_both_forms_and_crowds_are_their_class(tmp_path: Path) -> None:
    for counts in ([9, 2, 2, 2, 2, 2, 5], "9220003"):
        rle = {"size": [4, 6], "counts": counts}
        put(tmp_path, tree(annotation(rle, category_id=2, iscrowd=1)))
        expected = box(2, np.s_[1:3], np.s_[2:5])
        np.testing.assert_array_equal(labels(coco.read(tmp_path))["a"], expected)


def test_small_objects_lie_on_top_and_parts_of_one_are_no_holes(tmp_path: Path) -> None:
    small, large = [2, 1, 3, 1, 3, 2, 2, 2], [0, 0, 6, 0, 6, 4, 0, 4]
    content = tree(annotation((small,), category_id=2), annotation((large, large)))
    label = labels(coco.read(put(tmp_path, content)))["a"]
    assert label[1, 2] == 2 and (label == 1).sum() == 23


def test_what_is_skipped_is_counted(tmp_path: Path) -> None:
    bad: list[Any] = [
        ([1, 1, 5, 3],),
        ([1, 2, 3, 4, 5, 6, 7],),
        ([0, 0, 1, 1, float("nan"), 1],),
        ([0] * 300_000,),
        {"size": [4, 6], "counts": [10**9]},
        {"size": [6, 4], "counts": [9, 2, 2, 2, 2, 2, 5]},
        {"size": [4, 6], "counts": "~~"},
        {"size": [4, 6]},
        "polygon",
    ]
    content = tree(annotation(), annotation([]), annotation(None), *map(annotation, bad))
    layout = coco.read(put(tmp_path, content))
    assert layout and labels(layout)["a"].sum() == 8
    assert "2 boxes without polygons are not painted" in layout.notes
    assert any(note.startswith(f"{len(bad)} malformed shapes skipped") for note in layout.notes)


# Bad files


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tree(annotation([])), r"nothing but boxes.*\(1 box without polygons is not painted\)"),
        (tree(annotations=[]), "no polygon or mask of any object"),
        (tree(annotation(image_id=7)), r"annotations of 1 images that it does not list: \[7\]"),
        (tree(annotation(category_id=7)), r"1 categories that no list has: \[7\]"),
        (tree(images=[image(), image()]), r"images\[1\].id is 1, as another's"),
        (tree(images=[image(), image(2)]), "images named twice"),
        (tree(images=[{"id": 1}]), "no file_name"),
        (tree(images=[7]), r"images\[0\] is 7, not an object"),
        (tree(images=[image([1])]), r"images\[0\].id is \[1\]"),
        (tree(images=[image(name="b.jpg")]), r"1 of the images are not there, such as 'b.jpg'"),
        (tree(images=[image(name="../../../etc/passwd")]), "not there"),
        (tree(images=[image(width=None)]), "None is no width or height"),
        (tree(images=[image(height=float("nan"))]), "nan is no width or height"),
        (tree(images=[image(height=10**30)]), "no width or height"),
        (tree(categories=[*CATEGORIES, {"id": 1, "name": "x"}]), "category ids must be unique"),
        (tree(categories=[{"id": 1, "name": None}]), "None is no class name"),
        (tree(categories=[{"id": 1, "name": "\ud800"}]), "no class name"),
        (tree(categories=[{"id": i, "name": f"n{i}"} for i in range(300)]), "300 classes"),
        (tree(annotations=[None]), "not an object"),
        ('{"images": [', "not a readable JSON file"),
        ('{"images": [' + "[" * 200_000, "not a readable JSON file"),
        ('{"images": [' + "9" * 10_000 + "]}", "not a readable JSON file"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_broken_files_are_one_message(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        coco.read(put(tmp_path, content))


def test_a_byte_order_mark_is_read_and_a_huge_file_refused(tmp_path: Path) -> None:
    put(tmp_path, "\ufeff" + json.dumps(tree()))
    assert coco.read(tmp_path)
    with (tmp_path / "result.json").open("r+b") as file:
        file.truncate(3 * 2**30)  # sparse
    with pytest.raises(UserError, match=r"3072 MB; at most 2.05e\+03 MB"):
        coco.read(tmp_path)


def test_an_image_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    layout = coco.read(put(tmp_path, tree(images=[image(), image(2, "gone.jpg")])))
    assert layout and len(layout.splits[""]) == 1
    assert "1 of the images are not there, such as 'gone.jpg'" in layout.notes


def test_categories_must_agree(tmp_path: Path) -> None:
    make_images(tmp_path, "images/train/a.jpg", "images/val/a.jpg")
    write(tmp_path / "annotations/instances_train.json", tree())
    other = [{"id": 1, "name": "box"}, {"id": 2, "name": "disc"}]
    write(tmp_path / "annotations/instances_val.json", tree(categories=other))
    with pytest.raises(UserError, match=r"alike in all files: 1 is 'box' and 'disc'"):
        coco.read(tmp_path)
