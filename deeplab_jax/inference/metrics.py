"""Segmentation measures, all from integer pixel counts.

Integers, so that sums do not depend on the order of batches or devices. Ignored labels, and labels
outside the classes, are void: they count nowhere.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from deeplab_jax.ops.labels import valid_pixels


class Counts(NamedTuple):
    """What a batch adds to an evaluation, int32; c classes, k trimap widths.

    confusion [c, c]: rows truth, columns prediction; trimaps [k, c, c]: the same within each width
    of a boundary; boundary [c + 1, c + 1] or None: the same where a pixel that is not in a boundary
    region has the extra class; images [b, 2]: correct and counted pixels of each image.
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
    """All counts of label and prediction, int [b, h, w].

    Images fill the upper left corner, of `size` int [b, 2] (h, w). `trimap_widths` and `boundary`
    as in `EvalConfig`.
    """
    valid = valid_pixels(label, num_classes, ignore_label)
    label, prediction = jnp.where(valid, label, -1), jnp.where(valid, prediction, -1)
    inside = inside_images(size, label.shape)
    trimaps = jnp.zeros((0, num_classes, num_classes), jnp.int32)
    if trimap_widths:
        distance = distance_to_boundary(label, inside, max(trimap_widths), frame=False)
        bands = [jnp.where(distance <= width, label, -1) for width in trimap_widths]
        trimaps = jnp.stack([confusion_matrix(b, prediction, num_classes, -1) for b in bands])
    return Counts(
        confusion_matrix(label, prediction, num_classes, -1),
        trimaps,
        boundary_counts(label, prediction, size, num_classes, boundary) if boundary else None,
        jnp.stack([jnp.sum(valid & (label == prediction), (1, 2)), jnp.sum(valid, (1, 2))], 1),
    )


def confusion_matrix(label: Array, prediction: Array, num_classes: int, ignore_label: int) -> Array:
    """Pixel counts int32 [c, c], rows truth, columns prediction; both inputs int [b, h, w]."""
    valid = valid_pixels(label, num_classes, ignore_label)
    cell = jnp.where(valid, label * num_classes + prediction, num_classes**2)
    counts = jnp.zeros(num_classes**2 + 1, jnp.int32).at[cell.ravel()].add(1)
    return counts[:-1].reshape(num_classes, num_classes)


def boundary_counts(
    label: Array, prediction: Array, size: Array, num_classes: int, share: float
) -> Array:
    """Confusion matrix int32 [c + 1, c + 1] of boundary regions; class c is "in none".

    The boundary region of a class are its pixels that have another class, void or the end of the
    image at most d away, d = `share` of the diagonal of `size` (at least 1 pixel): Cheng et al.
    2021, whose erosion is also by squares. Void is -1 in both inputs: where the truth is void, the
    prediction is, so that a perfect one scores 1.
    """
    inside = inside_images(size, label.shape)
    radius = jnp.maximum(1, jnp.round(share * jnp.sqrt(jnp.sum(jnp.square(size), 1)))).astype(int)
    limit = int(share * math.hypot(*label.shape[1:])) + 1

    def region(classes: Array) -> Array:
        distance = distance_to_boundary(classes, inside, limit, frame=True)
        near = distance <= radius[:, None, None]
        return jnp.where(near | (classes < 0), classes, num_classes)

    return confusion_matrix(region(label), region(prediction), num_classes + 1, -1)


def inside_images(size: Array, shape: tuple[int, ...]) -> Array:
    """Which pixels of a canvas [b, h, w] belong to its image of `size` [b, 2]: bool [b, h, w]."""
    y, x = (lax.broadcasted_iota(size.dtype, shape, axis) for axis in (1, 2))
    return (y < size[:, 0, None, None]) & (x < size[:, 1, None, None])


def distance_to_boundary(label: Array, inside: Array, limit: int, *, frame: bool) -> Array:
    """Chessboard distance of each pixel to the nearest one of another label: int32 [b, h, w].

    1 for neighbours, limit + 1 where it is more than `limit`. Pixels not `inside` count as another
    label if `frame`, else as none at all. label int [b, h, w], inside bool [b, h, w].
    """
    far = np.iinfo(np.int32).max
    highest = over_squares(jnp.where(inside, label, -far), lax.max, -far)
    lowest = over_squares(jnp.where(inside, label, far), lax.min, far)
    edge = highest != lowest
    if frame:
        around = jnp.pad(~inside, ((0, 0), (1, 1), (1, 1)), constant_values=True)
        edge |= over_squares(around, lax.bitwise_or, False)[:, 1:-1, 1:-1]

    def grow(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        near, reached = carry
        return over_squares(near, lax.bitwise_or, False), reached + near

    # A path to the other label changes its label on the way: one step beside that is distance 1.
    start = (edge & inside, jnp.zeros(label.shape, jnp.int32))
    return limit + 1 - lax.fori_loop(0, limit, grow, start)[1]


def over_squares(x: Array, combine: Callable[..., Array], neutral: int | bool) -> Array:
    """`combine`, with its neutral element, over the 3 x 3 pixels around each of x [b, h, w]."""
    for window in ((1, 3, 1), (1, 1, 3)):
        x = lax.reduce_window(x, neutral, combine, window, (1, 1, 1), "SAME")
    return x


class Scores(NamedTuple):
    """Shares in [0, 1].

    `iou` and `accuracy` (recall), of each class, have nan for one that occurs in no label; the
    means `miou` and `mean_accuracy` leave those out.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    iou: np.ndarray
    accuracy: np.ndarray


def scores(confusion: np.ndarray) -> Scores:
    """The measures that follow from counts int [c, c].

    The means are over the classes that occur in the labels. (The official tf.metrics also counts,
    as 0, a class that was predicted but never occurs; on a full validation split there is none.)
    """
    counts = np.asarray(confusion, np.float64)
    hits, truth, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(truth > 0, hits / (truth + predicted - hits), np.nan)
        accuracy = np.where(truth > 0, hits / truth, np.nan)
        frequency = truth / counts.sum()
    return Scores(
        mean_of_defined(iou),
        float(hits.sum() / counts.sum()) if counts.sum() else float("nan"),
        mean_of_defined(accuracy),
        float(np.nansum(frequency * iou)) if counts.sum() else float("nan"),
        iou,
        accuracy,
    )


def boundary_iou(boundary: np.ndarray) -> np.ndarray:
    """Boundary IoU of each class f64 [c], nan for an absent one, from `Counts.boundary`."""
    return scores(boundary).iou[:-1]


def mean_of_defined(values: np.ndarray) -> float:
    """Mean over what is not nan; nan of nothing."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
