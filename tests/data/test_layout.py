"""How a folder is laid out: splits that are found, near misses and other layouts that are told."""

import re
from pathlib import Path

import pytest
from folders import make_devkit, make_folder, open_two

from deeplab_jax.config import Config, load_config_file, override
from deeplab_jax.data.layout import near_misses, settings_for
from deeplab_jax.data.source import open_source
from deeplab_jax.errors import UserError


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


def settle_splits(root: Path, *folders: str, named: bool = False) -> Config:
    for name in folders:
        (root / "images" / name).mkdir(parents=True)
    return settings_for(load_config_file("folder"), root, named=named)


@pytest.mark.parametrize(
    ("train", "evaluation"),
    [
        ("train", "val"),
        ("train", "valid"),
        ("train", "validation"),
        ("train", "test"),
        ("training", "validation"),
    ],
)
def test_splits_are_found_by_their_folders(
    train: str, evaluation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settle_splits(tmp_path / "my_data", train, evaluation, "__MACOSX", ".cache")
    data, machine = config.data, config.machine
    assert (data.train_split, data.eval_split, data.holdout) == (train, evaluation, 0)
    assert (machine.root, machine.workdir) == (str(tmp_path / "my_data"), "runs/my_data")
    said = f"{tmp_path}/my_data/images: trains on {train}/, evaluates on {evaluation}/\n"
    assert capsys.readouterr().err == said


def test_val_comes_before_test(tmp_path: Path) -> None:
    assert settle_splits(tmp_path, "test", "train", "val").data.eval_split == "val"


def test_of_flat_images_a_tenth_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path, [f"p{i:02}" for i in range(30)], "")
    config = settle_splits(tmp_path, "@eaDir")
    assert config.data.holdout == 0.1
    assert re.fullmatch(r".*images has no splits: about 10% .*holdout.*\n", capsys.readouterr().err)
    config = override(config, ["--model.num_classes=2"])
    both = [
        open_source(config, split) for split in (config.data.train_split, config.data.eval_split)
    ]
    assert sum(map(len, both)) == 30 and 0 < len(both[1]) < 10


def test_what_is_not_understood_is_left_for_a_later_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_config_file("folder")
    for folders in ((), ("train",), ("berlin", "tokyo")):
        root = tmp_path / f"data{len(folders)}"
        assert settle_splits(root, *folders).data == base.data
    named = settle_splits(tmp_path / "named", "training", "validation", named=True)
    assert named.data == base.data and named.machine.root == str(tmp_path / "named")
    assert capsys.readouterr().err == ""
    config = override(settle_splits(tmp_path / "alone", "train"), ["--model.num_classes=2"])
    (tmp_path / "alone" / "masks" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no split 'val'; there are train \(--data.train_split"):
        open_source(config, "val")
