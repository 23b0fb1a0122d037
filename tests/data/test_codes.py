"""What masks mean: one reading is taken and told, of two neither, and never a wrong one."""

from collections.abc import Sequence

import numpy as np
import pytest
from folders import encode, palette
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from deeplab_jax.config import DataConfig
from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.codes import Reading, decide, to_label_map
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import camvid
from deeplab_jax.data.layouts import ClassTable
from deeplab_jax.data.masks import read_mask
from deeplab_jax.data.tally import add_up, tally
from deeplab_jax.data.tiff import GDAL_NODATA
from deeplab_jax.errors import UserError

ABC = ClassTable(("a", "b", "c"), origin="classes.txt")
COLORS = np.array(voc_colormap(256), np.uint8)


def masks_of(*arrays: np.ndarray | Image.Image, format: str = "PNG") -> list[bytes]:
    return [encode(array, format) for array in arrays]


def read(
    masks: Sequence[bytes], table: ClassTable | None = ABC, n: int | None = None, **settings: object
) -> Reading:
    found = add_up(tally(read_mask(mask, "m")) for mask in masks)
    return decide(found, table, DataConfig(source="folder", **settings), n)  # type: ignore[arg-type]


def ids(reading: Reading, mask: bytes) -> list[int]:
    return reading.code.ids(read_mask(mask, "m"), "m").ravel().tolist()


