"""Segmentation measures, all from counts of pixels.

n[t, p]: pixels of class t predicted as p; T[k] = sum_p n[k, p]: the truth's of class k;
P[k] = sum_t n[t, k]: the prediction's.

  IoU[k]                  = n[k, k] / (T[k] + P[k] - n[k, k])
  accuracy[k]             = n[k, k] / T[k]
  mIoU, mean accuracy     = means of these over the classes with T[k] > 0
  pixel accuracy          = sum_k n[k, k] / sum_k T[k]
  frequency-weighted IoU  = sum_k T[k] IoU[k] / sum_k T[k]

Counts are integers, so that sums do not depend on the order of batches or devices. Ignored labels,
and labels outside the classes, are void: they count nowhere.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from deeplab_jax.ops.labels import valid_pixels


class Scores(NamedTuple):
    """Shares in [0, 1]; `iou` and `accuracy` f64[c] are nan for a class that no label has."""

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    iou: np.ndarray
    accuracy: np.ndarray


def scores(confusion: np.ndarray) -> Scores:
    """The measures of a confusion matrix int[c, c], rows truth, columns prediction; nan of nothing.

    The official tf.metrics also counts, as 0, a class that was predicted but never occurs; on a
    full validation split there is none.
    """
    counts = np.asarray(confusion, np.float64)
    hits, truth, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(truth > 0, hits / (truth + predicted - hits), np.nan)
        accuracy = np.where(truth > 0, hits / truth, np.nan)
        pixel_accuracy = float(hits.sum() / truth.sum())
        weighted_iou = float(np.where(truth > 0, truth * iou, 0).sum() / truth.sum())
    means = (mean_of_defined(iou), pixel_accuracy, mean_of_defined(accuracy), weighted_iou)
    return Scores(*means, iou, accuracy)


def boundary_iou(boundary: np.ndarray) -> np.ndarray:
    """Boundary IoU of each class f64[c], nan for an absent one, from `Counts.boundary`."""
    return scores(boundary).iou[:-1]


def mean_of_defined(values: np.ndarray) -> float:
    """The mean over what is not nan; nan of nothing."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


class Counts(NamedTuple):
    """What a batch of b images adds to an evaluation, int32; c classes, k trimap widths.

    confusion [c, c]: rows truth, columns prediction; trimaps [k, c, c]: the same within each width
    of a boundary; boundary [c + 1, c + 1] or None: the same of boundary regions, where a pixel that
    is in none has class c; images [b, 2]: correct and counted pixels of each image.
    """

    confusion: Array
    trimaps: Array
    boundary: Array | None
    images: Array


def count_pixels(
    label: Array,
    prediction: Array,
    size: Array,
    *,
    num_classes: int,
    ignore_label: int,
    trimap_widths: tuple[int, ...] = (),
    boundary: float = 0.0,
) -> Counts:
    """Count label and prediction, int[b, h, w]; images fill the upper left `size` int[b, 2] (h, w).

    A trimap of width n has the valid pixels with another label, void among them, at most n pixels
    away. `boundary` is the share of an image's diagonal that boundary regions are wide: the region
    of a class has its pixels with another class, void or the image's end that near. (Cheng et al.
    2021, whose erosion is by squares too.) Where the truth is void the prediction counts as void,
    so that a perfect one scores 1. 0: regions are not counted.
    """
    valid = valid_pixels(label, num_classes, ignore_label)
    label, prediction = jnp.where(valid, label, -1), jnp.where(valid, prediction, -1)
    y, x = (lax.broadcasted_iota(size.dtype, label.shape, axis) for axis in (1, 2))
    inside = (y < size[:, 0, None, None]) & (x < size[:, 1, None, None])

    trimaps = [jnp.zeros((0, num_classes, num_classes), jnp.int32)]
    for width in trimap_widths:
        band = near_boundary(label, inside, jnp.full(len(label), width), frame=False)
        matrix = confusion_matrix(jnp.where(band, label, -1), prediction, num_classes, -1)
        trimaps.append(matrix[None])

    regions = None
    if boundary:
        diagonal = jnp.sqrt(jnp.sum(jnp.square(size), 1))
        radius = jnp.maximum(1, jnp.round(boundary * diagonal)).astype(int)
        truth, guess = (
            jnp.where(near_boundary(x, inside, radius, frame=True) | (x < 0), x, num_classes)
            for x in (label, prediction)
        )
        regions = confusion_matrix(truth, guess, num_classes + 1, -1)

    right = jnp.sum(valid & (label == prediction), (1, 2))
    return Counts(
        confusion_matrix(label, prediction, num_classes, -1),
        jnp.concatenate(trimaps),
        regions,
        jnp.stack([right, jnp.sum(valid, (1, 2))], axis=1),
    )


def confusion_matrix(label: Array, prediction: Array, num_classes: int, ignore_label: int) -> Array:
    """Pixel counts int32[c, c], rows truth, columns prediction; both inputs int[b, h, w]."""
    valid = valid_pixels(label, num_classes, ignore_label)
    cell = jnp.where(valid, label * num_classes + prediction, num_classes**2)
    counts = jnp.zeros(num_classes**2 + 1, jnp.int32).at[cell.ravel()].add(1)
    return counts[:-1].reshape(num_classes, num_classes)


def near_boundary(label: Array, inside: Array, radius: Array, *, frame: bool) -> Array:
    """Which pixels have one of another label at most `radius` int[b], from 1, away: bool[b, h, w].

    The distance is a chessboard's. Pixels of label int[b, h, w] that are not `inside` bool[b, h, w]
    count as another label if `frame`, else as none at all.
    """
    far = np.iinfo(np.int32).max
    fills = (-2, -2) if frame else (-far, far)  # another label; what is never an extreme
    highest, lowest = (
        jnp.pad(jnp.where(inside, label, fill), ((0, 0), (1, 1), (1, 1)), constant_values=fill)
        for fill in fills
    )
    edge = (dilate(highest) != -dilate(-lowest))[:, 1:-1, 1:-1] & inside

    def grow(steps: Array, near: Array) -> Array:
        return jnp.where(steps < radius[:, None, None], dilate(near), near)

    # A path to the other label changes its label on the way: one step beside that is distance 1.
    return lax.fori_loop(1, jnp.max(radius), grow, edge.astype(jnp.uint8)) > 0


def dilate(x: Array) -> Array:
    """The largest of the 3 x 3 pixels around each of x int[b, h, w]."""
    least = np.array(np.iinfo(x.dtype).min, x.dtype)
    for window in ((1, 3, 1), (1, 1, 3)):
        x = lax.reduce_window(x, least, lax.max, window, (1, 1, 1), "SAME")
    return x
