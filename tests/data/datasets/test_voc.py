"""The VOC builder: palette masks arrive as ids, every list is a split, nothing stale is served."""

from pathlib import Path

import numpy as np
import pytest
from folders import open_voc
from PIL import Image

from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import voc
from deeplab_jax.data.decode import decode_image
from deeplab_jax.data.source import check_source
from deeplab_jax.errors import UserError

DEVKIT = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "VOCdevkit"


def save_palette(path: Path, ids: np.ndarray) -> None:
    image = Image.fromarray(ids).convert("P")
    image.putdata(ids.ravel().tolist())
    image.putpalette([channel for color in voc_colormap() for channel in color])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def make_augmented_devkit(root: Path) -> Path:
    """Three images; a and b in train, c in val; a has an original and an augmented mask."""
    folder = root / "VOC2012"
    (folder / voc.IMAGES).mkdir(parents=True)
    (folder / voc.LISTS).mkdir(parents=True)
    for i, id in enumerate("abc"):
        Image.new("RGB", (8, 6), (i, 9, 9)).save(folder / voc.IMAGES / f"{id}.jpg")
        ids = np.full((6, 8), i + 1, np.uint8)
        ids[0] = 255
        save_palette(folder / "SegmentationClass" / f"{id}.png", ids)
    (folder / "SegmentationClassAug").mkdir()
    Image.new("L", (8, 6), 20).save(folder / "SegmentationClassAug" / "a.png")
    (folder / voc.LISTS / "train.txt").write_text("a\nb\n\n")
    (folder / voc.LISTS / "val.txt").write_text("/JPEGImages/c.jpg /SegmentationClassAug/c.png\n")
    return root


def test_colormap_is_vocs() -> None:
    assert voc_colormap(5) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert voc_colormap()[20] == (0, 64, 128) and voc_colormap()[255] == (224, 224, 192)
    assert len(set(voc_colormap())) == 256 and len(voc.CLASS_NAMES) == 21


def test_masks_are_ids_and_the_augmented_ones_come_first(tmp_path: Path) -> None:
    devkit = make_augmented_devkit(tmp_path / "devkit")
    train = open_voc(devkit, "train", tmp_path / "tfds")
    examples = {train[i]["id"]: train[i] for i in range(len(train))}
    assert sorted(examples) == ["a", "b"]
    assert (examples["a"]["label"] == 20).all()
    assert set(np.unique(examples["b"]["label"])) == {2, 255}
    jpeg = (devkit / "VOC2012" / voc.IMAGES / "a.jpg").read_bytes()
    assert examples["a"]["image"] == jpeg
    val = open_voc(devkit / "VOC2012", "val", tmp_path / "tfds")
    assert [val[i]["id"] for i in range(len(val))] == ["c"] and val.sizes() == [(6, 8)]


def test_an_extended_list_is_not_served_from_what_was_prepared(tmp_path: Path) -> None:
    devkit = make_augmented_devkit(tmp_path / "devkit")
    assert len(open_voc(devkit, "train", tmp_path / "tfds")) == 2
    (devkit / "VOC2012" / voc.LISTS / "train.txt").write_text("a\nb\nc\n")
    assert len(open_voc(devkit, "train", tmp_path / "tfds")) == 3


def test_an_edited_mask_is_prepared_afresh(tmp_path: Path) -> None:
    devkit = make_augmented_devkit(tmp_path / "devkit")
    before = open_voc(devkit, "val", tmp_path / "tfds")
    assert set(np.unique(before[0]["label"])) == {3, 255}
    save_palette(devkit / "VOC2012" / "SegmentationClass" / "c.png", np.full((6, 8), 7, np.uint8))
    after = open_voc(devkit, "val", tmp_path / "tfds")
    assert (after[0]["label"] == 7).all() and after.fingerprint != before.fingerprint


def test_a_list_in_another_encoding(tmp_path: Path) -> None:
    devkit = make_augmented_devkit(tmp_path / "devkit")
    path = devkit / "VOC2012" / voc.LISTS / "train.txt"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text("a\r\nb\r\n", encoding=encoding)
        assert len(open_voc(devkit, "train", tmp_path / "tfds")) == 2
    path.write_bytes(b"a\nStra\xdfe\n")
    with pytest.raises(UserError, match=r"train\.txt:2: .*xdf.*UTF-8"):
        open_voc(devkit, "train", tmp_path / "tfds")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a VOC devkit"):
        open_voc(tmp_path, "train", tmp_path / "tfds")
    devkit = make_augmented_devkit(tmp_path / "devkit")
    with pytest.raises(UserError, match=r"'test'.*train, val"):
        open_voc(devkit, "test", tmp_path / "tfds")
    lists = devkit / "VOC2012" / voc.LISTS
    for text, message in (("z\n", r"z\.jpg is missing"), ("\n", "empty"), ("a\na\n", "more than")):
        (lists / "train.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            open_voc(devkit, "train", tmp_path / "tfds")
    (lists / "train.txt").write_text("b\n")
    (devkit / "VOC2012" / "SegmentationClass" / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png is in none of SegmentationClassAug and"):
        open_voc(devkit, "train", tmp_path / "tfds")


def test_a_colour_mask_is_named_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    devkit = make_augmented_devkit(tmp_path / "devkit")
    mask = devkit / "VOC2012" / "SegmentationClass" / "b.png"
    Image.new("RGB", (8, 6), (128, 0, 0)).save(mask)
    with pytest.raises(UserError, match=r"b\.png.*colour"):
        open_voc(devkit, "train", tmp_path / "tfds")
    save_palette(mask, np.full((6, 8), 2, np.uint8))
    assert len(open_voc(devkit, "train", tmp_path / "tfds")) == 2


def test_the_real_devkit(tmp_path: Path) -> None:
    if not DEVKIT.is_dir():
        pytest.skip(f"needs the images of PASCAL VOC in {DEVKIT}")
    val = open_voc(DEVKIT, "val", tmp_path)
    assert len(val) == 231 and max(val.sizes()) <= (500, 500)
    check_source(val)
    assert decode_image(val[0]["image"], "0").shape[:2] == val[0]["label"].shape
