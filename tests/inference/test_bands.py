"""Images too large for memory: labels are those of the whole image, and memory is a band's."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_UNET
from PIL import Image
from synthetic import random_variables

from deeplab_jax import EvalConfig, ModelConfig, TaskConfig
from deeplab_jax.inference import bands
from deeplab_jax.inference.bands import Pixels, enlarge_bands, reduce_raster
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.weights.files import Weights


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    """Blots of random colours u8[h w 3]: neighbouring windows see different things."""
    small = np.random.default_rng(seed).integers(0, 255, (h // 6 + 1, w // 6 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))


def network(model: ModelConfig, protocol: EvalConfig, task: TaskConfig | None = None) -> Predictor:
    """Random weights, the bias of whose logits makes each class the likeliest somewhere."""
    weights = Weights(model, task or TaskConfig(), random_variables(model))
    p = Predictor(weights, EvalConfig()).predict(noise(97, 97, seed=1), probabilities=True)
    weights.variables["params"]["logits"]["bias"] = -np.median(np.log(p), axis=(0, 1))
    return Predictor(weights, protocol)


@pytest.mark.parametrize(
    "model, views",
    [
        (TINY_UNET, {}),
        (TINY_UNET, {"overlap": 0.7, "window": (65, 33)}),
        (TINY_MODEL, {"flip": True, "scales": (0.5, 1.25)}),
    ],
)
def test_labels_are_those_of_the_sliding_window_in_memory(
    model: ModelConfig, views: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For blocks of 7 rows, which begin and end anywhere among windows; sides of no round size."""
    image = noise(139, 170)
    predictor = network(model, EvalConfig(**{"window": (49, 65), **views}))
    monkeypatch.setattr(bands, "BLOCK", 7 * 177 * 3)
    rows = [*predictor.predict_bands(Pixels(image))]
    assert {len(part) for part in rows} == {7, 139 % 7}
    label, whole = np.concatenate(rows), predictor.predict(image)
    assert label.shape == whole.shape and len(np.unique(whole)) == 3
    assert np.mean(label != whole) < 1e-3  # ties that rounding decides


def test_an_image_is_read_a_band_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No read is higher than a window, and each row of windows is read once."""
    read: list[tuple[int, int]] = []

    class Counted(Pixels):
        def read(self, top: int, left: int, h: int, w: int) -> np.ndarray:
            read.append((top, h))
            return super().read(top, left, h, w)

    predictor = network(TINY_UNET, EvalConfig(window=(49, 49), overlap=0.3))
    assert sum(map(len, predictor.predict_bands(Counted(noise(200, 70))))) == 200
    assert max(h for _, h in read) <= 49 + 1
    assert all(a < b for (a, _), (b, _) in pairwise(read))


def test_where_images_are_scaled_to_fit_a_large_one_is_scaled_down() -> None:
    image = noise(301, 420)
    task = TaskConfig(eval_size=(65, 97), resize="fit")
    predictor = network(TINY_UNET, EvalConfig(window=(65, 65)), task)
    label = np.concatenate([*predictor.predict_bands(Pixels(image))])
    assert np.mean(label != predictor.predict(image)) < 0.01


@pytest.mark.parametrize("size", [(90, 131), (1, 7), (599, 800), (600, 800)])
def test_reducing_and_enlarging_are_pil_s(size: tuple[int, int]) -> None:
    image = noise(600, 800)
    whole = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    ours = reduce_raster(Pixels(image), size)
    assert np.abs(ours.astype(int) - np.asarray(whole)).max() <= 1
    label = image[: size[0], : size[1], 0]
    nearest = Image.fromarray(label).resize((803, 611), Image.Resampling.NEAREST)
    enlarged = np.concatenate([*enlarge_bands(label, (611, 803))])
    assert np.mean(enlarged != np.asarray(nearest)) < 0.01  # halves, which PIL rounds either way
