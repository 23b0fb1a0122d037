"""Prediction of any size, in batches, through windows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_MODEL
from PIL import Image
from synthetic import random_variables, square_image

from deeplab_jax import UserError, load
from deeplab_jax.cli import predict
from deeplab_jax.config import TaskConfig
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.weights.files import Weights, save_weights

CLASSES = ("background", "red", "blue")
COLORS = ((0, 0, 0), (220, 60, 60), (60, 90, 220))


def weights(**task: Any) -> Weights:
    """Random ones, of three classes."""
    settings = TaskConfig(classes=CLASSES, colors=COLORS, **task)
    return Weights(TINY_MODEL, settings, random_variables(TINY_MODEL))


@pytest.fixture(scope="module")
def padding() -> Predictor:
    return Predictor(weights(eval_size=(65, 65)))


@pytest.fixture(scope="module")
def fitting() -> Predictor:
    return Predictor(weights(eval_size=(65, 65), resize="fit"))


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
    image, _ = square_image(0)
    likely = padding.predict(image, probabilities=True).argmax(-1)
    np.testing.assert_array_equal(likely, padding.predict(image))


def test_devices_that_share_an_image_see_the_same(saved: Path, padding: Predictor) -> None:
    image, _ = square_image(0)
    for space in (1, 4):
        label = load(saved, space=space).predict(image)
        np.testing.assert_array_equal(label, padding.predict(image))
    with pytest.raises(UserError, match="16 cannot be made of 8 devices"):
        load(saved, space=16)


@pytest.mark.parametrize("task", [{}, {"eval_size": (65, 65), "resize": "fit"}])
def test_an_images_neighbours_do_not_change_its_prediction(task: dict[str, Any]) -> None:
    """Sizes of two inputs and of one, larger and smaller than what the network takes."""
    network = Predictor(weights(**task))
    images = [square_image(i)[0] for i in range(3)]
    images[1], images[2] = images[1][:30, :20], np.tile(images[2], (3, 2, 1))
    together = network.predict_batch(images, probabilities=True)
    for image, p in zip(images, together, strict=True):
        np.testing.assert_allclose(network.predict(image, probabilities=True), p, atol=1e-5)


def test_wrong_arrays_are_refused(padding: Predictor) -> None:
    with pytest.raises(UserError, match=r"float64 \[4, 4, 3\]; allowed is uint8"):
        padding.predict(np.zeros((4, 4, 3)))


def test_input_size_is_what_the_network_was_trained_with(padding: Predictor) -> None:
    assert padding.input_size((20, 30)) == (65, 65)
    assert padding.input_size((66, 30)) == (81, 33)
    assert Predictor(weights()).input_size((40, 56)) == (49, 65)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `padding` in a folder."""
    folder = tmp_path_factory.mktemp("weights")
    save_weights(folder, weights(eval_size=(65, 65)))
    return folder


def test_a_mirror_image_counts_as_much(saved: Path, padding: Predictor) -> None:
    image = np.random.default_rng(0).integers(0, 255, (65, 65, 3), dtype=np.uint8)
    once, mirrored = (padding.predict(i, probabilities=True) for i in (image, image[:, ::-1]))
    both = load(saved, flip=True).predict(image, probabilities=True)
    np.testing.assert_allclose(both, (once + mirrored[:, ::-1]) / 2, atol=1e-4)


def test_a_window_slides_over_a_large_image(saved: Path, padding: Predictor) -> None:
    """Its first corner, seen by one window alone, is as that window predicts it."""
    image = np.random.default_rng(0).integers(0, 255, (97, 129, 3), dtype=np.uint8)
    sliding = load(saved, window=(65, 65), overlap=0.25).predict(image, probabilities=True)
    assert sliding.shape == (97, 129, 3)
    alone = padding.predict(image[:65, :65], probabilities=True)
    np.testing.assert_allclose(sliding[:29, :45], alone[:29, :45], atol=1e-4)
    assert (
        np.abs(sliding[:29, 65:] - padding.predict(image, probabilities=True)[:29, 65:]).max() > 0
    )


def test_the_command_looks_as_it_is_told(saved: Path, tmp_path: Path) -> None:
    image, _ = square_image(0)
    Image.fromarray(image).save(tmp_path / "a.png")
    views = "--eval.scales 0.5 1 --eval.flip=True --eval.window 65 65"
    predict(f"{tmp_path / 'a.png'} --weights {saved} --out {tmp_path / 'out'} {views}".split())
    want = load(saved, scales=(0.5, 1), flip=True, window=(65, 65)).predict(image)
    with Image.open(tmp_path / "out" / "a.png") as index:
        np.testing.assert_array_equal(np.asarray(index), want)
