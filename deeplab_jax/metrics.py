"""Segmentation measures from a confusion matrix of integer pixel counts."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from deeplab_jax.losses import valid_pixels


def confusion_matrix(label: Array, prediction: Array, num_classes: int, ignore_label: int) -> Array:
    """Pixel counts int32 [c, c], rows truth, columns prediction; both inputs int [b, h, w].

    Integers, so that the sum does not depend on the order of batches or devices. Ignored labels and
    labels outside the classes count nowhere.
    """
    valid = valid_pixels(label, num_classes, ignore_label)
    cell = jnp.where(valid, label * num_classes + prediction, num_classes**2)
    counts = jnp.zeros(num_classes**2 + 1, jnp.int32).at[cell.ravel()].add(1)
    return counts[:-1].reshape(num_classes, num_classes)


class Scores(NamedTuple):
    """Shares in [0, 1].

    `iou` has nan for a class that occurs in no label; `miou` leaves those out.
    """

    miou: float
    pixel_accuracy: float
    iou: np.ndarray


def scores(confusion: np.ndarray) -> Scores:
    """Intersection over union of each class, their mean, and pixel accuracy, of int [c, c] counts.

    The mean is over the classes that occur in the labels. (The official tf.metrics also counts, as
    0, a class that was predicted but never occurs; on a full validation split there is none.)
    """
    counts = np.asarray(confusion, np.float64)
    hits, truth, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(truth > 0, hits / (truth + predicted - hits), np.nan)
    occurs = truth > 0
    miou = float(iou[occurs].mean()) if occurs.any() else float("nan")
    accuracy = float(hits.sum() / counts.sum()) if counts.sum() else float("nan")
    return Scores(miou, accuracy, iou)
