"""Sources: pairs are found, in order and completely; what is wrong is said in words."""

import dataclasses
import errno
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax import DataConfig, ModelConfig, files
from deeplab_jax.data import sources
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import cityscapes, voc
from deeplab_jax.data.decode import Unreadable
from deeplab_jax.data.layout import near_misses
from deeplab_jax.data.pipeline import open_split, read_record
from deeplab_jax.data.sources import (
    FolderSource,
    check_pair,
    check_source,
    image_of,
    match_classes,
    open_folder,
    open_source,
    open_tfds,
    read_classes,
)
from deeplab_jax.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
CAMVID = PROJECT.parent / "shared" / "data" / "camvid"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_folder(root: Path, ids: list[str], split: str = "train", value: int = 1) -> Path:
    for id in ids:
        label = np.zeros((6, 8), np.uint8)
        label[1:3] = value
        save(root / "images" / split / f"{id}.jpg", np.zeros((6, 8, 3), np.uint8))
        save(root / "masks" / split / f"{id}.png", label)
    return root


def make_devkit(root: Path, count: int = 3) -> Path:
    folder = root / "VOC2012"
    for i in range(count):
        save(folder / "JPEGImages" / f"p{i}.jpg", np.zeros((6, 8, 3), np.uint8))
        save(folder / "SegmentationClass" / f"p{i}.png", np.full((6, 8), i, np.uint8))
    (folder / voc.LISTS).mkdir(parents=True)
    (folder / voc.LISTS / "val.txt").write_text("".join(f"p{i}\n" for i in range(count)))
    return root


def open_two(root: Path, split: str = "train", holdout: float | None = None) -> FolderSource:
    return open_folder(str(root), split, num_classes=2, holdout=holdout)


def ids_of(source: FolderSource) -> list[str]:
    return [source[i]["id"] for i in range(len(source))]


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
    ade20k = partial(
        open_source,
        "folder",
        "training",
        root=str(tmp_path),
        num_classes=12,
        mask_dir="annotations",
    )
    source = ade20k(ignore_label=12)
    assert (source[0]["label"] == 12).all() and source.ignore_label == 12
    with pytest.raises(
        UserError, match=r"a\.png.*holds 12; allowed are the classes 0 to 11 and 25"
    ):
        ade20k()[0]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.text("abcxyz0189_", min_size=1, max_size=8), min_size=1), st.floats(0.01, 0.99))
def test_holding_out_is_a_partition_by_name_alone(names: set[str], holdout: float) -> None:
    for name in names:
        assert sources._held_out(name, holdout) <= sources._held_out(name, holdout + 0.005)
    assert not any(sources._held_out(name, 0.0) for name in names)
    assert all(sources._held_out(name, 1.0) for name in names)


def test_holdout_splits_a_flat_folder_and_new_images_move_none(tmp_path: Path) -> None:
    make_folder(tmp_path, [f"img_{i:03}" for i in range(40)], "")
    before = {split: ids_of(open_two(tmp_path, split, 0.25)) for split in ("train", "val")}
    assert len(before["train"]) + len(before["val"]) == 40 and 4 <= len(before["val"]) <= 16
    make_folder(tmp_path, [f"new_{i}" for i in range(10)], "")
    for split, ids in before.items():
        assert [i for i in ids_of(open_two(tmp_path, split, 0.25)) if i[0] == "i"] == ids


@pytest.mark.parametrize("form", ["IMG_{:04}", "frame_{:06}", "{}", "p{:02}", "a/b/{:05}_left"])
def test_a_tenth_of_counted_names_is_held_out(form: str) -> None:
    held = sum(sources._held_out(form.format(i), 0.1) for i in range(1000))
    assert abs(held - 100) <= 3 * (1000 * 0.1 * 0.9) ** 0.5


def test_the_fingerprint_is_that_of_the_contents(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "a", ["x", "y"])
    (root / "classes.txt").write_text("sky\nroad\n")
    first = open_folder(str(root), "train").fingerprint
    assert re.fullmatch(r"2 pairs \(contents \w{8}\), 2 classes \(names \w{8}\)", first)
    shutil.copytree(root, tmp_path / "b", copy_function=shutil.copyfile)  # with other times
    assert open_folder(str(tmp_path / "b"), "train").fingerprint == first
    os.utime(root / "masks" / "train" / "x.png", (0, 0))
    assert open_folder(str(root), "train").fingerprint == first
    found = {first, open_folder(str(root), "train", ignore_label=1).fingerprint}
    (root / "classes.txt").write_text("road\nsky\n")
    found.add(open_folder(str(root), "train").fingerprint)
    mask = root / "masks" / "train" / "x.png"
    data = bytearray(mask.read_bytes())
    data[-20] ^= 1  # as many bytes
    mask.write_bytes(data)
    found.add(open_folder(str(root), "train").fingerprint)
    image = root / "images" / "train" / "y.jpg"
    image.write_bytes(image.read_bytes() + b"more")
    found.add(open_folder(str(root), "train").fingerprint)
    assert len(found) == 5


