"""Channels and range are found in the images, kept with the weights, and used again."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import TINY_UNET
from PIL import Image
from synthetic import square_image, write_squares

import deeplab_jax
from deeplab_jax import AugmentConfig, Config, DataConfig, EvalConfig, MachineConfig, TrainConfig
from deeplab_jax.config import TaskConfig
from deeplab_jax.data.decode import decode_image
from deeplab_jax.data.images import Look, find_channels, find_range
from deeplab_jax.data.pixels import Reading, reading_of
from deeplab_jax.data.settle import open_split, settle
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.training.loop import fit, open_sources


def look(values: np.ndarray, channels: int = 1) -> Look:
    return Look("x", channels, values)


@pytest.mark.parametrize(
    ("largest", "dtype", "expected"),
    [
        (200, "u2", (0, 255)),
        (1000, "u2", (0, 1023)),
        (4000, "u2", (0, 4095)),
        (4000, "i4", (0, 4095)),
        (40000, "u2", (0, 65535)),
        (0.9, "f4", (0, 1)),
    ],
)
def test_the_range_of_a_sensor(largest: float, dtype: str, expected: tuple[float, float]) -> None:
    assert find_range([look(np.linspace(0, largest, 5000).astype(dtype))]) == expected


def test_ranges_that_no_sensor_has_are_percentiles() -> None:
    bright = np.linspace(0, 3000, 9999).astype(np.uint16)
    bright[0] = 60000  # one bright pixel
    low, high = find_range([look(bright)]) or (0, 0)
    assert 0 <= low < 10 and 2900 < high < 3010
    for values in (np.linspace(-1000, 2000, 9999).astype("i2"), np.linspace(-8.0, 30.0, 9999)):
        low, high = find_range([look(values)]) or (0, 0)
        least, most = float(values.min()), float(values.max())
        assert least <= low < high <= most and high - low > 0.99 * (most - least)
    assert find_range([look(np.full(9, 7.0))]) == (7, 8)
    assert find_range([]) is None
    assert find_range([look(np.ones(9)), look(np.ones(9, int))]) is None


def test_gray_among_rgb_is_rgb_and_a_stray_image_changes_nothing() -> None:
    for counts, expected in (
        ([1, 1], 1),
        ([1, 1, 3], 3),
        ([3], 3),
        ([4, 4, 3], 4),
        ([3, 3, 5], 3),
        ([], 3),
    ):
        assert find_channels([Look("x", n) for n in counts]) == expected


def write_scenes(root: Path, suffix: str) -> None:
    """Squares as images of four 16-bit bands, gray or float ones, or RGBA."""
    write_squares(root, {"train": 6, "val": 2})
    for i, file in enumerate(sorted((root / "images").rglob("*.png"))):
        rgb = square_image(i)[0]
        file.unlink()
        if suffix == "bands":
            bands = np.concatenate([rgb, 255 - rgb[..., :1]], -1).astype(np.uint16) * 16
            tifffile.imwrite(
                file.with_suffix(".tif"), bands, photometric="minisblack", planarconfig="contig"
            )
        elif suffix == "float":
            tifffile.imwrite(file.with_suffix(".tif"), rgb[..., 0].astype(np.float32) / 300)
        elif suffix == "gray":
            Image.fromarray(rgb[..., 0]).save(file)
        else:
            Image.fromarray(np.concatenate([rgb, rgb[..., :1]], -1)).save(file)


def tiny(root: Path, **model: int) -> Config:
    return Config(
        model=dataclasses.replace(TINY_UNET, num_classes=None, **model),
        data=DataConfig(source="folder", eval_split="val", crop_size=(33, 49)),
        augment=AugmentConfig(photometric=0.3),
        train=TrainConfig(steps=2, batch_size=8),
        eval=EvalConfig(batch_size=8, images=1),
        machine=MachineConfig(
            workdir=str(root / "run"), root=str(root), log_every=1, eval_every=2, checkpoint_every=2
        ),
    )


@pytest.mark.parametrize(
    ("kind", "asked", "channels", "range"),
    [
        ("bands", None, 4, (0, 4095)),
        ("float", None, 1, (0, 1)),
        ("gray", None, 1, None),
        ("rgba", None, 3, None),
        ("rgba", 4, 4, None),
        ("gray", 3, 3, None),
    ],
)
def test_what_is_found_settles_both_splits(
    tmp_path: Path,
    kind: str,
    asked: int | None,
    channels: int,
    range: tuple[float, float] | None,
) -> None:
    write_scenes(tmp_path, kind)
    config = tiny(tmp_path) if asked is None else tiny(tmp_path, channels=asked)
    settled, _, train, val = open_sources(config, device_mesh(config.mesh.shape))
    assert (settled.model.channels, settled.task.range) == (channels, range)
    assert train.reading == val.reading == Reading(channels, range)
    assert settle(settled, open_split(settled, "train")) == settled


def test_bands_of_16_bits_train_and_are_predicted_as_in_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path, "bands")
    fit(tiny(tmp_path))
    said = capsys.readouterr().err
    assert re.search(r"^channels +4 ", said, re.MULTILINE) and "nearly black" not in said
    assert re.search(r"^range +0 to 4095 ", said, re.MULTILINE)
    about = json.loads((tmp_path / "run" / "best" / "model.json").read_text())
    assert (about["model"]["channels"], about["task"]["range"]) == (4, [0, 4095])
    network = deeplab_jax.load(tmp_path / "run")
    reading = reading_of(network.model, network.task)
    file = next((tmp_path / "images" / "val").glob("*.tif"))
    image = decode_image(file.read_bytes(), file.name, reading=reading)
    assert network.predict(image).shape == image.shape[:2] == (40, 56)
    with pytest.raises(deeplab_jax.UserError, match=r"allowed is uint8 \[height, width, 4\]"):
        network.predict(image[..., :3])


def test_an_older_white_is_a_range() -> None:
    from deeplab_jax.config import override
    from deeplab_jax.config.formats import current

    old = {"format": 1, "model": {}, "task": {"white": 4095}}
    new = {"model": {"channels": 3}, "task": {"range": [0, 4095]}}
    assert current(old) == new
    assert current({"data": {"white": None}})["task"] == {"range": None}
    folder = Config(data=DataConfig(source="folder"), machine=MachineConfig(root="x"))
    for flags in (["--task.white=4095"], ["--data.white", "4095"], ["--task.range", "0", "4095"]):
        assert override(folder, flags).task == TaskConfig(range=(0, 4095))
    assert override(folder, ["--task.white=None"]) == folder
