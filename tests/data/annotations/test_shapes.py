"""Shapes by pixel centres: equal to a point-in-polygon test, and pycocotools' run lengths."""

import math
import pickle
from typing import Any

import numpy as np
import pytest

from deeplab_jax import UserError
from deeplab_jax.data.annotations.shapes import (
    MAX_POINTS,
    VOID,
    Drawing,
    Overlap,
    Runs,
    Shape,
    area,
    box_runs,
    decode_runs,
    ellipse,
    encode_runs,
    fill,
    paint,
    paint_counting,
    parse_coco_string,
    rectangle,
    ring,
    runs_from_starts,
    stroke,
    write_coco_string,
)
from deeplab_jax.data.decode import MAX_PIXELS

SIZE = (4, 6)
FIXTURE = np.zeros(SIZE, bool)
FIXTURE[1:3, 2:5] = True


def drawn(*shapes: Shape, size: tuple[int, int] = SIZE, overlap: Overlap = "paint") -> np.ndarray:
    return paint(Drawing(size, shapes, overlap), "x", size)


def polygon(*values: float, class_id: int = 1) -> Shape:
    return Shape(class_id, (ring(list(values)),))


def whole(mask: tuple[int, int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """A box's mask on its image."""
    top, left, inside = mask
    out = np.zeros(size, bool)
    out[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return out


def centres_inside(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Even-odd, pixel by pixel: how many edges a ray from a pixel's centre to the left crosses."""
    inside = np.zeros(size, bool)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y = column + 0.5, row + 0.5
            for points in rings:
                for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
                    if (ay <= y) != (by <= y) and ax + (y - ay) * (bx - ax) / (by - ay) <= x:
                        inside[row, column] ^= True
    return inside


@pytest.mark.parametrize("seed", range(20))
def test_fill_is_even_odd_at_pixel_centres(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 14)), int(rng.integers(1, 14)))
    rings = [rng.uniform(-5, 18, (n, 2)) for n in rng.integers(3, 9, rng.integers(1, 4))]
    np.testing.assert_array_equal(whole(fill(rings, size), size), centres_inside(rings, size))


def test_touching_polygons_share_no_pixel_and_leave_none() -> None:
    """What a cut divides belongs to one side, wherever the cut lies, also through centres."""
    for cut in (1.0, 1.5, 2.0, 2.25):
        left, right = polygon(0, 0, cut, 0, cut, 4, 0, 4), polygon(cut, 0, 6, 0, 6, 4, cut, 4)
        both = [whole(fill(shape.rings, SIZE), SIZE) for shape in (left, right)]
        assert (both[0] ^ both[1]).all()


def test_a_box_has_its_own_area_a_ring_in_it_is_a_hole_and_a_bridge_is_nothing() -> None:
    assert drawn(polygon(1, 1, 5, 1, 5, 4, 1, 4)).sum() == 12
    outer, inner = ring([0, 0, 6, 0, 6, 4, 0, 4]), ring([2, 1, 4, 1, 4, 3, 2, 3])
    assert drawn(Shape(1, (outer, inner))).sum() == 24 - 4
    parts = polygon(0, 0, 1, 0, 1, 2, 5, 2, 5, 0, 6, 0, 6, 3, 5, 3, 5, 2, 1, 2, 1, 3, 0, 3)
    assert drawn(parts).sum() == 6  # two parts of 3, joined by a line there and back


def test_a_disc_has_its_area() -> None:
    for radius, tolerance in ((4, 0.05), (12, 0.01), (40, 0.002)):
        disc = drawn(Shape(1, (ellipse(50, 50, radius, radius),)), size=(100, 100))
        assert disc.sum() == pytest.approx(math.pi * radius**2, rel=tolerance)


def test_shapes_turn_clockwise_as_they_are_seen() -> None:
    turned = rectangle(ring([10, 10, 30, 14], 2), 90)
    assert turned.min(0).tolist() == pytest.approx([18, 2])
    assert turned.max(0).tolist() == pytest.approx([22, 22])
    little = drawn(Shape(1, (rectangle(ring([10, 18, 30, 22], 2), 45),)), size=(40, 40))
    assert little[25, 25] and not little[15, 25]  # y is down: its right end went down
    np.testing.assert_allclose(
        ellipse(20, 20, 10, 2, 90).max(0), ellipse(20, 20, 2, 10).max(0), atol=1e-4
    )


def test_a_stroke_is_as_wide_as_told() -> None:
    shapes = [Shape(1, (part,)) for part in stroke(ring([10, 20, 30, 20, 30, 20], 2), 10)]
    label = drawn(*shapes, size=(40, 40))
    assert label.sum() == 200 and label[15:25, 10:30].all()


def test_coordinates_without_a_size_are_shares_of_the_image() -> None:
    drawing = Drawing(None, (polygon(0.1, 0.125, 0.5, 0.125, 0.5, 0.5, 0.1, 0.5),))
    label = paint(drawing, "x", (8, 10))
    assert label.sum() == 12 and label[1:4, 1:5].all()
    assert paint(drawing, "x", (80, 100)).sum() == 1200


def test_later_shapes_lie_on_top_or_what_two_classes_claim_is_void() -> None:
    one, two = polygon(0, 0, 4, 0, 4, 4, 0, 4), polygon(2, 0, 6, 0, 6, 4, 2, 4, class_id=2)
    assert drawn(one, two)[0].tolist() == [1, 1, 2, 2, 2, 2]
    assert drawn(two, one)[0].tolist() == [1, 1, 1, 1, 2, 2]
    assert drawn(one, two, overlap="ignore")[0].tolist() == [1, 1, VOID, VOID, 2, 2]
    assert drawn(one, one, overlap="ignore").max() == 1
    assert paint_counting(Drawing(SIZE, (one, two)), "x", SIZE)[1] == 8


def test_drawings_travel_to_workers() -> None:
    drawing = Drawing(SIZE, (polygon(0, 0, 4, 0, 4, 4), Shape(2, runs=Runs(np.array([24]), SIZE))))
    again = pickle.loads(pickle.dumps(drawing))
    np.testing.assert_array_equal(paint(again, "x", SIZE), paint(drawing, "x", SIZE))


# Run lengths


def test_the_two_fixtures() -> None:
    lengths = [9, 2, 2, 2, 2, 2, 5]
    assert encode_runs(FIXTURE).tolist() == parse_coco_string("9220003").tolist() == lengths
    assert write_coco_string(lengths) == "9220003"
    np.testing.assert_array_equal(drawn(Shape(1, runs=box_runs(lengths, SIZE))), FIXTURE)
    small = np.array([[1, 0, 0], [0, 0, 1]], bool)
    runs = box_runs(parse_coco_string("0140"), (2, 3))
    np.testing.assert_array_equal(whole(decode_runs(runs, (2, 3)), (2, 3)), small)


@pytest.mark.parametrize(("pairs", "by_column"), [("10 2 14 2 18 2", True), ("9 3 15 3", False)])
def test_pairs_of_start_and_length(pairs: str, by_column: bool) -> None:
    numbers = np.array(pairs.split(), np.int64).reshape(-1, 2)
    for order in (numbers, numbers[::-1]):
        runs = runs_from_starts(order, by_column=by_column)
        np.testing.assert_array_equal(whole(decode_runs(runs, SIZE), SIZE), FIXTURE)


@pytest.mark.parametrize("seed", range(30))
def test_runs_go_there_and_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 40)), int(rng.integers(1, 40)))
    mask = rng.random(size) < rng.random()
    for by_column in (True, False):
        lengths = encode_runs(mask, by_column=by_column)
        assert parse_coco_string(write_coco_string(lengths)).tolist() == lengths.tolist()
        runs = box_runs(lengths.tolist(), size, by_column=by_column)
        np.testing.assert_array_equal(whole(decode_runs(runs, size), size), mask)
        assert area(Shape(1, runs=runs)) == mask.sum()


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
def test_runs_and_polygons_equal_those_of_pycocotools() -> None:
    mask_api: Any = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = tuple(int(n) for n in rng.integers(1, 70, 2))
        mask = rng.random(size) < rng.random()
        theirs = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
        assert theirs == write_coco_string(encode_runs(mask))
        runs = box_runs(parse_coco_string(theirs), size)
        np.testing.assert_array_equal(whole(decode_runs(runs, size), size), mask)
    for radius, least in ((4, 0.9), (12, 0.97), (40, 0.99)):
        shape = ellipse(50.3, 49.6, radius, radius)
        encoded = mask_api.frPyObjects([shape.ravel().tolist()], 100, 100)
        their, our = (
            mask_api.decode(encoded)[..., 0] > 0,
            whole(fill([shape], (100, 100)), (100, 100)),
        )
        assert (their & our).sum() / (their | our).sum() > least


