"""Folders: pairs are found, in order and completely; what is wrong is said in words."""

import dataclasses
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import ids_of, make_folder, open_two, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax import Config, DataConfig, MachineConfig, ModelConfig, TaskConfig
from deeplab_jax.data import folder
from deeplab_jax.data.batches import read_record
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.folder import open_folder
from deeplab_jax.data.settle import open_split
from deeplab_jax.data.source import Source, check_source, image_of, open_source
from deeplab_jax.errors import UserError

# ---- folders that are right


def test_pairs_are_found_sorted_and_nested(tmp_path: Path) -> None:
    make_folder(tmp_path, ["b", "a", "city/c.d"])
    make_folder(tmp_path, ["z"], "val")
    (tmp_path / "images" / "train" / "._a.jpg").write_bytes(b"left by macOS")
    (tmp_path / "masks" / "train" / "notes.txt").write_text("not an image")
    source = open_two(tmp_path)
    assert ids_of(source) == ["a", "b", "city/c.d"]
    assert source.class_names == ("class 0", "class 1") and source.colors == voc_colormap(2)
    assert source.sizes() == [(6, 8)] * 3 and source[0]["label"].sum() == 16
    assert pickle.loads(pickle.dumps(source)) == source
    check_source(source)


def test_folders_may_be_links(tmp_path: Path) -> None:
    make_folder(tmp_path / "far", ["a"])
    for kind in ("images", "masks"):
        (tmp_path / "near" / kind / "train").mkdir(parents=True)
        (tmp_path / "near" / kind / "train" / "city").symlink_to(tmp_path / "far" / kind / "train")
    assert ids_of(open_two(tmp_path / "near")) == ["city/a"]


def test_other_folder_names_and_ignore_label(tmp_path: Path) -> None:
    save(tmp_path / "images" / "training" / "a.png", np.zeros((6, 8, 3), np.uint8))
    save(tmp_path / "annotations" / "training" / "a.png", np.full((6, 8), 12, np.uint8))
    config = Config(
        model=ModelConfig(num_classes=12),
        task=TaskConfig(ignore_label=12),
        data=DataConfig(source="folder", mask_dir="annotations"),
        machine=MachineConfig(root=str(tmp_path)),
    )
    source = open_source(config, "training")
    assert (source[0]["label"] == 12).all() and source.ignore_label == 12
    wrong = open_source(dataclasses.replace(config, task=TaskConfig()), "training")
    with pytest.raises(
        UserError, match=r"a\.png.*holds 12; allowed are the classes 0 to 11 and 25"
    ):
        wrong[0]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.text("abcxyz0189_", min_size=1, max_size=8), min_size=1), st.floats(0.01, 0.99))
def test_holding_out_is_a_partition_by_name_alone(names: set[str], holdout: float) -> None:
    for name in names:
        assert folder._is_held_out(name, holdout) <= folder._is_held_out(name, holdout + 0.005)
    assert not any(folder._is_held_out(name, 0.0) for name in names)
    assert all(folder._is_held_out(name, 1.0) for name in names)


def test_holdout_splits_a_flat_folder_and_new_images_move_none(tmp_path: Path) -> None:
    make_folder(tmp_path, [f"img_{i:03}" for i in range(40)], "")
    before = {split: ids_of(open_two(tmp_path, split, 0.25)) for split in ("train", "val")}
    assert len(before["train"]) + len(before["val"]) == 40 and 4 <= len(before["val"]) <= 16
    make_folder(tmp_path, [f"new_{i}" for i in range(10)], "")
    for split, ids in before.items():
        assert [i for i in ids_of(open_two(tmp_path, split, 0.25)) if i[0] == "i"] == ids


@pytest.mark.parametrize("form", ["IMG_{:04}", "frame_{:06}", "{}", "p{:02}", "a/b/{:05}_left"])
def test_a_tenth_of_counted_names_is_held_out(form: str) -> None:
    held = sum(folder._is_held_out(form.format(i), 0.1) for i in range(1000))
    assert abs(held - 100) <= 3 * (1000 * 0.1 * 0.9) ** 0.5


