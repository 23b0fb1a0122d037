"""Counts are exact, and the measures are what their names say."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_jax.inference.metrics import (
    Counts,
    boundary_iou,
    confusion_matrix,
    count_pixels,
    scores,
)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_confusion_matrix_counts_every_valid_pixel_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 7, 255], (2, 9, 5))  # 7 is outside the classes
    prediction = rng.integers(0, 3, label.shape)
    slow = np.zeros((3, 3), int)
    for t, p in zip(label.ravel(), prediction.ravel(), strict=True):
        if t < 3:
            slow[t, p] += 1
    ours = confusion_matrix(jnp.asarray(label), jnp.asarray(prediction), 3, 255)
    np.testing.assert_array_equal(ours, slow)


def test_ignore_label_may_be_a_class_id() -> None:
    """ADE20K: label 0 is ignored, and class 0 never predicted as right or wrong."""
    label, prediction = jnp.array([[[0, 1, 2]]]), jnp.array([[[1, 1, 0]]])
    ours = confusion_matrix(label, prediction, 3, 0)
    np.testing.assert_array_equal(ours, [[0, 0, 0], [0, 1, 0], [1, 0, 0]])


def test_scores_by_hand() -> None:
    s = scores(np.array([[6, 2, 1], [0, 4, 0], [0, 0, 0]]))
    np.testing.assert_allclose(s.iou, [6 / 9, 4 / 6, np.nan])
    np.testing.assert_allclose(s.miou, (6 / 9 + 4 / 6) / 2)
    np.testing.assert_allclose(s.pixel_accuracy, 10 / 13)
    np.testing.assert_allclose(s.accuracy, [6 / 9, 1, np.nan])
    np.testing.assert_allclose(s.mean_accuracy, (6 / 9 + 1) / 2)
    np.testing.assert_allclose(s.frequency_weighted_iou, 9 / 13 * 6 / 9 + 4 / 13 * 4 / 6)


def test_scores_of_nothing_are_nan() -> None:
    s = scores(np.zeros((2, 2), int))
    assert np.isnan(s[:4]).all()


VOID = 255


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, prediction [2 14 17] of rectangles with void, and the sizes of the two images."""
    rng = np.random.default_rng(seed)
    maps = np.zeros((2, 2, 14, 17), int)
    for image in maps.reshape(4, 14, 17):
        for value in rng.choice([0, 1, 2, 3], rng.integers(1, 5)):
            y, x = rng.integers(0, 12, 2)
            image[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = value
    label, prediction = maps
    prediction[prediction == 3] = 0
    label[label == 3] = VOID  # or a value outside the classes, which is void too
    label[1][label[1] == VOID] = 77
    sizes = np.array([[14, 17], rng.integers(1, 14, 2)], np.int32)
    label[1, sizes[1, 0] :], label[1, :, sizes[1, 1] :] = VOID, VOID
    return label, prediction, sizes


def within(image: np.ndarray, distance: int, outside: int | None) -> np.ndarray:
    """Where a square of 2 distance + 1 holds another value; None: nothing is outside."""
    out = np.zeros(image.shape, bool)
    h, w = image.shape
    for y, x in np.ndindex(h, w):
        top, left = max(0, y - distance), max(0, x - distance)
        square = image[top : y + distance + 1, left : x + distance + 1]
        cut = min(y, x, h - 1 - y, w - 1 - x) < distance
        out[y, x] = (square != image[y, x]).any() or (outside is not None and cut)
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_trimaps_against_a_slow_reference(seed: int) -> None:
    """Valid pixels with another label, void among them, in the square around them."""
    label, prediction, sizes = blobs(seed)
    widths = (3, 1, 6)
    ours = jitted(label, prediction, sizes)
    slow = np.zeros((3, 3, 3), int)
    for truth, guess, (h, w) in zip(label, prediction, sizes, strict=True):
        truth, guess = np.where(truth < 3, truth, VOID)[:h, :w], guess[:h, :w]
        for k, width in enumerate(widths):
            band = within(truth, width, outside=None) & (truth != VOID)
            np.add.at(slow[k], (truth[band], guess[band]), 1)
    np.testing.assert_array_equal(ours.trimaps, slow)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_boundary_iou_against_a_slow_reference(seed: int) -> None:
    """Cheng et al. 2021: masks minus their erosion, what is outside an image not in the mask."""
    label, prediction, sizes = blobs(seed)
    ours = jitted(label, prediction, sizes)
    intersection, union, occurs = (np.zeros(3, int) for _ in range(3))
    for truth, guess, (h, w) in zip(label, prediction, sizes, strict=True):
        truth, guess = np.where(truth < 3, truth, VOID)[:h, :w], guess[:h, :w]
        distance = max(1, round(0.1 * np.hypot(h, w)))
        for k in range(3):
            masks = [truth == k, (guess == k) & (truth != VOID)]
            regions = [m & within(m, distance, outside=0) for m in masks]
            intersection[k] += (regions[0] & regions[1]).sum()
            union[k] += (regions[0] | regions[1]).sum()
            occurs[k] += regions[0].sum()
    want = np.where(occurs > 0, intersection / np.maximum(union, 1), np.nan)
    np.testing.assert_array_equal(boundary_iou(np.asarray(ours.boundary)), want)


@jax.jit
def jitted(label: jax.Array, prediction: jax.Array, size: jax.Array) -> Counts:
    return count_pixels(
        label,
        prediction,
        size,
        num_classes=3,
        ignore_label=VOID,
        trimap_widths=(3, 1, 6),
        boundary=0.1,
    )


def test_a_perfect_prediction_scores_one_everywhere() -> None:
    label, _, sizes = blobs(4)
    counts = jitted(label, np.where(label < 3, label, 1), sizes)  # wrong at void, which is ignored
    classes = np.unique(label[label < 3])
    assert scores(np.asarray(counts.confusion)).miou == 1
    assert (boundary_iou(np.asarray(counts.boundary))[classes] == 1).all()
    right, counted = np.asarray(counts.images).T
    np.testing.assert_array_equal(right, counted)
    np.testing.assert_array_equal(counted, (label < 3).sum((1, 2)))
