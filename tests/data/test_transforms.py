"""Crops: right sizes, image and mask together, nothing invented."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax.data.transforms import (
    Crop,
    central_crop,
    cut,
    fit_size,
    inception_crop,
    pad,
    random_crop,
    random_scale,
)

sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


@settings(max_examples=60, deadline=None)
@given(
    sizes, st.floats(0.3, 2.5), st.tuples(st.integers(1, 50), st.integers(1, 50)), st.integers(0)
)
def test_a_crop_has_its_size_and_only_labels_that_exist(
    size: tuple[int, int], scale: float, crop_size: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, size).astype(np.uint8)
    crop = random_crop(rng, size, scale, crop_size)
    out = cut(label, crop, crop_size, 255, smooth=False)
    assert out.shape == crop_size
    assert set(np.unique(out)) <= {*np.unique(label).tolist(), 255}
    inside = out[: crop.scaled[0] - crop.offset[0], : crop.scaled[1] - crop.offset[1]]
    assert (inside != 255).all()


@settings(max_examples=40, deadline=None)
@given(sizes, st.floats(0.5, 2.0), st.integers(0))
def test_image_and_mask_stay_aligned(size: tuple[int, int], scale: float, seed: int) -> None:
    """An image painted from its mask still agrees with it wherever its pixels are not blends."""
    rng = np.random.default_rng(seed)
    label = np.zeros(size, np.uint8)
    label[:, size[1] // 2 :] = 1
    image = np.repeat((label * 200)[:, :, None], 3, 2).astype(np.uint8)
    crop = random_crop(rng, size, scale, (24, 24))
    cut_label = cut(label, crop, (24, 24), 255, smooth=False)
    cut_image = cut(image, crop, (24, 24), 127, smooth=True)[:, :, 0]
    assert (cut_label[cut_image == 200] == 1).all()
    assert (cut_label[cut_image == 0] == 0).all()


@settings(max_examples=60, deadline=None)
@given(sizes, st.tuples(st.integers(1, 50), st.integers(1, 50)), st.integers(0))
def test_an_inception_crop_is_a_window_of_the_image(
    size: tuple[int, int], crop_size: tuple[int, int], seed: int
) -> None:
    crop = inception_crop(np.random.default_rng(seed), size, crop_size)
    for scaled, offset, n in zip(crop.scaled, crop.offset, crop_size, strict=True):
        assert offset >= 0 and offset + n <= scaled  # the image fills it: nothing is padded
    image = np.full((*size, 3), 1, np.uint8)
    assert (cut(image, crop, crop_size, 127, smooth=True) == 1).all()


def test_inception_crops_have_their_areas_and_aspects() -> None:
    """Of a square image of 1000: 8 to 100 % of the area, width / height 3/4 to 4/3."""
    rng, areas, aspects = np.random.default_rng(0), [], []
    for _ in range(500):
        scaled, _ = inception_crop(rng, (1000, 1000), (299, 299))
        areas.append(299 / scaled[0] * 299 / scaled[1])
        aspects.append(scaled[0] / scaled[1])
    assert 0.079 < min(areas) < 0.12 and 0.95 < max(areas) <= 1
    assert 0.745 < min(aspects) < 0.8 and 1.25 < max(aspects) < 1.34


def test_the_central_crop_is_seven_eighths() -> None:
    assert central_crop((224, 280)) == Crop((256, 320), (16, 20))


def test_unscaled_crop_is_a_slice() -> None:
    image = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    out = cut(image, Crop((10, 12), (2, 3)), (5, 6), 127, smooth=True)
    np.testing.assert_array_equal(out, image[2:7, 3:9])


def test_padding_is_bottom_right() -> None:
    out = pad(np.ones((2, 3), np.uint8), (4, 5), 9)
    assert out[:2, :3].all() and (out[2:] == 9).all() and (out[:, 3:] == 9).all()
    rgb = pad(np.ones((2, 3, 3), np.uint8), (4, 5), (7, 8, 9))
    assert rgb[:2, :3].all() and (rgb[2:] == (7, 8, 9)).all() and (rgb[:, 3:] == (7, 8, 9)).all()


def test_scales_are_the_seven_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    seen = {random_scale(rng, 0.5, 2.0, 0.25) for _ in range(500)}
    assert sorted(seen) == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]


@given(sizes, sizes)
def test_fit_touches_the_box_and_never_leaves_it(
    size: tuple[int, int], box: tuple[int, int]
) -> None:
    h, w = fit_size(size, box)
    assert 1 <= h <= box[0] and 1 <= w <= box[1]
    assert h >= box[0] - 1 or w >= box[1] - 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_every_channel_is_resampled_alike(channels: int) -> None:
    """Pillow would weigh four by the last; and RGB must stay what it was, bit by bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, channels)).astype(np.uint8)
    crop, size = Crop((67, 91), (5, 11)), (48, 64)
    out = cut(pixels, crop, size, 9, smooth=True)
    for i in range(channels):
        np.testing.assert_array_equal(
            out[..., i], cut(np.ascontiguousarray(pixels[..., i]), crop, size, 9, smooth=True)
        )
    if channels == 3:
        fy, fx = 40 / 67, 60 / 91
        box = (11 * fx, 5 * fy, (11 + 64) * fx, (5 + 48) * fy)
        as_before = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BILINEAR, box=box)
        np.testing.assert_array_equal(out, np.asarray(as_before))
