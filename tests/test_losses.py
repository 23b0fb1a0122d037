"""The loss, pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_jax.losses import hard_pixel_loss, hard_pixel_share, mean_loss, pixel_losses

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


def test_gradient_at_ignored_pixels_is_exactly_zero() -> None:
    logits, label = example(0)
    label = label.at[0, 0].set(4)  # outside the classes: treated as ignored
    grad = jax.grad(lambda x: mean_loss(*pixel_losses(x, label, IGNORE)))(logits)
    ignored = np.asarray((label == IGNORE) | (label == 4))
    assert (np.asarray(grad)[ignored] == 0).all()
    assert (np.abs(np.asarray(grad)[~ignored]).max(-1) > 0).all()


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


def test_hard_pixel_share_ramps_down() -> None:
    shares = [float(hard_pixel_share(jnp.asarray(t), 0.25, 100)) for t in (0, 50, 100, 500)]
    np.testing.assert_allclose(shares, [1.0, 0.625, 0.25, 0.25])


def test_logits_are_upsampled_to_the_label() -> None:
    logits = jax.random.normal(jax.random.key(0), (1, 3, 4, 2))
    losses, _ = pixel_losses(logits, jnp.zeros((1, 9, 13), jnp.int32), IGNORE)
    assert losses.shape == (1, 9, 13)
    corner = -jax.nn.log_softmax(logits[0, 0, 0])[0]
    np.testing.assert_allclose(losses[0, 0, 0], corner, rtol=1e-5)
