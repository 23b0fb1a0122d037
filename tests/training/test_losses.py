"""The loss, pixel by pixel."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_jax import TrainConfig
from deeplab_jax.ops.resize import resize_bilinear
from deeplab_jax.training.losses import (
    cross_entropy,
    focal_loss,
    hard_pixel_loss,
    hard_pixel_share,
    mean_loss,
    pixel_losses,
)
from deeplab_jax.training.step import weighted_loss

IGNORE = 255


def example(seed: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 5, 7, 4)).astype(np.float32)
    label = rng.integers(0, 4, (2, 5, 7))
    label[rng.random(label.shape) < 0.3] = IGNORE
    return jnp.asarray(logits), jnp.asarray(label)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_mean_loss_is_the_weighted_sum_over_the_count(seed: int) -> None:
    logits, label = example(seed)
    weights = (1.0, 2.0, 0.5, 0.0)
    total, count = 0.0, 0
    x = np.asarray(logits)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    for index, c in np.ndenumerate(np.asarray(label)):
        if c != IGNORE:
            total -= weights[c] * log_p[(*index, c)]
            count += 1
    losses, valid = pixel_losses(logits, label, IGNORE, weights)
    np.testing.assert_allclose(mean_loss(losses, valid), total / max(count, 1), rtol=1e-4)


@pytest.mark.parametrize("adjustment", [0.0, 0.5, 1.0])
def test_what_class_weights_do_to_the_best_prediction(adjustment: float) -> None:
    weights, counts = np.array([0.5, 1.0, 4.0, 0.0]), np.array([60, 30, 10, 0])
    label = jnp.asarray(np.repeat(np.arange(4), counts)[None, None])
    best = np.log(weights[:3] ** (1 - adjustment) * counts[:3])

    def loss(z: jax.Array) -> jax.Array:
        logits = jnp.concatenate([z, jnp.array([-50.0])])  # the last class is never meant
        every = jnp.broadcast_to(logits, (1, 1, 100, 4))
        losses = pixel_losses(every, label, IGNORE, tuple(weights), logit_adjustment=adjustment)
        return mean_loss(*losses)

    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(best)), 0, atol=1e-6)
    assert np.abs(jax.grad(loss)(jnp.asarray([*best[:2], best[2] + 0.1]))).max() > 1e-3


def test_the_adjustment_rises_over_the_run() -> None:
    logits, label = example(0)
    weights = (0.5, 1.0, 4.0, 0.0)
    train = TrainConfig(steps=10, class_weights=weights, logit_adjustment=0.8)
    for step in (0, 5, 10):
        loss = weighted_loss(logits, label, jnp.int32(step), train=train, ignore_label=IGNORE)
        adjusted = pixel_losses(logits, label, IGNORE, weights, logit_adjustment=0.08 * step)
        np.testing.assert_allclose(loss, mean_loss(*adjusted), rtol=1e-6)


LOSSES = [cross_entropy, partial(cross_entropy, smoothing=0.1), partial(focal_loss, gamma=1.5)]


@pytest.mark.gpu
@pytest.mark.parametrize("loss_fn", LOSSES, ids=["cross_entropy", "smoothed", "focal"])
def test_gradient_at_ignored_pixels_is_exactly_zero(loss_fn: Callable[..., jax.Array]) -> None:
    logits, label = example(0)
    label = label.at[0, 0].set(4)  # outside the classes: treated as ignored
    grad = jax.grad(lambda x: mean_loss(*pixel_losses(x, label, IGNORE, (), loss_fn)))(logits)
    ignored = np.asarray((label == IGNORE) | (label == 4))
    assert (np.asarray(grad)[ignored] == 0).all()
    assert (np.abs(np.asarray(grad)[~ignored]).max(-1) > 0).all()


def test_smoothing_gives_a_part_of_the_target_to_every_class() -> None:
    logits, label = example(0)
    target = 0.9 * jax.nn.one_hot(label, 4) + 0.1 / 4
    want = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    losses, valid = pixel_losses(logits, label, IGNORE, (), partial(cross_entropy, smoothing=0.1))
    np.testing.assert_allclose(losses, jnp.where(valid, want, 0), rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_weighs_by_what_is_wrong(gamma: float) -> None:
    """Also of pixels that are as right as float32 has it, where x^0.5 has no slope."""
    logits, label = example(0)
    logits = logits.at[1].multiply(100)
    weights = (1.0, 2.0, 0.5, 0.0)
    target = jnp.where(label == IGNORE, 0, label)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], -1)[..., 0]
    want = -jnp.asarray(weights)[target] * (1 - jnp.exp(log_p)) ** gamma * log_p

    def focal(x: jax.Array) -> jax.Array:
        return pixel_losses(x, label, IGNORE, weights, partial(focal_loss, gamma=gamma))[0]

    np.testing.assert_allclose(focal(logits), jnp.where(label == IGNORE, 0, want), rtol=1e-4)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(focal(x)))(logits)).all()


def test_nothing_but_ignored_pixels_gives_zero() -> None:
    logits, label = example(1)
    losses, valid = pixel_losses(logits, jnp.full_like(label, IGNORE), IGNORE)
    assert float(mean_loss(losses, valid)) == 0
    assert float(hard_pixel_loss(losses, 0.5)) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
def test_hard_pixels_are_the_largest_losses(seed: int, share: float) -> None:
    logits, label = example(seed)
    losses, _ = pixel_losses(logits, label, IGNORE)
    top = np.sort(np.asarray(losses).ravel())[::-1][: int(share * losses.size)]
    want = top.sum() / max(1, (top > 0).sum())
    np.testing.assert_allclose(hard_pixel_loss(losses, share), want, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.95, 1.0])
def test_hard_pixels_are_chosen_as_by_a_sort(share: float) -> None:
    """Value and gradient, with a loss of every magnitude, and zeros beside them."""
    rng = np.random.default_rng(0)
    losses = np.exp(rng.normal(scale=20, size=(2, 20, 30))).astype(np.float32)
    losses[rng.random(losses.shape) < 0.2] = 0

    def sorted_first(x: jax.Array) -> jax.Array:
        top = jnp.sort(x.ravel())[::-1][: int(share * x.size)]
        return jnp.sum(top) / jnp.maximum(jnp.sum(top > 0), 1)

    value, grad = jax.jit(jax.value_and_grad(lambda x: hard_pixel_loss(x, share)))(losses)
    want, want_grad = jax.value_and_grad(sorted_first)(losses)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    positive = losses > 0  # of zeros, which tie, any may be chosen
    np.testing.assert_allclose(grad[positive], want_grad[positive], rtol=1e-6)


def test_ties_at_the_end_of_the_choice_share_what_is_left() -> None:
    losses = jnp.array([[[3.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0]]])
    value, grad = jax.value_and_grad(lambda x: hard_pixel_loss(x, 0.25))(losses)
    assert float(value) == pytest.approx(2)  # of 3 and one of the ones
    np.testing.assert_allclose(grad.ravel(), [1 / 2, 1 / 6, 1 / 6, 1 / 6, 0, 0, 0, 0], rtol=1e-6)


def test_hard_pixels_of_losses_that_are_no_numbers_are_none() -> None:
    losses = jnp.array([[[1.0, jnp.nan, 2.0, 3.0]]])
    assert np.isnan(hard_pixel_loss(losses, 0.25))


def test_hard_pixel_share_ramps_down() -> None:
    shares = [float(hard_pixel_share(jnp.asarray(t), 0.25, 100)) for t in (0, 50, 100, 500)]
    np.testing.assert_allclose(shares, [1.0, 0.625, 0.25, 0.25])


def test_logits_are_upsampled_to_the_label() -> None:
    logits = jax.random.normal(jax.random.key(0), (1, 3, 4, 2))
    losses, _ = pixel_losses(logits, jnp.zeros((1, 9, 13), jnp.int32), IGNORE)
    assert losses.shape == (1, 9, 13)
    corner = -jax.nn.log_softmax(logits[0, 0, 0])[0]
    np.testing.assert_allclose(losses[0, 0, 0], corner, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(9, 13), (129, 97), (130, 33)])
def test_blocks_of_rows_are_the_plain_upsampled_loss(size: tuple[int, int]) -> None:
    """Value and gradient, for labels of one block of rows, of several, and of a padded last one."""
    logits = jax.random.normal(jax.random.key(0), (2, 9, 13, 4))
    label = jax.random.randint(jax.random.key(1), (2, *size), 0, 5)  # 4: ignored
    weights = (1.0, 2.0, 0.5, 0.1)

    def plain(x: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(resize_bilinear(x, size))
        chosen = jnp.take_along_axis(log_p, jnp.minimum(label, 3)[..., None], -1)[..., 0]
        weight = jnp.asarray((*weights, 0.0))[label]
        return -jnp.sum(chosen * weight) / jnp.sum(label < 4)

    def ours(x: jax.Array) -> jax.Array:
        return mean_loss(*pixel_losses(x, label, 4, weights))

    value, grad = jax.jit(jax.value_and_grad(ours))(logits)
    want, want_grad = jax.jit(jax.value_and_grad(plain))(logits)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(grad, want_grad, atol=1e-6)