def test_the_fingerprint_is_made_once_and_unreadable_masks_do_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_two(make_folder(tmp_path, ["x", "y"]))
    (tmp_path / "masks" / "train" / "x.png").unlink()
    first = source.fingerprint
    monkeypatch.setattr(sources, "_content", None)
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


# ---- images turned by EXIF


def turned(root: Path, orientation: int, mask: np.ndarray, side: int = 8) -> FolderSource:
    """One image, 6 x `side` as stored, whose first row is white, and its mask."""
    image = np.zeros((6, side, 3), np.uint8)
    image[0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (root / "images" / "train").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / "images" / "train" / "a.png", exif=exif)
    save(root / "masks" / "train" / "a.png", mask)
    return open_two(root)


def read(source: FolderSource) -> np.ndarray:
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


def test_white_reaches_what_is_read(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    (tmp_path / "images" / "train" / "a.jpg").unlink()
    save(tmp_path / "images" / "train" / "a.png", np.full((6, 8), 4095, np.uint16))
    data = DataConfig(source="folder", root=str(tmp_path), white=4095)
    model = ModelConfig(num_classes=2)
    image, _ = read_record(open_split(data, "train", model), 0)
    assert (image == 255).all()  # type: ignore[comparison-overlap]
    image, _ = read_record(open_split(dataclasses.replace(data, white=None), "train", model), 0)
    assert (image == 15).all()  # type: ignore[comparison-overlap]


# ---- texts that people write


def test_class_files(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffsky\ntraffic light  #FF8000\nroad\n\n", encoding="utf-8")
    names, colors = read_classes(path)
    assert names == ("sky", "traffic light", "road")
    assert colors == ((0, 0, 0), (255, 128, 0), (0, 128, 0))
    for text, line in (("a\n\nb", 2), ("a\na", 2), ("a\nb #ff", 2), ("# classes\na\nb", 1)):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"classes\.txt:{line}:"):
            read_classes(path)
    path.write_text("one\n")
    with pytest.raises(UserError, match=r"lists one class, 'one'.*'background' on a line before"):
        open_folder(str(tmp_path), "train")


def test_class_files_in_other_encodings(tmp_path: Path) -> None:
    path, names = tmp_path / "classes.txt", ("Hintergrund", "Straße", "青")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        for end in ("\n", "\r\n", "\r"):
            path.write_bytes((end.join(names) + end).encode(encoding))
            assert read_classes(path)[0] == names
    for data, line, what in (
        ("background\nStraße\n".encode("cp1252"), 2, rb"\\xdf.*UTF-8".decode()),
        ("a\nb\n".encode("utf-16-le"), 1, "NUL.*UTF-8"),  # without its mark
        ("a\nb\n".encode("utf-32"), 1, "NUL.*UTF-8"),
        ("a\nb\n".encode("utf-16") + b"c", 3, "UTF-16"),
        (b"a\nb\n\0", 3, "NUL"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"classes\.txt:{line}: holds .*{what}"):
            read_classes(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0: background\n1: red", 1),
        ("0,background\n1,red", 1),
        ("0 background\n1 red", 1),
        ("1 red\n2 blue", 1),
        ("1. red\n2. blue", 1),
        ("0\tbackground\n1\tred", 1),
        ("background\n7: red", 2),
        ("background 0 0 0\nred 128 0 0", 1),
        ("background,0,0,0\nred,128,0,0", 1),
        ("background:0,0,0::\nred:128,0,0::", 1),
        ("# label:color_rgb:parts:actions\nred:128,0,0::", 2),
        ("background,red,blue", 1),
        ('["background", "red"]', 1),
        ("names:\n- background\n- red", 1),
        ('item {\n  id: 1\n  name: "red"\n}', 1),
        ("background,\nred,", 1),
        ("background;red\nblue", 1),
        ("background = 0\nred = 1", 1),
    ],
)
def test_class_files_of_other_tools_never_become_names(
    tmp_path: Path, text: str, line: int
) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"classes\.txt:{line}: .*name"):
        read_classes(path)


