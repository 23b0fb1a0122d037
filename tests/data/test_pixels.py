"""Bytes from values of any type, and channels from channels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax.data.pixels import fit_channels, to_bytes
from deeplab_jax.errors import UserError

TYPES = ("u1", "i1", "<u2", ">u2", "i2", "u4", "i4", "f4", "f8")


@given(st.sampled_from(TYPES), st.integers(-200, 200), st.integers(1, 60000))
def test_a_range_goes_to_0_and_255_and_what_lies_beyond_is_clipped(
    dtype: str, low: int, width: int
) -> None:
    range = (float(low), float(low + width))
    values = np.linspace(-70000, 70000, 999)
    info = np.iinfo(dtype) if dtype[-2] in "ui" else np.finfo(dtype)
    values = values.clip(float(info.min), float(info.max)).astype(dtype)
    out = to_bytes(values.reshape(27, 37), range).ravel()
    assert out.dtype == np.uint8 and (np.diff(out.astype(int)) >= 0).all()
    exact = (values.astype(np.float64) - low) * 255 / width
    assert (abs(out - exact.clip(0, 255)) <= 1).all()


@given(st.integers(1, 65535))
def test_whole_numbers_are_rounded_down(white: int) -> None:
    values = np.arange(65536).astype(np.uint16)
    expected = (values.astype(np.int64).clip(0, white) * 255) // white
    np.testing.assert_array_equal(to_bytes(values, (0, white)), expected)
    np.testing.assert_array_equal(to_bytes(values.astype(np.int32), (0, white)), expected)


def test_what_is_no_number_is_0() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32)
    np.testing.assert_array_equal(to_bytes(values, (0, 1)), [0, 255, 0, 128])


def test_channels_are_fitted() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    gray, rgba = rgb[..., :1], np.concatenate([rgb, rgb[..., :1]], axis=-1)
    luminance = np.asarray(Image.fromarray(rgb).convert("L"))[..., None]
    for pixels, alpha, channels, expected in (
        (rgb, False, 3, rgb),
        (gray, False, 3, np.repeat(gray, 3, axis=-1)),
        (rgb, False, 1, luminance),
        (rgba, True, 3, rgb),
        (rgba, True, 4, rgba),
        (rgba, True, 1, luminance),
        (rgba, False, 4, rgba),
        (rgba[..., :2], True, 1, gray),
        (rgba[..., :2], True, 3, np.repeat(gray, 3, axis=-1)),
        (rgba[..., :2], False, 2, rgba[..., :2]),
    ):
        np.testing.assert_array_equal(fit_channels(pixels, alpha, channels, "x"), expected)
    for pixels, alpha, channels in ((rgba, False, 3), (rgb, False, 4), (gray, False, 2)):
        with pytest.raises(UserError, match=r"^x: the image has . channels"):
            fit_channels(pixels, alpha, channels, "x")
