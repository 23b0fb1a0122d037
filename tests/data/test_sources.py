"""Sources: pairs are found, in order and completely; what is wrong is said in words."""

import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax.data import cityscapes, sources, voc
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.sources import (
    FolderSource,
    check_pair,
    check_source,
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
    (tmp_path / "masks" / "train" / "notes.txt").write_text("not a picture")
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


def test_holdout_splits_a_flat_folder_and_new_pictures_move_none(tmp_path: Path) -> None:
    make_folder(tmp_path, [f"img_{i:03}" for i in range(40)], "")
    before = {split: ids_of(open_two(tmp_path, split, 0.25)) for split in ("train", "val")}
    assert len(before["train"]) + len(before["val"]) == 40 and 4 <= len(before["val"]) <= 16
    make_folder(tmp_path, [f"new_{i}" for i in range(10)], "")
    for split, ids in before.items():
        assert [i for i in ids_of(open_two(tmp_path, split, 0.25)) if i[0] == "i"] == ids


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


# ---- folders that are wrong: the message names it


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
    with pytest.raises(UserError, match="ignore_label is 256"):
        open_folder(str(tmp_path), "train", num_classes=2, ignore_label=256)
    (tmp_path / "masks" / "train" / "b.png").rename(tmp_path / "masks" / "train" / "b_mask.png")
    with pytest.raises(UserError, match=r"1 of 2 files have no mask.*images.*b\.jpg"):
        open_two(tmp_path)
    (tmp_path / "images" / "train" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 files have no picture.*b_mask\.png"):
        open_two(tmp_path)
    save(tmp_path / "images" / "train" / "a.png", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png have the same name"):
        open_two(tmp_path)
    latin = tmp_path / "images" / "latin" / os.fsdecode("caf\u00e9.png".encode("latin-1"))
    save(latin, np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"latin/caf\\udce9\.png: the name is not in UTF-8"):
        open_two(tmp_path, "latin")
    (tmp_path / "images" / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no pictures"):
        open_two(tmp_path, "empty")


def test_flat_folder_errors(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"], "")
    with pytest.raises(UserError, match=r"holdout=0.1"):
        open_two(tmp_path)
    with pytest.raises(UserError, match="between 0 and 1"):
        open_two(tmp_path, holdout=1.5)
    with pytest.raises(UserError, match="leaves no picture"):
        open_two(tmp_path, "val", 0.001)


def test_a_bad_pair_is_named_by_the_check_and_when_reached(tmp_path: Path) -> None:
    make_folder(tmp_path, [f"{i:03}" for i in range(50)])
    save(tmp_path / "masks" / "train" / "049.png", np.zeros((6, 9), np.uint8))
    source = open_two(tmp_path)
    with pytest.raises(UserError, match=r"049\.png: the picture is 8 x 6 but its mask 9 x 6"):
        check_source(source)
    assert source[1]["id"] == "001"
    with pytest.raises(UserError, match=r"049\.png"):
        source[49]


def test_a_broken_picture_is_found_by_the_check(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b"])
    path = tmp_path / "images" / "train" / "b.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    save(path, noise)
    save(tmp_path / "masks" / "train" / "b.png", noise[..., 0] // 128)
    path.write_bytes(path.read_bytes()[:-500])  # the header is whole
    with pytest.raises(UserError, match=rf"{path}: not a readable picture"):
        check_source(open_two(tmp_path))


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
        pytest.skip(f"needs the pictures of CamVid in {CAMVID}")
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


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    code = "import sys, pickle; from deeplab_jax.data import sources, voc\n" + code
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