def test_a_box_beyond_the_image_is_cut() -> None:
    runs = box_runs([0, 100], (10, 10), -8, 3, by_column=False)
    label = drawn(Shape(1, runs=runs))
    assert label[:2, 3:].all() and label.sum() == 6
    for top, left in ((50, 0), (0, 50), (-50, 0), (0, -50)):
        assert drawn(Shape(1, runs=box_runs([0, 100], (10, 10), top, left))).sum() == 0


# Files from strangers


@pytest.mark.parametrize(
    "values",
    [
        [],
        [1, 2, 3, 4],
        [1, 2, 3, 4, 5, 6, 7],
        [[1, 2], [3, 4], [5]],
        [[1, 2, 3]] * 3,
        ["1"] * 6,
        [None] * 6,
        None,
        {"x": 1},
        7,
        [1, 2, 3, 4, 5, math.nan],
        [1, 2, 3, 4, 5, math.inf],
        [1, 2, 3, 4, 5, 1e300],
        [1, 2, 3, 4, 5, 10**400],
        [1.5, 2, 3, 4, 5, 10**400],
        [0] * (2 * MAX_POINTS + 2),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_ring(values: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        ring(values)


@pytest.mark.parametrize(
    "counts",
    [[], [23], [25], [-1, 25], [10**9], [2**63], [2**64], [1.5], ["24"], None, {}, [[24]]],
    ids=str,
)
def test_what_are_no_runs(counts: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        box_runs(counts, SIZE)


def test_boxes_that_are_none() -> None:
    for size in ((0, 0), (-1, -24), (10**5, 10**5), (10**9, 10**9)):
        with pytest.raises(ValueError, match="a box"):
            box_runs([size[0] * size[1]], size)


@pytest.mark.parametrize("text", ["o", "9220003P", " ", "x" * 50 + "0", "ä", "\ud800", "oooooooo0"])
def test_what_is_no_compressed_string(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_coco_string(text)


def test_claims_are_refused_before_anything_is_allocated() -> None:
    zigzag = np.zeros((50_000, 2), np.float32)
    zigzag[::2] = 4000
    wide = Shape(1, runs=Runs(np.array([10**9]), (10**5, 10**4)))
    full = polygon(0, 0, 8192, 0, 8192, 8192, 0, 8192)
    large = (8192, 8192)
    assert math.prod(large) == MAX_PIXELS
    for drawing in (
        Drawing((10**9, 10**9), ()),
        Drawing((0, 5), ()),
        Drawing(SIZE, (wide,)),
        Drawing((4096, 4096), (Shape(1, (zigzag,)),)),
        Drawing(SIZE, (Shape(1, runs=Runs(np.array([5, 100]), None)),)),
        Drawing(SIZE, (Shape(1, (np.full((3, 2), np.nan),)),)),
    ):
        with pytest.raises(UserError, match=r"^a\.jpg: "):
            paint(drawing, "a.jpg", SIZE)
    assert paint(Drawing(large, (full,)), "a.jpg", SIZE).all()
