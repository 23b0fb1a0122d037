"""CSV files of run lengths: their headers, orders, images, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from annotated import box, labels, make_images, write

from deeplab_jax import UserError
from deeplab_jax.data.annotations import kaggle

COLUMN, ROW = "10 2 14 2 18 2", "9 3 15 3"
EXPECTED = box(1, np.s_[1:3], np.s_[2:5])


def put(root: Path, text: str, name: str = "train.csv") -> Path:
    make_images(root, "train_images/a.jpg", "train_images/b.jpg")
    write(root / name, text)
    return root


@pytest.mark.parametrize(("runs", "by_column"), [(COLUMN, True), (ROW, False)])
def test_the_runs_of_the_facts(tmp_path: Path, runs: str, by_column: bool) -> None:
    put(tmp_path, f"ImageId,EncodedPixels\na.jpg,{runs}\nb.jpg,\n")
    layout = kaggle.read(tmp_path)
    assert layout and layout.name == "kaggle" and layout.splits.keys() == {""}
    assert ("down columns" if by_column else "along rows") in layout.told
    assert layout.table and layout.table.names == ("background", "object")
    found = labels(layout)
    np.testing.assert_array_equal(found["train_images/a"], EXPECTED)
    assert not found["train_images/b"].any() and layout.splits[""][1].label is None


@pytest.mark.parametrize(
    "text",
    [
        f"ImageId_ClassId,EncodedPixels\na.jpg_1,{COLUMN}\na.jpg_2,\na.jpg_3,1 1\na.jpg_10,\n",
        f"\ufeffImageId,ClassId,EncodedPixels\r\na,1,{COLUMN}\r\na,3,1 1\r\na,10,\r\nb,2,",
        f'"id","class","rle"\n"a","1","{COLUMN}"\n"a","3","1 1"\n"a",10,-1\n"a",2,NaN\n\n',
        f"rle_mask,img,class\n{COLUMN},a.jpg,1\n1 1,a.jpg,3\n,b,2\n,b,10\n",
    ],
)
def test_headers_and_classes(tmp_path: Path, text: str) -> None:
    layout = kaggle.read(put(tmp_path, text))
    names = ("background", "class 1", "class 2", "class 3", "class 10")
    assert layout and layout.table and layout.table.names == names
    label = labels(layout)["train_images/a"]
    assert label[0, 0] == 3 and (label == 1).sum() == 6


def test_one_row_for_each_object_in_any_order_of_starts(tmp_path: Path) -> None:
    text = "ImageId,EncodedPixels\na.jpg,18 2\na.jpg,14 2 10 2\n"
    np.testing.assert_array_equal(
        labels(kaggle.read(put(tmp_path, text)))["train_images/a"], EXPECTED
    )


def test_classes_may_have_names(tmp_path: Path) -> None:
    layout = kaggle.read(put(tmp_path, f"id,class,rle\na,dog,{COLUMN}\nb,cat,1 1\n"))
    assert layout and layout.table and layout.table.names == ("background", "cat", "dog")


def test_masks_of_the_same_name_are_no_images_and_examples_no_lists(tmp_path: Path) -> None:
    make_images(tmp_path, "train/images/c.png", "train/masks/c.png", "test/images/d.png")
    write(tmp_path / "sample_submission.csv", "id,rle_mask\nd,1 1\n")
    write(tmp_path / "depths.csv", "id,z\nc,1\n")
    write(tmp_path / "train.csv", f"id,rle_mask\nc,{COLUMN}\n")
    layout = kaggle.read(tmp_path)
    assert layout and [item.id for item in layout.splits[""]] == ["train/images/c"]
    assert "2 images that no row names are left out" in layout.notes


def test_a_list_for_each_split(tmp_path: Path) -> None:
    make_images(tmp_path, "train/a.jpg", "valid/a.jpg")
    for name in ("train", "valid"):
        write(tmp_path / f"{name}_rle.csv", f"id,rle\na,{COLUMN}\n")
    layout = kaggle.read(tmp_path)
    assert layout and {s: layout.splits[s][0].id for s in layout.splits} == {
        "train": "train/a",
        "val": "valid/a",
    }


def test_what_is_skipped_is_counted(tmp_path: Path) -> None:
    bad = [
        "1",
        "1 2 3",
        "a b",
        "0 5",
        "1 -1",
        "1 5 3 5",
        "1 1e3",
        f"1 {10**30}",
        f"{2**63 - 1} 1",
        "1 0",
    ]
    rows = "".join(f"a,{runs}\n" for runs in (COLUMN, *bad))
    layout = kaggle.read(put(tmp_path, f"id,rle\n{rows}gone,1 1\n"))
    assert layout and labels(layout)["train_images/a"].sum() == 6
    assert any(note.startswith(f"{len(bad)} malformed shapes") for note in layout.notes)
    assert "1 of the images are not there, such as 'gone'" in layout.notes


def test_runs_beyond_the_image_are_refused_when_it_is_painted(tmp_path: Path) -> None:
    layout = kaggle.read(put(tmp_path, "id,rle\na,20 6\n"))
    with pytest.raises(UserError, match=r"^train_images/a: run lengths that sum to 25"):
        labels(layout)


def test_long_rows(tmp_path: Path) -> None:
    runs = " ".join(f"{2 * i + 1} 1" for i in range(50_000))
    assert kaggle.read(put(tmp_path, f"id,rle\na,{runs}\n"))


@pytest.mark.parametrize(
    "text", ["", "id,z\na,1\n", "filename, bus, car\n", "rle\n1 1\n", "\0\0", "id\n"]
)
def test_other_tables_are_none(tmp_path: Path, text: str) -> None:
    assert kaggle.read(put(tmp_path, text)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,rle\n", "0 classes"),
        ("id,rle\na,\n", "no polygon or mask"),
        ("id,rle\na\n", r"train.csv:2: 1 cells; 2 needed"),
        ("id,rle\ngone,1 1\n", "not there, such as 'gone'"),
        ("id,rle\n../../etc/passwd,1 1\n", "not there"),
        ("id,rle\na,1 1\na.jpg,1 1\n", "images named twice"),
        ("id,class,rle\na,,1 1\n", "no class name"),
        ("id,class,rle\n" + "".join(f"a,{i},1 1\n" for i in range(300)), "300 classes"),
        ("ImageId_ClassId,EncodedPixels\na.jpg,1 1\n", "no class name|not there"),
        ('id,rle\na,"1 1', "."),
    ],
    ids=lambda text: text[:30],
)
def test_broken_tables_are_one_message(tmp_path: Path, text: str, said: str) -> None:
    if text.endswith('"1 1'):
        assert kaggle.read(put(tmp_path, text))  # the csv module closes the quote
        return
    with pytest.raises(UserError, match=said):
        kaggle.read(put(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    put(tmp_path, "")
    for content in (b"id,rle\na,\xff\n", b"id,rle\na,1 1\0\n"):
        (tmp_path / "train.csv").write_bytes(content)
        try:
            kaggle.read(tmp_path)
        except UserError as error:
            assert "train.csv" in str(error) or "malformed" in str(error)


def test_images_that_are_there_twice_and_lists_without_names(tmp_path: Path) -> None:
    make_images(tmp_path, "other/a.jpg")
    put(tmp_path, "id,rle\na,1 1\n")
    with pytest.raises(UserError, match=r"'a' is other/a.jpg and train_images/a.jpg: remove one"):
        kaggle.read(tmp_path)
    write(tmp_path / "more.csv", "id,rle\na,1 1\n")
    with pytest.raises(UserError, match=r"which of more.csv, train.csv is the list"):
        kaggle.read(tmp_path)
