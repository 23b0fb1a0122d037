"""Folders: pairs are found, in order and completely; what is wrong is said in words."""

import dataclasses
import os
import pickle
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from annotated import make_images, write
from folders import ids_of, make_folder, open_two, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax import Config, DataConfig, MachineConfig, ModelConfig, TaskConfig
from deeplab_jax.data import folder
from deeplab_jax.data.batches import read_record
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.folder import open_folder
from deeplab_jax.data.layouts import Item
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
        data=DataConfig(source="folder", mask_dir="annotations", ignore_label=12),
        machine=MachineConfig(root=str(tmp_path)),
    )
    source = open_source(config, "training")
    assert (source[0]["label"] == 255).all() and source.ignore_label == 255
    with pytest.raises(UserError, match="the masks hold 12, and there are 12 classes"):
        open_source(dataclasses.replace(config, data=DataConfig(source="folder")), "training")


def items(names: Iterable[str]) -> dict[str, tuple[Item, ...]]:
    return {"": tuple(Item(name, Path(f"{name}.jpg"), None) for name in sorted(names))}


@settings(max_examples=40, deadline=None)
@given(st.sets(st.text("abcxyz0189_", min_size=1, max_size=8), min_size=2), st.floats(0.01, 0.99))
def test_holding_out_is_a_partition_as_large_as_it_says(names: set[str], share: float) -> None:
    splits, told = folder.hold_out(items(names), share)
    expected = max(1, round(share * len(names)))
    if expected == len(names):
        assert splits.keys() == {"train"} and not told
        return
    assert len(splits["val"]) == expected and f"{expected} of {len(names)}" in told[0]
    assert {i.id for split in splits.values() for i in split} == names
    assert folder.hold_out(items(names), share)[0] == splits


def test_copies_of_an_image_stay_on_one_side() -> None:
    names = {f"street{i // 3}_jpg.rf.{i:04x}" for i in range(60)}
    splits, _ = folder.hold_out(items(names), 0.2)
    sides = [{item.id.split("_")[0] for item in splits[s]} for s in ("train", "val")]
    assert not sides[0] & sides[1] and len(sides[1]) == 4


def test_val_comes_before_test_and_test_before_holding_out() -> None:
    one = items("ab")[""]
    found, _ = folder.hold_out({"train": one, "val": one[:1], "test": one[1:]}, 0.1)
    assert found["val"] == one[:1]
    found, told = folder.hold_out({"train": one, "test": one[1:]}, 0.1)
    assert found["val"] == one[1:] and "evaluates on test" in told[0]


def test_the_fingerprint_is_that_of_the_contents(tmp_path: Path) -> None:
    root, data = make_folder(tmp_path / "a", ["x", "y"]), DataConfig(source="folder", holdout=0.0)
    (root / "classes.txt").write_text("sky\nroad\n")
    first = open_folder(root, "train", data=data).fingerprint
    assert re.fullmatch(r"2 pairs \(contents \w{8}\), 2 classes \(names \w{8}\)", first)
    shutil.copytree(root, tmp_path / "b", copy_function=shutil.copyfile)  # with other times
    assert open_folder(tmp_path / "b", "train", data=data).fingerprint == first
    os.utime(root / "masks" / "train" / "x.png", (0, 0))
    assert open_folder(root, "train", data=data).fingerprint == first
    found = {
        first,
        open_folder(root, "train", data=dataclasses.replace(data, ignore_label=1)).fingerprint,
    }
    (root / "classes.txt").write_text("road\nsky\n")
    found.add(open_folder(root, "train", data=data).fingerprint)
    mask = root / "masks" / "train" / "x.png"
    content = bytearray(mask.read_bytes())
    content[-20] ^= 1  # as many bytes
    mask.write_bytes(content)
    found.add(open_folder(root, "train", data=data).fingerprint)
    image = root / "images" / "train" / "y.jpg"
    image.write_bytes(image.read_bytes() + b"more")
    found.add(open_folder(root, "train", data=data).fingerprint)
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
    assert capsys.readouterr().err.count(": 1 file passed over (1 .db)\n") == 1
    make_folder(tmp_path / "split", ["a"])
    (tmp_path / "split" / "images" / ".cache").mkdir()
    with pytest.raises(UserError, match=r"no split 'other'; there are train \(--data.train_split"):
        open_two(tmp_path / "split", "other")


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
    assert said.count("the masks hold 5 classes, named 'class 0' to 'class 4'") == 1
    save(tmp_path / "masks" / "val" / "c.png", label)  # edited in the same process
    assert len(open_folder(tmp_path, "val").class_names) == 4
    data = DataConfig(source="folder", ignore_label=3)
    save(tmp_path / "masks" / "train" / "a.png", np.where(label == 255, 0, label))
    save(tmp_path / "masks" / "val" / "c.png", np.where(label == 255, 0, label))
    assert len(open_folder(tmp_path, "train", data=data).class_names) == 2
    assert len(open_folder(tmp_path, "train", num_classes=7).class_names) == 7