def row(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


# ---- values


def test_ids_and_void() -> None:
    (mask,) = masks_of(row(0, 1, 2, 255))
    reading = read([mask])
    assert ids(reading, mask) == [0, 1, 2, VOID] and reading.names == ABC.names
    assert reading.told == ()


def test_ids_from_one() -> None:
    (mask,) = masks_of(row(1, 2, 3))
    reading = read([mask])
    assert ids(reading, mask) == [0, 1, 2] and "1 is 'a'" in reading.told[0]
    with pytest.raises(UserError, match="hold 3, which"):
        ids(read([mask], zero="class"), mask)


def test_one_value_too_many_is_asked_for_with_a_flag_for_each_reading() -> None:
    (mask,) = masks_of(row(0, 1, 2, 3))
    with pytest.raises(UserError, match="do not tell whether") as caught:
        read([mask])
    assert ids(read([mask], ignore_label=3), mask) == [0, 1, 2, VOID]
    assert ids(read([mask], zero="ignore"), mask) == [VOID, 0, 1, 2]
    reading = read([mask], zero="background")
    assert ids(reading, mask) == [0, 1, 2, 3] and reading.names == ("background", "a", "b", "c")
    for flag in ("--data.ignore_label=3", "--data.zero=ignore", "--data.zero=background"):
        assert flag in str(caught.value)


def test_camvid_is_known() -> None:
    (mask,) = masks_of(row(*range(12)))
    table = ClassTable(tuple(name.title() for name in camvid.CLASS_NAMES))
    assert ids(read([mask], table), mask) == [*range(11), VOID]


@pytest.mark.parametrize("high", [255, 128])
def test_binary(high: int) -> None:
    (mask,) = masks_of(row(0, high, high, 0))
    for table, names in (
        (None, ("background", "foreground")),
        (ClassTable(("no", "yes")), ("no", "yes")),
    ):
        reading = read([mask], table)
        assert ids(reading, mask) == [0, 1, 1, 0] and reading.names == names
    assert ids(read(masks_of(row(0, 1)), None), masks_of(row(0, 1))[0]) == [0, 1]


def test_binary_of_16_bits() -> None:
    mask = encode(np.array([[0, 65535]], np.uint16))
    assert ids(read([mask], None), mask) == [0, 1]


def soft_disc(size: int = 60) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2
    return np.clip(127.5 + 40 * (size / 3 - np.hypot(y, x)), 0, 255).astype(np.uint8)


def test_soft_edges_of_binary_masks() -> None:
    (mask,) = masks_of(soft_disc())
    values = soft_disc().ravel()
    reading = read([mask], None)
    assert set(ids(reading, mask)) == {0, 1, VOID} and "soft edges" in reading.told[1]
    nearest = np.array(ids(read([mask], None, edges="nearest"), mask))
    np.testing.assert_array_equal(nearest, values > 127)
    jpeg = encode(soft_disc(), "JPEG")
    found = np.array(ids(read([jpeg], None), jpeg))
    assert (found != (values > 127)).mean() < 0.01


def test_jpeg_of_ids_is_refused() -> None:
    ids = np.random.default_rng(0).integers(0, 3, (40, 40)).astype(np.uint8)
    with pytest.raises(UserError, match=r"JPEG .*, which changes class ids"):
        read([encode(ids, "JPEG")])


def test_binary_jpeg_with_hard_edges() -> None:
    """JPEG leaves some values beside 0 and 255, and none between; ids beside 255 leave more."""
    sharp = np.kron(np.random.default_rng(0).random((6, 6)) > 0.7, np.ones((9, 11))) > 0
    jpeg = encode(sharp.astype(np.uint8) * 255, "JPEG")
    for table in (None, ClassTable(("no", "yes"))):
        found = np.array(ids(read([jpeg], table), jpeg))
        assert (found != sharp.ravel()).mean() < 0.01
    labels = sharp.astype(np.uint8)
    labels[:, ::11] = 255
    with pytest.raises(UserError, match="JPEG"):
        read([encode(labels, "JPEG")], ClassTable(("no", "yes")))


@pytest.mark.parametrize(
    ("values", "names", "flags"),
    [
        ((0, 1, 34), ("a", "b c", "d"), ("0=a", "'1=b c'", "34=NAME")),
        ((0, 128, 255), ("a", "b", "c"), ("0=NAME", "128=NAME", "255=NAME")),  # gray levels
        ((0, 128, 255), ("a", "b"), ("0=a", "128=NAME", "255=void")),
        ((0, 128, 255), (), ("0=NAME", "128=NAME", "255=NAME")),
        ((1, 2, 3), ("a", "b"), ("1=NAME", "2=NAME", "3=NAME")),
    ],
)
def test_the_map_to_fill_in_has_every_value(
    values: tuple[int, ...], names: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        read(masks_of(row(*values)), ClassTable(names) if names else None)
    assert f"--data.label_map {' '.join(flags)}" in str(caught.value)


def test_no_data_that_may_be_a_class_is_asked_about() -> None:
    """QGIS marks the value around what it draws, 0, as no data."""
    tags = ImageFileDirectory_v2()
    tags[GDAL_NODATA] = "0"
    for values, table in (((0, 1, 2), ABC), ((0, 255), None), ((0, 1), None)):
        mask = encode(row(*values), "TIFF", tiffinfo=tags)
        with pytest.raises(
            UserError, match=r"(?s)mark 0 as no data .*--data\.zero=class"
        ) as caught:
            read([mask], table)
        assert "--data.ignore_label=0" in str(caught.value)
        assert ids(read([mask], table, zero="class"), mask) == [*range(len(values))]
    mask = encode(row(0, 1, 2), "TIFF", tiffinfo=tags)
    assert ids(read([mask], ABC, ignore_label=0), mask) == [VOID, 1, 2]
    mask = encode(row(0, 1, 2, 3), "TIFF", tiffinfo=tags)  # beside all of the classes
    assert ids(read([mask], ABC), mask) == [VOID, 0, 1, 2]


def test_gray_levels_are_asked_for_and_the_advice_works() -> None:
    (mask,) = masks_of(row(0, 127, 254, 127))
    for table in (ABC, None):
        with pytest.raises(UserError, match=r"--data\.label_map 0=NAME 127=NAME 254=NAME"):
            read([mask], table)
    given = ("0=a", "127=b", "254=void")
    for table, names in ((ABC, ABC.names), (None, ("a", "b"))):
        reading = read([mask], table, label_map=given)
        assert ids(reading, mask) == [0, 1, VOID, 1] and reading.names == names


def test_a_map_joins_values() -> None:
    (mask,) = masks_of(row(0, 7, 8, 23, 255))
    reading = read([mask], None, label_map=("7=road", "8=road", "0=ignore", "23=sky"))
    assert ids(reading, mask) == [VOID, 0, 0, 1, VOID] and reading.names == ("road", "sky")
    table = ClassTable(("road", "sky"), values=((7, 0), (8, 0), (0, VOID), (23, 1)))
    assert ids(read([mask], table), mask) == [VOID, 0, 0, 1, VOID]
    with pytest.raises(UserError, match="23"):
        read([mask], None, label_map=("0=a", "7=b", "8=c"))
    with pytest.raises(UserError, match=r"'d' is none of a, b, c"):
        read([mask], ABC, label_map=("0=d",))


def test_values_without_names() -> None:
    (mask,) = masks_of(row(0, 1, 2, 4, 255))
    reading = read([mask], None)
    assert reading.names == tuple(f"class {i}" for i in range(5))
    assert len(read([mask], None, 7).names) == 7
    with pytest.raises(UserError, match="the masks hold 0, 90, and there is no list"):
        read(masks_of(row(0, 90, 255)), None)


# ---- colours


def colors_table(count: int = 3) -> ClassTable:
    colors = voc_colormap(count)
    pairs = tuple((color, i) for i, color in enumerate(colors))
    return ClassTable(("a", "b", "c")[:count], colors, by_color=pairs, origin="labelmap.txt")


def test_colours_by_a_table() -> None:
    masks = masks_of(COLORS[row(0, 1, 2)], COLORS[row(0, 0, 0)], COLORS[row(2, 2, 1)])
    reading = read(masks, colors_table())
    assert [ids(reading, mask) for mask in masks] == [[0, 1, 2], [0, 0, 0], [2, 2, 1]]


def test_a_forgotten_colour_is_named() -> None:
    (mask,) = masks_of(COLORS[row(0, 1, 2, 3)])
    with pytest.raises(UserError, match=r"hold #808000, which labelmap\.txt does not list"):
        read([mask], colors_table())


def test_colours_without_a_table_are_classes_of_their_own() -> None:
    (mask,) = masks_of(COLORS[row(2, 1, 0)])
    reading = read([mask], None)
    assert reading.names == ("#000000", "#008000", "#800000") and ids(reading, mask) == [1, 2, 0]
    with pytest.raises(
        UserError, match=r"(?s)in colours, and classes\.txt gives none.*NAME #008000"
    ):
        read([mask], ABC)


def test_soft_edges_of_colours() -> None:
    sharp = COLORS[np.repeat(np.repeat(row(0, 1, 2), 40, 0), 40, 1)]
    soft = Image.fromarray(sharp).rotate(20, Image.Resampling.BILINEAR)
    reading = read(masks_of(soft), colors_table())
    assert VOID in ids(reading, masks_of(soft)[0]) and "soft edges" in reading.told[0]
    jpeg = encode(sharp, "JPEG", quality=95)
    found = np.array(ids(read([jpeg], colors_table()), jpeg))
    assert (found != np.repeat(np.repeat(row(0, 1, 2), 40, 0), 40, 1).ravel()).mean() < 0.02


def test_palettes() -> None:
    """Indices are ids, unless a table's colours say otherwise, or they differ between files."""
    values = row(0, 1, 2, 255)
    (mask,) = masks_of(palette(values, COLORS))
    for table in (ABC, colors_table()):
        assert ids(read([mask], table), mask) == [0, 1, 2, VOID]
    other = encode(palette(row(0, 1, 2), COLORS[[2, 1, 0]]))
    assert ids(read([other], colors_table()), other) == [2, 1, 0]
    assert ids(read([other], ABC), other) == [0, 1, 2]
    reading = read([other, encode(palette(row(0, 1, 2), COLORS))], None)
    assert reading.code.by_color and len(reading.names) == 3
    both = [other, encode(palette(row(0, 1, 2), COLORS))]
    with pytest.raises(UserError, match=r"(?s)palettes differ.*NAME #008000.*label_map 0=a 1=b"):
        read(both, ABC)
    assert ids(read(both, ABC, label_map=("0=a", "1=b", "2=c")), other) == [0, 1, 2]


def test_gray_colours_of_a_table() -> None:
    table = ClassTable(("a", "b"), by_color=(((0, 0, 0), 0), ((100, 100, 100), 1)))
    mask = encode(Image.fromarray(row(0, 100)).convert("RGB"))
    assert ids(read([mask], table), mask) == [0, 1]


def test_gray_colours_in_another_order_than_ids() -> None:
    """Supervisely's machine masks; void needs no colour."""
    table = ClassTable(
        ("a", "b", "c"), by_color=tuple(((v, v, v), i) for i, v in enumerate((0, 2, 1)))
    )
    mask = encode(row(0, 1, 2, 255))
    assert ids(read([mask], table), mask) == [0, 2, 1, VOID]
    shades = ClassTable(
        ("a", "b", "c"), by_color=tuple(((v, v, v), i) for i, v in enumerate((0, 9, 99)))
    )
    assert ids(read([mask], shades), mask) == [0, 1, 2, VOID]  # which are only to be drawn in


# ---- all of them


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[list[int]], int, int, str]:
    """Rows of true ids (-1: ignored), the first id in the masks, the void, and the form."""
    n, start = draw(st.integers(2, 4)), draw(st.sampled_from([0, 0, 1]))
    cells = st.lists(st.integers(-1, n - 1), min_size=4, max_size=4)
    # All classes occur in the data set, and not only in two values.
    rows = [*draw(st.lists(cells, min_size=1, max_size=3)), [*range(n), *range(4 - n)]]
    void = draw(st.sampled_from([255, 254, 0 if start else n]))
    return rows, start, void, draw(st.sampled_from(["ids", "palette", "gray", "renumbered"]))


@settings(max_examples=150, deadline=None)
@given(situations())
def test_no_situation_is_read_wrongly(made: tuple[list[list[int]], int, int, str]) -> None:
    rows, start, void, form = made
    n, masks = max(map(max, rows)) + 1, []
    for cells in rows:
        stored = np.array([[void if k < 0 else k + start for k in cells]], np.uint8)
        image = Image.fromarray(stored)
        if form == "palette":
            image = palette(stored, COLORS)
        elif form == "gray":
            image = image.convert("RGB")
        elif form == "renumbered" and start == 0:
            values, numbers = np.unique(stored, return_inverse=True)
            image = palette(numbers.reshape(1, -1).astype(np.uint8), COLORS[values])
        masks.append(encode(image))
    pairs = tuple((tuple(map(int, COLORS[i])), i) for i in range(n))
    table = ClassTable(tuple("abcd"[:n]), by_color=pairs if form == "renumbered" else ())
    try:
        reading = read(masks, table)
    except UserError:
        return
    try:
        found = [ids(reading, mask) for mask in masks]
    except UserError:
        return
    assert found == [[VOID if k < 0 else k for k in cells] for cells in rows]
    again = read(masks, table, label_map=to_label_map(reading.code, reading.names))
    assert [ids(again, mask) for mask in masks] == found
