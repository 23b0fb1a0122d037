"""Images: their pixels and numbers are checked here; their looks were checked by eye."""

from io import BytesIO

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax.reporting import figures

COLORS = [(0, 0, 0), (200, 40, 40), (40, 180, 60)]
NAMES = ["background", "cat", "owl"]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@settings(deadline=None, max_examples=40)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)),
    st.integers(1, 256),
)
def test_index_png_keeps_the_ids(label: np.ndarray, classes: int) -> None:
    file = BytesIO()
    figures.index_image(label, [(k, 0, 0) for k in range(classes)]).save(file, "PNG")
    image = Image.open(file)
    assert image.mode == "P" and file.getvalue()[24] == 8  # IHDR's bit depth
    np.testing.assert_array_equal(np.array(image), label)
    painted = figures.colorize(label, [(k, 0, 0) for k in range(classes)])
    np.testing.assert_array_equal(np.array(image.convert("RGB")), painted)


def test_colorize_paints_classes_and_ignored_pixels() -> None:
    painted = figures.colorize(np.array([[0, 1, 2, 255]]), COLORS)
    np.testing.assert_array_equal(painted, [[*COLORS, figures.CREAM]])


@pytest.mark.parametrize("size", [(24, 32), (128, 128), (900, 600)])
def test_overlay_leaves_the_background_alone(
    rng: np.random.Generator, size: tuple[int, int]
) -> None:
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    label = np.zeros(size, np.uint8)
    label[4:20, 6:20] = 1
    result = np.array(figures.overlay(image, label, COLORS, NAMES))
    assert result.shape[1] == size[1] and result.shape[0] > size[0]  # the legend is below
    drawn, legend = result[: size[0]], result[size[0] :]
    np.testing.assert_array_equal(drawn[label == 0], image[label == 0])
    middle = 0.45 * image[12, 12] + 0.55 * np.array(COLORS[1])
    np.testing.assert_allclose(drawn[12, 12], middle, atol=1)
    assert (legend == COLORS[1]).all(axis=-1).any()
    assert not (legend == COLORS[2]).all(axis=-1).any()  # only the classes that are present


def test_contact_sheet_contains_every_image_and_caption() -> None:
    fills = [(10 + 30 * k, 200 - 30 * k, 90) for k in range(5)]
    images = [
        Image.new("RGB", (40 + 50 * k, 120), fills[k])
        if k % 2
        else np.full((300, 90 + 80 * k, 3), fills[k], np.uint8)
        for k in range(5)
    ]
    sheet = figures.contact_sheet(images, [f"image {k}" * 9 for k in range(5)], cell=100)
    pixels = np.array(sheet)
    for fill, image in zip(fills, images, strict=True):
        rows, columns = np.nonzero((pixels == fill).all(axis=-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        w, h = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        assert max(height, width) == 100
        assert width == pytest.approx(height * w / h, abs=1)
        below = pixels[rows.max() + 1 : rows.max() + 20, columns.min() : columns.max() + 1]
        assert (below < 100).all(axis=-1).any()  # ink of the caption


def test_errors_mark_exactly_the_wrong_pixels(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (60, 80, 3), np.uint8)
    label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (60, 80))
    prediction = rng.integers(0, 3, (60, 80), np.uint8)
    drawn = figures.errors(image, label, prediction)
    red = (drawn == figures.RED).all(axis=-1)
    np.testing.assert_array_equal(red, (label != prediction) & (label != 255))
    assert (drawn[~red] == drawn[~red][:, :1]).all()  # the rest is grey
    assert drawn[label == 255].min() > drawn[(label != 255) & ~red].max()  # ignored: lighter


def test_comparison_shows_the_errors_in_the_last_column(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (80, 80, 3), np.uint8)
    label = np.ones((80, 80), np.uint8)
    label[:, :20] = 255
    prediction = label.copy()
    prediction[:40] = 2  # wrong in the upper half, but for the ignored quarter on the left
    sheet = np.array(
        figures.comparison([image], [label], [prediction], ["owl"], COLORS, NAMES, cell=80)
    )
    for column, tile in enumerate(
        [
            image,
            figures.colorize(label, COLORS),
            figures.colorize(prediction, COLORS),
            figures.errors(image, label, prediction),
        ]
    ):
        left = 4 + column * 84
        strip = sheet[:, left : left + 80]
        assert any((strip[y : y + 80] == tile).all() for y in range(len(sheet) - 79))


def test_a_gallery_has_one_legend_of_what_it_paints(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (2, 80, 80, 3), np.uint8)
    labels = np.zeros((2, 80, 80), np.uint8)
    labels[1, 20:60, 20:60] = 1
    sheet = np.array(figures.gallery([*images], [*labels], ["a", "b"], COLORS, NAMES, cell=80))
    for column, (image, label) in enumerate(zip(images, labels, strict=True)):
        tile = sheet[4:84, 4 + 84 * column : 84 + 84 * column]
        np.testing.assert_array_equal(tile, figures.blend(image, label, COLORS, NAMES))
    legend = sheet[110:]
    assert (legend == COLORS[1]).all(axis=-1).any()
    assert not (legend == COLORS[2]).all(axis=-1).any()


def test_class_table_has_the_numbers_computed_by_hand() -> None:
    confusion = np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]])
    header, background, cat, owl, mean = figures.class_table(confusion, NAMES).splitlines()
    assert header.split("%")[0].split() == ["class", "IoU"]
    #                                       IoU 6/9   truth     predicted recall   precision
    assert background.split() == ["background", "66.67", "80.00", "70.00", "75.00", "85.71"]
    assert cat.split() == ["cat", "25.00", "20.00", "30.00", "50.00", "33.33"]
    assert owl.split() == ["owl", "-", "0.00", "0.00", "-", "-"]
    assert mean.split() == ["mean", "45.83", "33.33", "33.33", "62.50", "59.52"]
    assert len({len(line) for line in (header, background, cat, owl, mean)}) == 1
