"""Masks of every kind become class ids; what is not listed is refused, ignored or nearest."""

import struct
import zlib

import numpy as np
import pytest
from folders import encode, palette
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.masks import MaskCode, pack, plain_code, read_mask, unpack
from deeplab_jax.data.tiff import GDAL_NODATA
from deeplab_jax.errors import UserError

COLORS = np.array([(0, 0, 0), (250, 50, 83), (50, 183, 250)], np.uint8)
BY_COLOR = MaskCode(True, tuple((pack(tuple(c)), i) for i, c in enumerate(COLORS.tolist())))
IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def gray_png(rows: np.ndarray, bits: int) -> bytes:
    """A gray PNG of 2 or 4 bits, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    h, w = rows.shape
    lines = b""
    for row in rows:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        lines += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", w, h, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_ids_survive_every_lossless_way(h: int, w: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 200, (h, w)).astype(np.uint8)
    forms = [encode(ids), encode(ids.astype(np.uint16)), encode(ids.astype(np.int32), "TIFF")]
    forms += [encode(Image.fromarray(ids).convert(mode)) for mode in ("RGB", "RGBA", "LA")]
    forms += [encode(ids.astype(np.float32), "TIFF")]
    forms.append(encode(palette(ids, np.arange(768, dtype=np.uint8).reshape(256, 3))))
    for data in forms:
        np.testing.assert_array_equal(plain_code(200).ids(read_mask(data, "m"), "m"), ids)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_of_few_bits_is_divided_back(bits: int) -> None:
    values = np.array([[0, 1, 2, 3, 3]])
    np.testing.assert_array_equal(read_mask(gray_png(values, bits), "m").values, values)


@pytest.mark.parametrize("values", [[0, 255], [255, 255], [2, 0], [1, 1]])
def test_gray_of_a_gif_is_no_index(values: list[int]) -> None:
    """GIF has palettes alone, and Pillow leaves out what a file does not use."""
    data = encode(np.array([values], np.uint8), "GIF")
    assert plain_code(255).ids(read_mask(data, "m"), "m").tolist() == [values]


def test_one_bit_is_zeros_and_ones() -> None:
    mask = read_mask(encode(Image.fromarray(IDS > 1)), "m")
    np.testing.assert_array_equal(mask.values, (IDS > 1).astype(np.uint8))


def test_colours_and_palettes_are_looked_up() -> None:
    assert all(unpack(pack(tuple(c))) == tuple(c) for c in COLORS.tolist())
    order = np.array([2, 0, 1])  # as programs that number colours anew
    for image in (
        Image.fromarray(COLORS[IDS]),
        Image.fromarray(COLORS[IDS]).convert("RGBA"),
        palette(np.argsort(order)[IDS].astype(np.uint8), COLORS[order]),
    ):
        np.testing.assert_array_equal(BY_COLOR.ids(read_mask(encode(image), "m"), "m"), IDS)
    black = read_mask(encode(np.zeros((2, 3), np.uint8)), "m")  # a gray file among colours
    assert (BY_COLOR.ids(black, "m") == 0).all()


def test_what_is_not_listed() -> None:
    image = COLORS[IDS]
    image[0, 0] = (240, 60, 80)  # nearest to class 1
    mask = read_mask(encode(image), "m.png")
    with pytest.raises(UserError, match=r"m\.png: the mask holds #f03c50 \(1 pixels\); listed are"):
        BY_COLOR.ids(mask, "m.png")
    for edges, value in (("ignore", VOID), ("nearest", 1)):
        code = MaskCode(True, BY_COLOR.table, edges)  # type: ignore[arg-type]
        expected = IDS.copy()
        expected[0, 0] = value
        np.testing.assert_array_equal(code.ids(mask, "m.png"), expected)
    nothing = read_mask(encode(np.full((2, 3, 3), 99, np.uint8)), "m.png")
    blurred = np.clip(COLORS[IDS].astype(int) + 5, 0, 255).astype(np.uint8)  # all but exact
    code = MaskCode(True, BY_COLOR.table, "nearest")
    np.testing.assert_array_equal(code.ids(read_mask(encode(blurred), "m"), "m"), IDS)
    with pytest.raises(UserError, match=r"holds #636363 \(6 pixels\)"):  # no edge of anything
        MaskCode(True, BY_COLOR.table, "ignore").ids(nothing, "m.png")
    with pytest.raises(UserError, match=r"holds 7 \(1 pixels\); listed are 0, 1, 255"):
        plain_code(2).ids(read_mask(encode(np.array([[0, 7, 1]], np.uint8)), "m"), "m")


@given(st.lists(st.integers(0, 255), min_size=1), st.integers(2, 250))
def test_exactly_the_wrong_values_are_listed(values: list[int], classes: int) -> None:
    mask = read_mask(encode(np.array([values], np.uint8)), "m")
    wrong = {v for v in values if v >= classes and v != VOID}
    if not wrong:
        np.testing.assert_array_equal(plain_code(classes).ids(mask, "m"), [values])
        return
    with pytest.raises(UserError) as caught:
        plain_code(classes).ids(mask, "m")
    assert sum(f" {v} (" in str(caught.value) for v in wrong) == min(8, len(wrong))


def test_16_bits_and_nodata() -> None:
    values = np.array([[0, 7, 1000, 65535]], np.uint16)
    code = MaskCode(False, ((0, 0), (7, 1), (1000, 2), (65535, VOID)))
    np.testing.assert_array_equal(code.ids(read_mask(encode(values), "m"), "m"), [[0, 1, 2, VOID]])
    tags = ImageFileDirectory_v2()
    tags[GDAL_NODATA] = "0"
    mask = read_mask(encode(IDS, "TIFF", tiffinfo=tags), "m")
    code = MaskCode(False, ((1, 1), (2, 2)))
    np.testing.assert_array_equal(code.ids(mask, "m"), np.where(IDS == 0, VOID, IDS))
    np.testing.assert_array_equal(plain_code(3).ids(mask, "m"), IDS)  # a class, if it is listed


@pytest.mark.parametrize(("nodata", "dtype"), [("-9999", np.int16), ("nan", np.float32)])
def test_no_data_that_is_no_value_of_masks(nodata: str, dtype: type) -> None:
    values = np.array([[0, 1, float(nodata) if nodata == "nan" else -9999]])
    data = encode(values.astype(dtype), "TIFF", tiffinfo={GDAL_NODATA: nodata})
    assert plain_code(2).ids(read_mask(data, "m"), "m").tolist() == [[0, 1, VOID]]


def test_what_would_mislead_is_refused() -> None:
    with pytest.raises(UserError, match=r"m: a mask of float32 from 0\.0 to 0\.5"):
        read_mask(encode(np.array([[0, 0.5]], np.float32), "TIFF"), "m")
    with pytest.raises(UserError, match=r"m: a mask of int32 from -1"):
        read_mask(encode(np.array([[0, -1]], np.int32), "TIFF"), "m")
    assert read_mask(encode(IDS, "JPEG"), "m").lossy
    gray = np.repeat(IDS[..., None], 3, -1)
    assert read_mask(encode(gray, "WEBP", quality=50), "m").lossy
    assert not read_mask(encode(gray, "WEBP", lossless=True), "m").lossy
    assert read_mask(encode(np.repeat(gray, 8, 0), "TIFF", compression="jpeg"), "m").lossy
    drawn = np.dstack([np.zeros((2, 3, 3), np.uint8), IDS * 127])
    with pytest.raises(UserError, match="m: the mask has one colour, and only its transparency"):
        read_mask(encode(drawn), "m")
    with pytest.raises(UserError, match="holds colours, such as #fa3253"):
        plain_code(3).ids(read_mask(encode(COLORS[IDS]), "m"), "m")