def test_odd_names_of_classes_remain_names(tmp_path: Path) -> None:
    names = ("2 wheeler", "4 wheeler", "building, edifice", "n01440764 tench", "T-shirt", "no. 5")
    names = (*names, "3d printer", "pole (group)", "object--car", "rock & roll", "Citroën 2CV")
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(names), encoding="utf-8")
    assert read_classes(path)[0] == names
    path.write_text("0\n1\n2\n")  # digits
    assert read_classes(path)[0] == ("0", "1", "2")


# ---- folders that are wrong: the message names it


@pytest.mark.parametrize(
    ("images", "masks", "advice"),
    [
        (["p01", "p02"], ["p01_mask", "p02_mask"], "p01_mask for p01: rename it, without '_mask'"),
        (["p01", "p02"], ["p01_L", "p02_L"], "without '_L'"),
        (["p01"], ["p01.jpg"], r"p01\.jpg for p01: .*without '\.jpg'"),  # p01.jpg.png
        (["p01", "p02"], ["mask_p01", "mask_p02"], "without 'mask_'"),
        (["img_1", "img_2"], ["gt_1", "gt_2"], "'gt' becoming 'img'"),
        (["a/x_im", "a/y_im"], ["a/x_gt", "a/y_gt"], "a/x_gt for a/x_im: .*'gt' becoming 'im'"),
        (["p1", "p2"], ["q7", "r8"], None),
        (["p05"], ["p07"], None),
    ],
)
def test_names_that_almost_fit(images: list[str], masks: list[str], advice: str | None) -> None:
    found = near_misses(images, masks)
    assert re.search(advice, found) if advice else found == ""


def test_near_misses_among_many_are_found_quickly() -> None:
    names = [f"photo_{i:05}" for i in range(20_000)]
    assert "20000 have one" in near_misses(names, [f"{name}_seg" for name in names])


def test_layouts_that_people_have_are_told(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "up" / split / kind).mkdir(parents=True)
    with pytest.raises(UserError, match=r"up/train, the other way round: .* to .*/images/train"):
        open_two(tmp_path / "up")
    (tmp_path / "roboflow" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"move its images to .*/images/train and its masks to"):
        open_two(tmp_path / "roboflow")
    make_devkit(tmp_path / "voc")
    with pytest.raises(UserError, match=r"JPEGImages.*--data.image_dir.*holdout.*source=voc2012"):
        open_two(tmp_path / "voc" / "VOC2012")
    (tmp_path / "other" / "img").mkdir(parents=True)
    (tmp_path / "other" / "gt").mkdir()
    with pytest.raises(UserError, match=r"There are gt, img: .*--data.image_dir"):
        open_two(tmp_path / "other")


def test_structure_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*missing"):
        open_two(tmp_path / "nowhere")
    make_folder(tmp_path, ["a", "b"])
    with pytest.raises(UserError, match="no split 'test'; there are train"):
        open_two(tmp_path, "test")
    with pytest.raises(UserError, match=r"classes\.txt is missing.*num_classes"):
        open_folder(str(tmp_path), "train")
    with pytest.raises(UserError, match=r"flat folder.*train"):
        open_two(tmp_path, holdout=0.5)
    with pytest.raises(UserError, match=r"image_dir = images and .* are the same folder"):
        open_folder(str(tmp_path), "train", num_classes=2, mask_dir="images")
    with pytest.raises(UserError, match="ignore_label is 256"):
        open_folder(str(tmp_path), "train", num_classes=2, ignore_label=256)
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
    with pytest.raises(UserError, match="between 0 and 1"):
        open_two(tmp_path, holdout=1.5)
    with pytest.raises(UserError, match="leaves no image"):
        open_two(tmp_path, "val", 0.001)


def test_a_bad_pair_is_named_by_the_check_and_when_reached(tmp_path: Path) -> None:
    make_folder(tmp_path, [f"{i:03}" for i in range(50)])
    save(tmp_path / "masks" / "train" / "049.png", np.zeros((6, 9), np.uint8))
    source = open_two(tmp_path)
    with pytest.raises(UserError, match=r"049\.png: the image is 8 x 6 but its mask 9 x 6"):
        check_source(source)
    assert source[1]["id"] == "001"
    with pytest.raises(UserError, match=r"049\.png"):
        source[49]


def break_images(root: Path, names: list[str]) -> None:
    for name in names:
        (root / "images" / "train" / f"{name}.jpg").write_bytes(b"<html>")


