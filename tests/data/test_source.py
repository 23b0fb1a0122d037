"""Samples are tried before the work: what is bad is named, what is borne is counted."""

from pathlib import Path

import numpy as np
import pytest
from folders import make_folder, open_two, save

from deeplab_jax import DataConfig
from deeplab_jax.data.folder import open_folder
from deeplab_jax.data.source import check_source
from deeplab_jax.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
CAMVID = PROJECT.parent / "shared" / "data" / "camvid"


def test_a_bad_pair_is_named_by_the_check_and_when_reached(tmp_path: Path) -> None:
    make_folder(tmp_path, [f"{i:03}" for i in range(50)])
    save(tmp_path / "masks" / "train" / "049.png", np.zeros((6, 9), np.uint8))
    source = open_two(tmp_path)
    with pytest.raises(UserError, match=r"049\.jpg: the image is 8 x 6 but its labels 9 x 6"):
        check_source(source)
    assert source[1]["id"] == "001"
    with pytest.raises(UserError, match=r"049\.jpg"):
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
    source = open_two(tmp_path)
    save(tmp_path / "masks" / "train" / "b.png", np.full((6, 8), 7, np.uint8))
    with pytest.raises(UserError, match=r"b\.png: the mask holds 7"):
        check_source(source, max_bad=10)


def test_masks_without_a_label_are_refused(tmp_path: Path) -> None:
    ids = [f"{i:03}" for i in range(40)]
    make_folder(tmp_path, ids)
    for id in ids:
        save(tmp_path / "masks" / "train" / f"{id}.png", np.full((6, 8), 254, np.uint8))
    data = DataConfig(source="folder", ignore_label=254)
    source = open_folder(tmp_path, "train", data=data, num_classes=2)
    with pytest.raises(UserError, match=r"every pixel of every mask is ignored: nothing can be le"):
        check_source(source)
    save(tmp_path / "masks" / "train" / "001.png", np.ones((6, 8), np.uint8))  # no sample
    check_source(source)


def test_camvid_is_right() -> None:
    if not CAMVID.is_dir():
        pytest.skip(f"needs the images of CamVid in {CAMVID}")
    train = open_folder(CAMVID, "train")
    assert len(train) == 367 and len(train.class_names) == 11
    check_source(train)