def test_the_fingerprint_is_that_of_the_contents(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "a", ["x", "y"])
    (root / "classes.txt").write_text("sky\nroad\n")
    first = open_folder(root, "train").fingerprint
    assert re.fullmatch(r"2 pairs \(contents \w{8}\), 2 classes \(names \w{8}\)", first)
    shutil.copytree(root, tmp_path / "b", copy_function=shutil.copyfile)  # with other times
    assert open_folder(str(tmp_path / "b"), "train").fingerprint == first
    os.utime(root / "masks" / "train" / "x.png", (0, 0))
    assert open_folder(root, "train").fingerprint == first
    found = {first, open_folder(root, "train", task=TaskConfig(ignore_label=1)).fingerprint}
    (root / "classes.txt").write_text("road\nsky\n")
    found.add(open_folder(root, "train").fingerprint)
    mask = root / "masks" / "train" / "x.png"
    data = bytearray(mask.read_bytes())
    data[-20] ^= 1  # as many bytes
    mask.write_bytes(data)
    found.add(open_folder(root, "train").fingerprint)
    image = root / "images" / "train" / "y.jpg"
    image.write_bytes(image.read_bytes() + b"more")
    found.add(open_folder(root, "train").fingerprint)
    assert len(found) == 5


def test_the_fingerprint_is_made_once_and_unreadable_masks_do_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_two(make_folder(tmp_path, ["x", "y"]))
    (tmp_path / "masks" / "train" / "x.png").unlink()
    first = source.fingerprint
    monkeypatch.setattr(folder, "_content", None)
    assert source.fingerprint == first == pickle.loads(pickle.dumps(source)).fingerprint


def test_hidden_folders_are_no_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path, [f"p{i}" for i in range(20)], "")
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        save(tmp_path / "images" / name / "thumb.jpg", np.zeros((6, 8, 3), np.uint8))
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"")
    both = [open_two(tmp_path, split, 0.3) for split in ("train", "val")]
    assert sum(map(len, both)) == 20
    assert capsys.readouterr().err == f"{tmp_path}/images: 1 file passed over (1 .db)\n"  # once
    make_folder(tmp_path / "split", ["a"])
    (tmp_path / "split" / "images" / ".cache").mkdir()
    with pytest.raises(UserError, match=r"no split 'val'; there are train \(--data.train_split"):
        open_two(tmp_path / "split", "val")


# ---- classes that no list names


