"""Losses of pixels: the official one (`utils/train_utils.py`), softmax cross entropy over all or
over hard pixels, and the focal loss. `region_losses.py` has those of regions."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.ops.labels import valid_pixels
from deeplab_jax.ops.resize import height_width, map_upsampled

SMALLEST = 1e-7  # what a probability may be that is divided by, or raised to a power


def pixel_losses(
    logits: Array,
    label: Array,
    ignore_label: int,
    class_weights: tuple[float, ...] = (),
    loss_fn: Callable[[Sequence[Array], Array], Array] | None = None,
    logit_adjustment: Array | float | None = None,
) -> tuple[Array, Array]:
    """Weighted loss of each pixel (0 where ignored) and the mask of those that count.

    loss_fn, by default `cross_entropy`, has a loss of every pixel of one map of logits.

    logits f32 [b, h', w', c] are upsampled, corners aligned, to label int [b, h, w]: the paper's
    section 4 found that 1.2 mIoU better than shrinking the labels. They are so a block of rows at
    a time, the upsampled ones never in memory.

    With class weights w a network learns softmax(z) = w p / sum(w p) of the data's p: it predicts
    rare classes too often. logit_adjustment t: the loss sees z + t log w, so z alone has w^(1 - t)
    for w (Menon et al. 2021, arXiv 2007.07314, whose w is 1 / p). Weights of 0 are left alone.
    """
    valid = valid_pixels(label, logits.shape[-1], ignore_label)
    target = jnp.where(valid, label, 0)
    logits = logits.astype(jnp.float32)
    weights = jnp.asarray(class_weights, jnp.float32)
    if class_weights and logit_adjustment is not None:
        logits += logit_adjustment * jnp.log(jnp.where(weights > 0, weights, 1.0))
    loss = map_upsampled(loss_fn or cross_entropy, [logits], height_width(label), target)
    if class_weights:
        loss = loss * weights[target]
    return jnp.where(valid, loss, 0.0), valid


def cross_entropy(maps: Sequence[Array], target: Array, smoothing: float = 0.0) -> Array:
    """log(sum over classes of exp z) - z[target], of one map of logits z f32 [b, h, w, c].

    With label smoothing e, z[target] is (1 - e) z[target] + e * mean over classes of z: the target
    has 1 - e of its own and its share of e (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """
    (z,) = maps
    # Multiplied and not picked: a gather's gradient is a scatter, which no accelerator does well.
    of_target = jnp.sum(z * jax.nn.one_hot(target, z.shape[-1], dtype=z.dtype), axis=-1)
    if smoothing:
        of_target = (1.0 - smoothing) * of_target + smoothing * jnp.mean(z, axis=-1)
    return jax.nn.logsumexp(z, axis=-1) - of_target


def focal_loss(maps: Sequence[Array], target: Array, gamma: float) -> Array:
    """(1 - p)^gamma * -log p, p the target's softmax (Lin et al. 2017, arXiv 1708.02002)."""
    loss = cross_entropy(maps, target)
    wrong = jnp.maximum(-jnp.expm1(-loss), SMALLEST)  # 1 - p; x^gamma has no slope at 0
    return wrong**gamma * loss


def mean_loss(losses: Array, valid: Array) -> Array:
    """Sum of the weighted losses over the *number* of pixels that count, 0 if none does.

    Class weights do not enter the denominator (official `add_softmax_cross_entropy_loss_...`).
    """
    return jnp.sum(losses) / jnp.maximum(jnp.sum(valid), 1)


def hard_pixel_loss(losses: Array, share: Array | float) -> Array:
    """Mean over the `share` of all pixels with the largest losses, zeros left out of the count.

    Official `top_k_percent_pixels`: k counts ignored pixels too. Gradients of a pixel outside the
    chosen ones are exactly 0. Pixels that tie at the end of the choice have equal parts of what is
    left of it. losses f32, each at least 0 (a NaN is chosen first).

    The official code sorts. A sort would bring the losses of all devices to each of them; here the
    k-th largest is found from sums alone, `kth_largest`.
    """
    k = share * losses.size
    k = k.astype(jnp.int32) if isinstance(k, Array) else jnp.int32(k)
    bits = as_ordered_bits(losses)
    last = kth_largest(bits, k)
    above, tied = bits > last, bits == last
    left = k - jnp.sum(above)
    weight = jnp.where(above, 1.0, jnp.where(tied, left / jnp.maximum(jnp.sum(tied), 1), 0.0))
    count = jnp.sum(above) + jnp.where(last > 0, left, 0)
    return jnp.sum(jnp.where(weight > 0, weight * losses, 0.0)) / jnp.maximum(count, 1)


def as_ordered_bits(values: Array) -> Array:
    """f32 of at least 0 as uint32 in the same order, NaN last; no gradient flows through."""
    clipped = jnp.maximum(jax.lax.stop_gradient(values), 0.0)  # -0 too
    return jax.lax.bitcast_convert_type(clipped, jnp.uint32)


def kth_largest(bits: Array, k: Array) -> Array:
    """The k-th largest of uint32 values below 2^31, by halving the range: 31 counts, no sort.

    For k = 0 something above all of them.
    """

    def halve(i: int, found: Array) -> Array:
        higher = found | (jnp.uint32(1) << (30 - jnp.uint32(i)))
        return jnp.where(jnp.sum(bits >= higher) >= k, higher, found)

    return jax.lax.fori_loop(0, 31, halve, jnp.uint32(0))


def hard_pixel_share(step: Array, share: float, ramp_steps: int) -> Array:
    """The share at a step: falls linearly from 1 to `share` over `ramp_steps`."""
    ratio = jnp.minimum(1.0, step / ramp_steps) if ramp_steps else jnp.ones(())
    return ratio * share + (1.0 - ratio)
