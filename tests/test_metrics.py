"""Counts are exact, and the measures are what their names say."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_jax.metrics import confusion_matrix, scores


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


def test_scores_of_nothing_are_nan() -> None:
    s = scores(np.zeros((2, 2), int))
    assert np.isnan([s.miou, s.pixel_accuracy]).all()
