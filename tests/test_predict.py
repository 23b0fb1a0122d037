"""Prediction of any size, in batches, of files good and bad."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_MODEL
from PIL import Image
from synthetic import random_variables, square_picture

from deeplab_jax import Config, DataConfig, UserError
from deeplab_jax.predict import Predictor, find_pictures, predict_files
from deeplab_jax.weights.files import Weights

CLASSES = ("background", "red", "blue")
COLORS = ((0, 0, 0), (220, 60, 60), (60, 90, 220))


def predictor(data: DataConfig) -> Predictor:
    config = Config(model=TINY_MODEL, data=data)
    return Predictor(Weights(config, random_variables(TINY_MODEL), CLASSES, COLORS))


@pytest.fixture(scope="module")
def padding() -> Predictor:
    return predictor(DataConfig(eval_size=(65, 65)))


@pytest.fixture(scope="module")
def fitting() -> Predictor:
    return predictor(DataConfig(eval_size=(65, 65), resize="fit"))


@pytest.mark.parametrize("size", [(40, 56), (1, 1), (65, 65), (70, 20), (130, 97)])
def test_any_size(padding: Predictor, fitting: Predictor, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    for p in (padding, fitting):
        label = p.predict(image)
        assert label.shape == size and label.dtype == np.uint8 and label.max() < 3
        probabilities = p.predict(image, probabilities=True)
        assert probabilities.shape == (*size, 3)
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


def test_labels_are_the_most_likely_class(padding: Predictor) -> None:
    image, _ = square_picture(0)
    likely = padding.predict(image, probabilities=True).argmax(-1)
    np.testing.assert_array_equal(likely, padding.predict(image))


def test_a_batch_equals_one_by_one(fitting: Predictor) -> None:
    images = [square_picture(0)[0], square_picture(1)[0][:30, :20]]
    for one, batched in zip(images, fitting.predict_batch(images), strict=True):
        np.testing.assert_array_equal(fitting.predict(one), batched)


def test_wrong_arrays_are_refused(padding: Predictor) -> None:
    with pytest.raises(UserError, match=r"float64 \[4, 4, 3\]; allowed is uint8"):
        padding.predict(np.zeros((4, 4, 3)))


def test_files(padding: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two pictures of one name, one turned by EXIF, one broken, and a note."""
    image = Image.fromarray(square_picture(0)[0])
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    image.save(source / "a.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # rotate by 90 degrees
    image.save(source / "a.jpg", exif=turned)
    (source / "broken.png").write_bytes(b"nothing")
    (source / "note.txt").write_text("not a picture")
    lines = predict_files(padding, find_pictures(source), out)
    assert len(lines) == 3 and "broken.png" in lines[2] and lines[0].endswith("ms")
    assert sorted(p.name for p in out.iterdir()) == [
        "a.png",
        "a_2.png",
        "a_2_overlay.png",
        "a_overlay.png",
        "contact_sheet.png",
    ]
    with Image.open(out / "a.png") as upright, Image.open(out / "a_2.png") as index:
        assert upright.size == (40, 56)  # a.jpg
        np.testing.assert_array_equal(np.asarray(index), padding.predict(np.asarray(image)))


def test_nothing_to_predict(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        find_pictures(tmp_path / "none")
    with pytest.raises(UserError, match="holds no pictures"):
        find_pictures(tmp_path)


def test_input_size_is_what_the_network_was_trained_with(padding: Predictor) -> None:
    assert padding.input_size((20, 30)) == (65, 65)
    assert padding.input_size((66, 30)) == (81, 33)
    no_size = dataclasses.replace(padding.config, data=DataConfig())
    free = Predictor(Weights(no_size, padding._variables, CLASSES, COLORS))
    assert free.input_size((40, 56)) == (49, 65)