def test_unreadable_samples_are_borne_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path, ["a", "b", "c"])
    break_images(tmp_path, ["b"])
    source = open_two(tmp_path)
    assert source.sizes() == [(6, 8), None, (6, 8)]
    check_source(source, max_bad=1)
    assert capsys.readouterr().err.count("b.jpg: not a readable image") == 1
    with pytest.raises(UserError, match=r"1 of 3 samples .*max_bad_records = 0.*b\.jpg: not a"):
        check_source(source)
    break_images(tmp_path, ["a", "c"])
    with pytest.raises(UserError, match="3 of 3 samples cannot be read"):
        check_source(source, max_bad=10)


def test_what_does_not_fit_is_refused_whatever_may_be_unreadable(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b", "c"])
    save(tmp_path / "masks" / "train" / "b.png", np.full((6, 8), 7, np.uint8))
    with pytest.raises(UserError, match=r"b\.png: the mask holds 7"):
        check_source(open_two(tmp_path), max_bad=10)


def test_masks_without_a_label_are_refused(tmp_path: Path) -> None:
    ids = [f"{i:03}" for i in range(40)]
    make_folder(tmp_path, ids)
    for id in ids:
        save(tmp_path / "masks" / "train" / f"{id}.png", np.full((6, 8), 254, np.uint8))
    source = open_folder(str(tmp_path), "train", num_classes=2, ignore_label=254)
    with pytest.raises(UserError, match=r"every pixel of every mask is 254.*nothing can be learnt"):
        check_source(source)
    save(tmp_path / "masks" / "train" / "001.png", np.ones((6, 8), np.uint8))  # no sample
    check_source(source)


def test_binary_masks_saved_as_0_and_255(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b"], value=255)
    with pytest.raises(UserError, match=r"0/255.*mask // 255"):  # 255 is ignored, so it looks valid
        check_source(open_two(tmp_path))
    source = open_folder(str(tmp_path), "train", num_classes=2, ignore_label=254)
    with pytest.raises(UserError, match=r"(?s)holds 255; allowed.*all masks: .*check-data"):
        check_source(source)
    make_folder(tmp_path, ["c"])  # one real mask: 255 is what it says, pixels to ignore
    check_source(open_two(tmp_path), samples=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1), st.integers(2, 256), st.integers(0, 255))
def test_exactly_the_wrong_values_are_listed(values: list[int], classes: int, ignore: int) -> None:
    label = np.array([values], np.uint8)
    wrong = sorted({v for v in values if v >= classes and v != ignore})
    if not wrong:
        check_pair("m", label.shape, label, classes, ignore)
        return
    with pytest.raises(UserError) as caught:
        check_pair("m", label.shape, label, classes, ignore)
    assert f"holds {', '.join(map(str, wrong[:8]))}" in str(caught.value)


def test_camvid_is_right() -> None:
    if not CAMVID.is_dir():
        pytest.skip(f"needs the images of CamVid in {CAMVID}")
    train = open_source("folder", "train", root=str(CAMVID), ignore_label=11)
    assert len(train) == 367 and len(train.class_names) == 11
    check_source(train)
    with pytest.raises(UserError, match=r"(?s)holds 11; .*check-data"):
        check_source(open_source("folder", "train", root=str(CAMVID)))


# ---- TFDS


def test_kinds_and_roots() -> None:
    with pytest.raises(UserError, match="needs root"):
        open_source("voc2012", "val")
    with pytest.raises(UserError, match="'coco' is unknown; there are scenes, folder"):
        open_source("coco", "val", root=".")  # type: ignore[arg-type]


def test_cityscapes_tables() -> None:
    assert len(cityscapes.CLASS_NAMES) == len(set(cityscapes.COLORS)) == 19
    table = np.array(cityscapes.ID_TO_TRAIN_ID)
    assert table.shape == (256,) and sorted(set(table)) == [*range(19), 255]
    # cityscapesScripts, labels.py: road 7 -> 0, car 26 -> 13, bicycle 33 -> 18, caravan 29 ignored
    assert table[[7, 26, 33, 29, 0]].tolist() == [0, 13, 18, 255, 255]


def test_label_map_and_missing_features(tmp_path: Path) -> None:
    prepared = open_source(
        "voc2012", "val", root=str(make_devkit(tmp_path)), data_dir=str(tmp_path)
    )
    assert isinstance(prepared, sources.TfdsSource)
    only_one = tuple(1 if value == 2 else 255 for value in range(256))
    names = ("no", "yes")
    where = prepared.builder_dir
    mapped = open_tfds(where, "val[:2]", names, voc_colormap(2), label_map=only_one)
    assert len(mapped) == 2 and {int(mapped[i]["label"][0, 0]) for i in range(2)} <= {1, 255}
    with pytest.raises(UserError, match="no feature 'mask'; there are id, image, label"):
        open_tfds(where, "val", names, voc_colormap(2), label_key="mask")
    with pytest.raises(UserError, match="no split 'train'; there are val"):
        open_tfds(where, "train", names, voc_colormap(2))
    beyond = open_tfds(where, "val", names, voc_colormap(2))
    with pytest.raises(UserError, match="p2: the mask holds 2"):
        [beyond[i] for i in range(3)]


def test_a_passing_fault_of_a_record_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PAUSES", (0, 0, 0))
    source = open_source("voc2012", "val", root=str(make_devkit(tmp_path)), data_dir=str(tmp_path))
    assert "(" in source.fingerprint and "bytes" in source.fingerprint
    first, opened, left = source[0]["id"], sources._open_records, 2

    class Records:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __len__(self) -> int:
            return len(self.real)

        def __getitem__(self, index: int) -> Any:
            nonlocal left
            if left:
                left -= 1
                raise OSError(errno.EIO, "Input/output error")
            return self.real[index]

    def open_records(*arguments: Any) -> Records:
        return Records(opened(*arguments))

    open_records.cache_clear = opened.cache_clear  # type: ignore[attr-defined]
    monkeypatch.setattr(sources, "_open_records", open_records)
    assert source[0]["id"] == first and left == 0
    left = 99
    with pytest.raises(Unreadable, match=r"val\[0\]: the record cannot be read .*Input/output"):
        source[0]
    assert source.name(0) == "val[0]"
    left = 4
    assert source.sizes()[0] is None  # and the others are read
    assert source.sizes() == [(6, 8)] * 3


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    imports = ("import pickle, sys", "from deeplab_jax.data import sources")
    code = "\n".join([*imports, "from deeplab_jax.data.datasets import voc", code])
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


OPEN = "s = sources.open_source('voc2012', 'val', root=sys.argv[1], data_dir=sys.argv[2]); "


def test_two_processes_prepare_once_and_a_third_reads_the_pickle(tmp_path: Path) -> None:
    arguments = str(make_devkit(tmp_path / "devkit")), str(tmp_path / "tfds")
    both = [python(OPEN + "print(len(s), s[0]['id'])", *arguments) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("preparing" in output for output in outputs) == 1
    source = open_source("voc2012", "val", root=arguments[0], data_dir=arguments[1])
    first = source[0]["id"]  # opened here, and yet it can be pickled
    (tmp_path / "pickle").write_bytes(pickle.dumps(source))
    load = (
        "s = pickle.load(open(sys.argv[1], 'rb')); print(s[0]['id'], 'tensorflow' in sys.modules)"
    )
    assert python(load, str(tmp_path / "pickle")).communicate(timeout=60)[0] == f"{first} False\n"


def test_after_a_kill_while_preparing_the_next_start_works(tmp_path: Path) -> None:
    arguments = str(make_devkit(tmp_path / "devkit")), str(tmp_path / "tfds")
    # stdout is silenced while TFDS prepares
    say = "print('at it', flush=True, file=sys.__stdout__)"
    hang = f"import time; voc._mask_as_ids = lambda _: {say} or time.sleep(60)\n"
    process = python(hang + OPEN, *arguments)
    assert process.stdout is not None
    assert any("at it" in line for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list((tmp_path / "tfds").rglob("incomplete.*"))
    assert len(open_source("voc2012", "val", root=arguments[0], data_dir=arguments[1])) == 3
    assert not list((tmp_path / "tfds").rglob("incomplete.*"))


def test_ignored_pixels_stay_ignored_in_another_order(tmp_path: Path) -> None:
    """Also where the ignored id is a class id, here 0."""
    make_folder(tmp_path, ["a"])
    source = open_folder(str(tmp_path), "train", num_classes=3, ignore_label=0)
    names = ("class 2", "class 0", "class 1")
    mapped = match_classes(source, names, source.colors, "this network")
    old, new = source[0]["label"], mapped[0]["label"]
    np.testing.assert_array_equal(new, np.where(old == 1, 2, 255))
    assert mapped.ignore_label == 255 and mapped.class_names == names
    assert len(mapped) == 1 and mapped.sizes() == source.sizes()
    assert pickle.loads(pickle.dumps(mapped)).fingerprint != source.fingerprint


def test_a_folder_for_prepared_data_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.prepared_dir = .*file/scenes"):
        open_source("scenes", split="train", data_dir=str(tmp_path / "file"))


def test_prepared_data_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.0.0").mkdir()
    monkeypatch.setattr(sources, "_locked", None)
    builder = SimpleNamespace(data_dir=tmp_path / "1.0.0", name="x")
    assert sources.prepare(builder) == str(tmp_path / "1.0.0")  # type: ignore[arg-type]
