"""TIFFs beyond Pillow: every layout gives the same values, and what is hostile ends in words."""

import importlib.util
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax.data import tiff
from deeplab_jax.data.decode import (
    Unreadable,
    decode_image,
    examine_image,
    ignored_pixels,
    image_size,
)
from deeplab_jax.data.pixels import Reading
from deeplab_jax.data.raster import open_raster
from deeplab_jax.errors import UserError

RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 4096, (45, 70, 4)).astype(np.uint16)
FOUR = Reading(4, (0, 4095))
AS_BYTES = (BANDS.astype(int) * 255 // 4095).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly anything."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", size), (b"IDAT", zlib.compress(b"\0"))):
        check = struct.pack(">I", zlib.crc32(kind + body))
        out += struct.pack(">I", len(body)) + kind + body + check
    return out


def encode(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    options = {"photometric": "minisblack", "planarconfig": "contig", **options}
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


LAYOUTS = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 32)},
    "deflate": {"compression": "zlib", "rowsperstrip": 7},
    "deflate, predictor": {"compression": "zlib", "predictor": 2, "tile": (16, 16)},
    "big endian": {"byteorder": ">", "tile": (16, 16)},
    "big endian, predictor": {"byteorder": ">", "compression": "zlib", "predictor": 2},
    "BigTIFF": {"bigtiff": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("planar", [False, True])
def test_every_layout_is_read_whole_and_by_windows(
    layout: str, planar: bool, tmp_path: Path
) -> None:
    values = BANDS.transpose(2, 0, 1) if planar else BANDS
    planarconfig = "separate" if planar else "contig"
    data = encode(values, planarconfig=planarconfig, **LAYOUTS[layout])
    np.testing.assert_array_equal(decode_image(data, "a.tif", reading=FOUR), AS_BYTES)
    assert image_size(data, "a.tif") == (45, 70)
    file = tmp_path / "a.tif"
    file.write_bytes(data)
    with open_raster(file, FOUR) as raster:
        assert (raster.size, raster.channels) == ((45, 70), 4)
        for top, left, h, w in ((0, 0, 45, 70), (13, 5, 20, 40), (44, 69, 1, 1), (0, 60, 17, 10)):
            window = raster.read(top, left, h, w)
            np.testing.assert_array_equal(window, AS_BYTES[top : top + h, left : left + w])


@pytest.mark.parametrize("predictor", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_are_read_with_every_predictor(predictor: int, order: str) -> None:
    if predictor != 1:
        pytest.importorskip("imagecodecs", reason="tifffile needs it to write predictors of floats")
    values = RNG.random((20, 30, 5), np.float32)
    data = encode(values, compression="zlib", predictor=predictor, byteorder=order, tile=(16, 16))
    image = decode_image(data, "a.tif", reading=Reading(5, (0, 1)))
    np.testing.assert_array_equal(image, np.rint(values.astype(np.float64) * 255))
    with pytest.raises(UserError, match=r"a\.tif: a floating-point image .*--task\.range 0 1"):
        decode_image(data, "a.tif", reading=Reading(5))


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits"])
def test_other_packings_are_read_or_name_the_package(compression: str) -> None:
    pytest.importorskip("imagecodecs")
    data = encode(BANDS, compression=compression, tile=(16, 16))
    np.testing.assert_array_equal(decode_image(data, "a.tif", reading=FOUR), AS_BYTES)


def test_a_missing_package_is_named() -> None:
    buffer = io.BytesIO()
    Image.fromarray(AS_BYTES).save(buffer, "TIFF", compression="tiff_lzw")
    extra = struct.pack("<HHI", 338, 3, 1)  # the tag that makes the fourth an alpha channel
    data = buffer.getvalue().replace(extra + b"\2", extra + b"\0")
    if importlib.util.find_spec("imagecodecs"):
        np.testing.assert_array_equal(decode_image(data, "a.tif", reading=Reading(4)), AS_BYTES)
        return
    with pytest.raises(UserError, match=r"a\.tif: .*LZW.*pip install imagecodecs"):
        decode_image(data, "a.tif", reading=Reading(4))


def test_pillow_would_lose_something() -> None:
    rgb16 = BANDS[..., :3] * 16
    data = encode(rgb16, photometric="rgb")
    image = decode_image(data, "a.tif", reading=Reading(3, (0, 4095 * 16)))
    np.testing.assert_array_equal(image, AS_BYTES[..., :3])  # 8 bits of 12, not 4
    infrared = encode(AS_BYTES, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(UserError, match=r"a\.tif: the image has 4 channels.*--model.channels=4"):
        decode_image(infrared, "a.tif")
    np.testing.assert_array_equal(decode_image(infrared, "a.tif", reading=Reading(4)), AS_BYTES)
    planar = encode(
        AS_BYTES[..., :3].transpose(2, 0, 1), photometric="rgb", planarconfig="separate"
    )
    np.testing.assert_array_equal(decode_image(planar, "a.tif"), AS_BYTES[..., :3])


def test_an_alpha_channel_of_a_deep_tiff_is_dropped_unless_asked_for() -> None:
    data = encode(BANDS, photometric="rgb", extrasamples=["unassalpha"])
    three = decode_image(data, "a.tif", reading=Reading(3, (0, 4095)))
    np.testing.assert_array_equal(three, AS_BYTES[..., :3])
    np.testing.assert_array_equal(decode_image(data, "a.tif", reading=FOUR), AS_BYTES)


def test_pages_are_channels_only_where_so_many_are_wanted() -> None:
    data = encode(AS_BYTES.transpose(2, 0, 1), planarconfig=None)  # four pages of one channel
    np.testing.assert_array_equal(decode_image(data, "a.tif", reading=Reading(4)), AS_BYTES)
    assert examine_image(data, "a.tif", Reading(4)).frames == 1
    first = np.repeat(AS_BYTES[..., :1], 3, -1)
    np.testing.assert_array_equal(decode_image(data, "a.tif"), first)
    assert examine_image(data, "a.tif").frames == 4


# ---- what holds nothing


@pytest.mark.parametrize("channels", [1, 5])
def test_nodata_pixels_are_ignored(channels: int) -> None:
    values = RNG.integers(0, 100, (8, 9, channels)).astype(np.int16)
    values[2, 3] = -9999
    if channels > 1:
        values[4, 4, 0] = -9999  # one of several
    data = encode(values.squeeze(), extratags=[(42113, "s", 0, "-9999", True)])
    expected = np.zeros((8, 9), bool)
    expected[2, 3] = True
    np.testing.assert_array_equal(ignored_pixels(data, "a.tif"), expected)
    assert ignored_pixels(encode(values.squeeze()), "a.tif") is None


def test_nan_and_transparent_pixels_are_ignored() -> None:
    values = np.ones((8, 9), np.float32)
    values[1] = np.nan
    empty = ignored_pixels(encode(values), "a.tif")
    assert empty is not None and empty[1].all() and empty.sum() == 9
    rgba = AS_BYTES.copy()
    rgba[..., 3] = 255
    rgba[0, :5, 3] = 0
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    assert ignored_pixels(buffer.getvalue(), "a.png") is None
    hidden = ignored_pixels(buffer.getvalue(), "a.png", transparent=True)
    np.testing.assert_array_equal(hidden, rgba[..., 3] == 0)


# ---- rasters


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_windows_are_cut_out_of_what_decoding_gives(mode: str, suffix: str, tmp_path: Path) -> None:
    if suffix == "png" and mode in ("CMYK", "F"):
        return
    image = Image.fromarray(AS_BYTES[..., :3]).convert("RGB")
    deep = mode in ("I;16", "F")
    image = Image.fromarray(BANDS[..., 0]) if mode == "I;16" else image.convert(mode)
    file = tmp_path / f"a.{suffix}"
    image.save(file)
    reading = Reading(3, (0, 4095)) if deep else Reading()
    whole = decode_image(file.read_bytes(), "a", reading=reading)
    with open_raster(file, reading) as raster:
        np.testing.assert_array_equal(raster.read(3, 4, 20, 30), whole[3:23, 4:34])


def test_what_is_too_large_to_be_decoded_whole_is_sent_back(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(png_header(9000, 9000))
    advice = r"large\.png.*megapixels.*tiled.*gdal_translate"
    with pytest.raises(UserError, match=advice), open_raster(file):
        pass


# ---- files from strangers


def test_a_strip_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bomb.tif"
    file.write_bytes(
        encode(np.zeros((2000, 2000, 5), np.uint8), compression="zlib", rowsperstrip=2000)
    )
    monkeypatch.setattr(tiff, "SEGMENT_BYTES", 2**20)
    with (
        pytest.raises(UserError, match=r"bomb\.tif: .*at most 1 are read; .*TILED=YES"),
        open_raster(file, Reading(5)),
    ):
        pass


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=6), st.sampled_from([*LAYOUTS]))
def test_damaged_files_are_a_users_error_or_decode(at: int, noise: bytes, layout: str) -> None:
    data = encode(BANDS, **LAYOUTS[layout])
    at %= min(len(data), 600)  # where the tags are
    damaged = data[:at] + noise + data[at + len(noise) :]
    try:
        assert decode_image(damaged, "x", reading=FOUR).dtype == np.uint8
        ignored_pixels(damaged, "x")
    except UserError as error:
        assert str(error).startswith("x: ")


def test_a_truncated_file_is_unreadable() -> None:
    for layout in LAYOUTS.values():
        data = encode(BANDS, **layout)
        with pytest.raises(Unreadable, match=r"^x: "):
            decode_image(data[: len(data) - 500], "x", reading=FOUR)
