"""The one decoder: what it accepts, what it refuses and whether the refusal helps."""

import errno
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax import files
from deeplab_jax.data.decode import (
    Header,
    Unreadable,
    decode_image,
    examine_image,
    image_size,
    read_file,
    read_orientation,
)
from deeplab_jax.data.masks import plain_code, read_mask
from deeplab_jax.data.pixels import Reading, describe_range
from deeplab_jax.errors import UserError

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
RGB_READING, TWELVE = Reading(), Reading(3, (0, 4095))
IDS = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)


def encode(image: Image.Image | np.ndarray, format: str = "PNG", **options: object) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def palette_png(ids: np.ndarray) -> bytes:
    image = Image.fromarray(ids).convert("P")
    image.putdata(ids.ravel().tolist())
    image.putpalette([255 - i // 3 for i in range(768)])
    return encode(image)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A part of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly anything."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0"))


def test_rgb_png_is_exact() -> None:
    np.testing.assert_array_equal(decode_image(encode(RGB), "a.png"), RGB)
    np.testing.assert_array_equal(decode_image(RGB, "an array"), RGB)


def test_gray_is_repeated_and_alpha_dropped() -> None:
    gray = decode_image(encode(IDS), "a.png")
    np.testing.assert_array_equal(gray, np.repeat(IDS[..., None], 3, axis=-1))
    rgba = np.concatenate([RGB, np.zeros((4, 6, 1), np.uint8)], axis=-1)
    np.testing.assert_array_equal(decode_image(encode(rgba), "a.png"), RGB)


def test_16_bits_are_scaled_not_clipped() -> None:
    deep = (IDS.astype(np.uint16) * 257) + 3
    np.testing.assert_array_equal(decode_image(encode(deep), "a.png")[..., 0], IDS)


def deep_rgb_png(rgb: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which PIL reads but does not write."""
    size = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in rgb.astype(">u2"))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(("dtype", "format"), [("u2", "PNG"), ("u2", "TIFF"), ("i4", "TIFF")])
def test_white_is_what_the_data_say(dtype: str, format: str) -> None:
    twelve = IDS.astype(dtype) * 178  # up to 4094
    data = encode(twelve, format)
    assert decode_image(data, "a").max() == 15  # of 65535, nearly black
    white = decode_image(data, "a", reading=TWELVE)[..., 0]
    np.testing.assert_array_equal(white, twelve.astype(int) * 255 // 4095)
    assert (
        decode_image(data, "a", reading=Reading(3, (0, 255)))[..., 0] == (twelve * 1.0).clip(0, 255)
    ).all()
    header = examine_image(data, "a")
    assert header.peak == 4094
    assert re.search(r"uses 6\.2 % .*--task\.range 0 4095", describe_range(4094, header.mode))
    assert describe_range(4094, header.mode, (0, 4095)) == describe_range(40940, "I;16") == ""
    np.testing.assert_array_equal(
        decode_image(encode(RGB), "a", reading=TWELVE), RGB
    )  # 8 bits are 8 bits


def test_white_that_the_file_names_is_used() -> None:
    body = struct.pack(">4H", 0, 1000, 2000, 4095)
    for reading in (RGB_READING, TWELVE):
        pgm = decode_image(b"P5 2 2 4095\n" + body, "a.pgm", reading=reading)
        np.testing.assert_allclose(pgm[..., 0].ravel(), [0, 62, 124, 255], atol=1)
    assert examine_image(b"P5 2 2 4095\n" + body, "a.pgm").peak is None
    assert examine_image(b"P5 2 2 65535\n" + body, "a.pgm").peak == 4095
    assert decode_image(b"P5 2 2 65535\n" + body, "a.pgm", reading=TWELVE).max() == 255


def test_of_deep_colour_the_upper_bits_are_read() -> None:
    rgb = RGB.astype(np.uint16)
    np.testing.assert_array_equal(decode_image(deep_rgb_png(rgb * 257), "a"), RGB)
    twelve = deep_rgb_png(rgb * 57)  # up to 4047
    assert examine_image(twelve, "a").peak == 15 * 257
    assert re.search("5.9 % .*black: save it with 8 bits", describe_range(15 * 257, "RGB"))
    with pytest.raises(UserError, match=r"a\.png: task\.range = \(0, 4095\) cannot be had.*8 bits"):
        decode_image(twelve, "a.png", reading=TWELVE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_gives_three_channels(mode: str) -> None:
    image = decode_image(encode(Image.fromarray(RGB).convert(mode)), "a.png")
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8


def test_transparent_palette_and_cmyk() -> None:
    data = encode(Image.fromarray(RGB).convert("P"), transparency=b"\x00\x80")
    assert decode_image(data, "a.png").shape == (4, 6, 3)
    white = Image.new("CMYK", (6, 4), (0, 0, 0, 0))
    assert (decode_image(encode(white, "JPEG"), "a.jpg") == 255).all()


def test_exif_orientation_only_on_request() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: to be shown turned by 90 degrees
    data = encode(RGB, exif=exif)
    np.testing.assert_array_equal(decode_image(data, "a.png"), RGB)
    np.testing.assert_array_equal(decode_image(data, "a.png", exif=True), np.rot90(RGB, -1))
    assert image_size(data, "a.png") == (4, 6)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_tiff_is_read_as_stored(orientation: int) -> None:
    """PIL turns a TIFF when it loads it, and no other format: the mask beside it is not turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data, png = (encode(RGB, format, exif=exif) for format in ("TIFF", "PNG"))
    np.testing.assert_array_equal(decode_image(data, "a.tif"), RGB)
    mask = read_mask(encode(IDS, "TIFF", exif=exif), "a.tif")
    np.testing.assert_array_equal(mask.values, IDS)
    assert image_size(data, "a.tif") == (4, 6)
    for file in (data, png):
        assert read_orientation(file, "a") == examine_image(file, "a").orientation == orientation
    shown = decode_image(data, "a.tif", exif=True)
    np.testing.assert_array_equal(shown, decode_image(png, "a.png", exif=True))


def test_odd_metadata_is_neither_an_error_nor_a_warning() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    data = encode(RGB, "TIFF", exif=exif)
    at = data.index(struct.pack("<HH", 0x010E, 2)) + 4
    damaged = data[:at] + struct.pack("<I", 2**31) + data[at + 4 :]  # its length
    np.testing.assert_array_equal(decode_image(damaged, "a.tif"), RGB)


def test_too_large_is_refused_by_its_header() -> None:
    for side in (9_000, 10_000, 60_000):  # above our limit, PIL's warning and PIL's error
        with pytest.raises(UserError, match=r"huge\.png.*64 megapixels"):
            decode_image(png_header(side, side), "huge.png")


def test_files_too_large_or_not_there_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(RGB))
    assert read_file(path) == encode(RGB)
    with path.open("r+b") as file:
        file.truncate(256 * 2**20 + 2**20)  # takes no space on disk
    with pytest.raises(UserError, match=r"a\.png: the file has 257 MB; at most 256 MB"):
        read_file(path)
    with pytest.raises(UserError, match=r"b\.png: the file cannot be read \(No such file"):
        read_file(tmp_path / "b.png")


