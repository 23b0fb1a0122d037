"""Images too large for memory: cut into tiles, of which image and labels are those of the whole."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from folders import save

from deeplab_jax.config import DataConfig
from deeplab_jax.data import tiles
from deeplab_jax.data.findings import check_split
from deeplab_jax.data.folder import open_folder
from deeplab_jax.data.source import Source, image_of
from deeplab_jax.errors import UserError

SIZE = (100, 150)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two "large" images and a small one."""
    monkeypatch.setattr(tiles, "MAX_PIXELS", 5000)
    monkeypatch.setattr(tiles, "TILE", 64)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        mask = rng.integers(0, 3, SIZE).astype(np.uint8)
        for kind, array in (("images", image), ("masks", mask)):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
            file = tmp_path / kind / "train" / f"{name}.tif"
            tifffile.imwrite(file, array, tile=(32, 32))
    save(tmp_path / "images" / "train" / "c.png", np.zeros((40, 60, 3), np.uint8))
    save(tmp_path / "masks" / "train" / "c.png", np.zeros((40, 60), np.uint8))
    return tmp_path


def open_train(root: Path) -> Source:
    return open_folder(root, "train", data=DataConfig(source="folder", holdout=0.0))


def test_tiles_are_the_image_and_its_mask(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_train(large)
    assert len(source) == 2 * 2 * 3 + 1 and source.class_names == ("class 0", "class 1", "class 2")
    assert "2 images of more than 64 megapixels are read as tiles" in capsys.readouterr().err
    image = tifffile.imread(large / "images" / "train" / "a.tif")
    mask = tifffile.imread(large / "masks" / "train" / "a.tif")
    found, labels = np.zeros_like(image), np.full(SIZE, 9, np.uint8)
    for i in range(6):
        example = source[i]
        top, left = map(int, example["id"].removeprefix("a@").split(","))
        h, w = example["label"].shape
        found[top : top + h, left : left + w] = image_of(example, "a")
        labels[top : top + h, left : left + w] = example["label"]
        assert source.sizes()[i] == (h, w)
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(labels, mask)
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint
    check = check_split(source, "train")
    assert not check.refused and check.pixels.sum() == 2 * mask.size + 40 * 60


def test_all_tiles_of_an_image_are_on_one_side(large: Path) -> None:
    data = DataConfig(source="folder", holdout=0.4)
    sides = [
        {example["id"].partition("@")[0] for example in map(source.__getitem__, range(len(source)))}
        for source in (open_folder(large, split, data=data) for split in ("train", "val"))
    ]
    assert sides[0] | sides[1] == {"a", "b", "c"} and not sides[0] & sides[1]


def test_a_mask_of_another_size_is_named(large: Path) -> None:
    file = large / "masks" / "train" / "a.tif"
    tifffile.imwrite(file, np.zeros((100, 149), np.uint8), tile=(32, 32))
    with pytest.raises(UserError, match=r"a\.tif: the image is 150 x 100 and its mask 149 x 100"):
        open_train(large)