def test_a_list_comes_before_the_masks(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"], value=1)
    (tmp_path / "classes.txt").write_text("sky\nroad\nwater\n")
    assert open_folder(tmp_path, "train").class_names == ("sky", "road", "water")


def test_where_no_mask_can_be_read_the_first_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    (tmp_path / "masks" / "train" / "a.png").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
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


def test_annotations_a_folder_deeper_and_their_lists(tmp_path: Path) -> None:
    """What is unpacked is often the only folder of another; lists divide annotated images too."""
    inside = tmp_path / "my export"
    make_images(inside, *(f"{name}.jpg" for name in "abc"))
    for name in "abc":
        shape = {"label": "cat", "points": [[1, 1], [5, 1], [5, 3]], "shape_type": "polygon"}
        sheet = {"imagePath": f"{name}.jpg", "imageHeight": 4, "imageWidth": 6, "shapes": [shape]}
        write(inside / f"{name}.json", sheet)
    (inside / "train.txt").write_text("c\na.jpg\n")
    (inside / "val.txt").write_text("b\n")
    assert [Path(id).name for id in ids_of(open_folder(tmp_path, "train"))] == ["c", "a"]
    assert [Path(id).name for id in ids_of(open_folder(tmp_path, "val"))] == ["b"]


def test_a_list_of_classes_may_lie_deeper(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b" / "c", ["p", "q"])
    (tmp_path / "a" / "b" / "c" / "classes.txt").write_text("sky\nroad\n")
    assert open_folder(tmp_path, "train").class_names == ("sky", "road")


def test_masks_of_one_value_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((6, 8, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", np.full((6, 8), 1, np.uint8))
    open_folder(tmp_path, "train")
    assert re.search(r"masks in .*masks are all of one value.*mask_dir", capsys.readouterr().err)


# ---- folders that are wrong: the message names it


def test_masks_of_two_habits_are_asked_about(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b"])
    make_folder(tmp_path, ["c"], value=255)
    source = open_two(tmp_path)
    assert re.search(r"0 and 255, such as .*c\.png.*label_map .*255=void", source.doubt)
    with pytest.raises(UserError, match="some masks hold 0 and 1"):
        check_source(source)
    told = DataConfig(source="folder", label_map=("0=sky", "1=road", "255=void"))
    assert open_folder(tmp_path, "train", data=told).doubt == ""
    make_folder(tmp_path, ["d"])
    both = np.array([[0, 1, 255, 0, 0, 0, 0, 0]] * 6, np.uint8)  # so 255 is no class
    save(tmp_path / "masks" / "train" / "d.png", both)
    assert open_two(tmp_path).doubt == ""


def test_structure_errors(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b"])
    with pytest.raises(UserError, match="no split 'test'; there are train"):
        open_two(tmp_path, "test")
    with pytest.raises(UserError, match=r"names\.txt is missing"):
        open_folder(tmp_path, "train", data=DataConfig(source="folder", classes="names.txt"))
    with pytest.raises(UserError, match="ignore_label = 65536"):
        DataConfig(source="folder", ignore_label=65536)
    with pytest.raises(UserError, match=r"holdout = 1.5 .*from 0 up to below 1"):
        open_two(tmp_path, holdout=1.5)
    with pytest.raises(UserError, match=r"data\.label_map = .*VALUE=NAME"):
        DataConfig(source="folder", label_map=("road",))
    latin = tmp_path / "images" / "train" / os.fsdecode("caf\u00e9.png".encode("latin-1"))
    save(latin, np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"train/caf\\udce9\.png: the name is not in UTF-8"):
        open_two(tmp_path)