def test_a_passing_fault_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, faults = tmp_path / "a.png", []
    path.write_bytes(encode(RGB))

    def fail(times: int, name: str) -> None:
        """Let the next calls of a method of Path meet a fault of the disk."""
        real = getattr(Path, name)
        faults.extend([name] * times)

        def method(self: Path, *arguments: object, **options: object) -> object:
            if faults:
                faults.pop()
                raise OSError(errno.EIO, "Input/output error")
            return real(self, *arguments, **options)

        monkeypatch.setattr(Path, name, method)

    monkeypatch.setattr(files, "PAUSES", (0, 0, 0))
    fail(3, "read_bytes")
    assert read_file(path) == encode(RGB) and not faults
    fail(9, "read_bytes")
    with pytest.raises(Unreadable, match=r"a\.png: the file cannot be read \(Input/output error\)"):
        read_file(path)
    assert len(faults) == 5  # tried four times
    with pytest.raises(Unreadable, match="No such file"):
        read_file(tmp_path / "none.png")
    assert len(faults) == 5  # the file is not there: not tried at all


def test_a_passing_fault_while_the_header_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tries = tmp_path / "a.png", []
    path.write_bytes(encode(RGB))
    real = Image.open

    def open_image(*arguments: object, **options: object) -> Image.Image:
        tries.append(1)
        if len(tries) < good_from:
            raise OSError(errno.EIO, "Input/output error")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(Image, "open", open_image)
    good_from = 3
    assert image_size(path, "a.png") == (4, 6)
    good_from = 99
    with pytest.raises(Unreadable, match=r"a\.png: the file cannot be read \(Input"):
        image_size(path, "a.png")


def test_what_is_unreadable_and_what_does_not_fit() -> None:
    """Training passes over the first and refuses the second, a matter of the whole data set."""
    for data in (b"", encode(RGB)[:50], png_header(9_000, 9_000), encode(RGB[:1])):
        with pytest.raises(Unreadable):
            decode_image(data, "a.png")
    with pytest.raises(UserError) as caught:
        plain_code(3).ids(read_mask(encode(RGB), "m.png"), "m.png")
    assert not isinstance(caught.value, Unreadable)


def test_images_a_pixel_wide_are_refused() -> None:
    with pytest.raises(UserError, match=r"a\.png: the image is 6 x 1; each side needs"):
        decode_image(encode(RGB[:1]), "a.png")
    assert decode_image(encode(RGB[:2, :2]), "a.png").shape == (2, 2, 3)


def test_headers() -> None:
    assert examine_image(encode(RGB), "a") == Header((4, 6), "PNG", "RGB")
    assert examine_image(RGB, "a") == Header((4, 6), "array", "RGB")
    frames = [Image.fromarray(np.roll(RGB, i)) for i in range(3)]
    animation = encode(frames[0], save_all=True, append_images=frames[1:])
    assert examine_image(animation, "a").frames == 3
    exif = Image.Exif()
    for tag, orientation in ((3, 3), (1, 1), (0, 1), (9, 1)):  # 0 and 9 mean nothing
        exif[0x0112] = tag
        assert examine_image(encode(RGB, "JPEG", exif=exif), "a").orientation == orientation


def test_unreadable_names_the_file() -> None:
    for data in (b"", b"<html>", encode(RGB)[:50], png_header(6, 4)):
        with pytest.raises(UserError, match=r"broken\.png"):
            decode_image(data, "broken.png")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=6), st.sampled_from(["PNG", "JPEG"]))
def test_damaged_files_are_a_users_error_or_decode(at: int, noise: bytes, format: str) -> None:
    data = encode(RGB, format)
    at %= len(data)
    damaged = data[:at] + noise + data[at + len(noise) :]
    try:
        assert decode_image(damaged, "x").dtype == np.uint8
    except UserError as error:
        assert str(error).startswith("x: ")


def test_sizes_are_read_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(palette_png(IDS))
    assert image_size(path, "mask.png") == (4, 6)


def test_too_little_memory_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", raising)
    with pytest.raises(MemoryError):
        decode_image(encode(RGB), "a.png")