def test_the_masks_show_how_many_classes_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of all splits, read once; one broken mask changes nothing."""
    make_folder(tmp_path, ["a", "b"], value=2)
    make_folder(tmp_path, ["c"], "val", value=4)
    label = np.zeros((6, 8), np.uint8)
    label[0], label[1] = 255, 3
    save(tmp_path / "masks" / "train" / "a.png", label)
    (tmp_path / "masks" / "train" / "b.png").write_bytes(b"<html>")
    for split in ("train", "val"):
        source = open_folder(tmp_path, split)
        assert source.class_names == ("class 0", "class 1", "class 2", "class 3", "class 4")
        assert source.colors == voc_colormap(5) and source.ignore_label == 255
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and "the masks hold 5 classes, named 'class 0' to 'class 4'" in said
    )
    save(tmp_path / "masks" / "val" / "c.png", label)  # edited in the same process
    assert len(open_folder(tmp_path, "val").class_names) == 4
    task = TaskConfig(ignore_label=3)
    save(tmp_path / "masks" / "train" / "a.png", np.where(label == 255, 0, label))
    save(tmp_path / "masks" / "val" / "c.png", np.where(label == 255, 0, label))
    source = open_folder(tmp_path, "train", task=task)
    assert len(source.class_names) == 2 and source.ignore_label == 3
    assert len(open_folder(tmp_path, "train", num_classes=7).class_names) == 7


def test_a_list_comes_before_the_masks(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"], value=1)
    (tmp_path / "classes.txt").write_text("sky\nroad\nwater\n")
    assert open_folder(tmp_path, "train").class_names == ("sky", "road", "water")


def test_binary_masks_without_a_list_are_two_classes(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"], value=255)
    source = open_folder(tmp_path, "train")
    assert len(source.class_names) == 2
    with pytest.raises(UserError, match="binary masks saved as 0/255"):
        check_source(source)


def test_gray_levels_are_not_taken_for_hundreds_of_classes(tmp_path: Path) -> None:
    label = np.zeros((6, 8), np.uint8)
    label[1], label[2] = 127, 254
    make_folder(tmp_path, ["a"])
    save(tmp_path / "masks" / "train" / "a.png", label)
    with pytest.raises(UserError, match=r"masks: the masks hold 0, 127, 254, .* no classes\.txt"):
        open_folder(tmp_path, "train")


def test_where_no_mask_tells_the_number_the_first_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    save(
        tmp_path / "masks" / "train" / "a.png",
        np.dstack([np.eye(6, 8, dtype=np.uint8)] * 2 + [np.zeros((6, 8), np.uint8)]),
    )
    with pytest.raises(UserError, match=r"a\.png: the mask is a colour image"):
        open_folder(tmp_path, "train")


# ---- images turned by EXIF


def turned(root: Path, orientation: int, mask: np.ndarray, side: int = 8) -> Source:
    """One image, 6 x `side` as stored, whose first row is white, and its mask."""
    image = np.zeros((6, side, 3), np.uint8)
    image[0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (root / "images" / "train").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / "images" / "train" / "a.png", exif=exif)
    save(root / "masks" / "train" / "a.png", mask)
    return open_two(root)


def read(source: Source) -> np.ndarray:
    return image_of(source[0], "a")[..., 0] == 255


def test_an_image_is_turned_where_the_size_of_its_mask_proves_it(tmp_path: Path) -> None:
    upright = np.zeros((8, 6), np.uint8)
    upright[:, -1] = 1  # where 6, to be turned clockwise, brings the first row
    source = turned(tmp_path, 6, upright)
    np.testing.assert_array_equal(read(source), upright == 1)
    assert source.sizes() == [(8, 6)]
    check_source(source)
    stored = turned(tmp_path, 6, np.ones((6, 8), np.uint8))
    for asked in (False, True):  # what the size proves, no setting overrules
        source = dataclasses.replace(stored, exif_upright=asked)
        assert read(source)[0].all() and source.sizes() == [(6, 8)]


def test_where_the_size_proves_nothing_the_setting_decides(tmp_path: Path) -> None:
    for orientation, side, row in ((3, 8, (-1,)), (4, 8, (-1,)), (6, 6, (slice(None), -1))):
        source = turned(tmp_path, orientation, np.ones((6, side), np.uint8), side)
        assert read(source)[0].all()
        source = dataclasses.replace(source, exif_upright=True)
        assert read(source)[row].all() and source.sizes() == [(6, side)]


def test_a_size_that_never_fits_is_told_with_a_word_of_exif(tmp_path: Path) -> None:
    source = turned(tmp_path, 6, np.ones((5, 5), np.uint8))
    with pytest.raises(UserError, match=r"a\.png: the image is 8 x 6 .*EXIF orientation 6"):
        source[0]


def test_the_range_reaches_what_is_read(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    (tmp_path / "images" / "train" / "a.jpg").unlink()
    save(tmp_path / "images" / "train" / "a.png", np.full((6, 8), 4095, np.uint16))
    config = Config(
        model=ModelConfig(num_classes=2),
        data=DataConfig(source="folder"),
        machine=MachineConfig(root=str(tmp_path)),
    )
    for range, value in (((0, 4095), 255), (None, 15)):
        config = dataclasses.replace(config, task=TaskConfig(range=range))
        image, _ = read_record(open_split(config, "train"), 0)
        assert (image == value).all()  # type: ignore[comparison-overlap]


# ---- folders that are wrong: the message names it


def test_structure_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*missing"):
        open_two(tmp_path / "nowhere")
    make_folder(tmp_path, ["a", "b"])
    with pytest.raises(UserError, match="no split 'test'; there are train"):
        open_two(tmp_path, "test")
    with pytest.raises(UserError, match=r"names\.txt is missing.*num_classes"):
        open_folder(tmp_path, "train", data=DataConfig(source="folder", classes="names.txt"))
    with pytest.raises(UserError, match=r"flat folder.*train"):
        open_two(tmp_path, holdout=0.5)
    with pytest.raises(UserError, match=r"image_dir = images and .* are the same folder"):
        open_folder(tmp_path, "train", data=DataConfig(source="folder", mask_dir="images"))
    with pytest.raises(UserError, match="ignore_label = 256"):
        TaskConfig(ignore_label=256)
    (tmp_path / "masks" / "train" / "b.png").rename(tmp_path / "masks" / "train" / "b_mask.png")
    with pytest.raises(UserError, match=r"1 of 2 files have no mask.*images.*b\.jpg"):
        open_two(tmp_path)
    (tmp_path / "images" / "train" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 files have no image.*b_mask\.png"):
        open_two(tmp_path)
    save(tmp_path / "images" / "train" / "a.png", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png have the same name"):
        open_two(tmp_path)
    latin = tmp_path / "images" / "latin" / os.fsdecode("caf\u00e9.png".encode("latin-1"))
    save(latin, np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"latin/caf\\udce9\.png: the name is not in UTF-8"):
        open_two(tmp_path, "latin")
    (tmp_path / "images" / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no images"):
        open_two(tmp_path, "empty")


def test_flat_folder_errors(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"], "")
    with pytest.raises(UserError, match=r"holdout=0.1"):
        open_two(tmp_path)
    with pytest.raises(UserError, match=r"holdout = 1.5 .*from 0 up to below 1"):
        open_two(tmp_path, holdout=1.5)
    with pytest.raises(UserError, match="leaves no image"):
        open_two(tmp_path, "val", 0.001)
