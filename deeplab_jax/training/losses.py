"""The official loss (`utils/train_utils.py`): softmax cross entropy, ignored and hard pixels."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.models.layers import (
    BLOCK_ROWS,
    interpolate,
    join_rows,
    resize_matrix,
    row_blocks,
    rows_of_blocks,
    upsample_rows,
)
from deeplab_jax.ops.labels import valid_pixels
from deeplab_jax.parallel.mesh import gather_rows, platform_dependent


def pixel_losses(
    logits: Array, label: Array, ignore_label: int, class_weights: tuple[float, ...] = ()
) -> tuple[Array, Array]:
    """Weighted cross entropy of each pixel (0 where ignored) and the mask of those that count.

    logits f32 [b, h', w', c] are upsampled, corners aligned, to label int [b, h, w]: the paper's
    section 4 found that 1.2 mIoU better than shrinking the labels.
    """
    num_classes = logits.shape[-1]
    valid = valid_pixels(label, num_classes, ignore_label)
    target = jnp.where(valid, label, 0)
    loss = upsampled_cross_entropy(logits.astype(jnp.float32), target)
    if class_weights:
        loss = loss * jnp.asarray(class_weights, jnp.float32)[target]
    return jnp.where(valid, loss, 0.0), valid


# Elements of an image's block on CUDA, where each block is 26 kernels: at 513x513 21 classes go in
# one block, 24 MB an image, instead of nine.
CUDA_BLOCK = 6_000_000


@jax.custom_vjp
def upsampled_cross_entropy(logits: Array, target: Array) -> Array:
    """Cross entropy of logits f32 [b, h', w', c] upsampled to target int [b, h, w]: f32 [b, h, w].

    Forward and backward go over blocks of rows, so that the upsampled logits and their softmax,
    [b, h, w, c] in float32, never are in memory: at 513x513 and 21 classes they would be 22 MB an
    image each, and several times that in a TPU's layout.
    """
    return by_rows(_cross_entropy, logits, target)


def by_rows(function: Callable[..., Array], logits: Array, target: Array, *more: Array) -> Array:
    """The function called with the largest block of rows that suits the platform."""
    cuda_rows = max(1, CUDA_BLOCK // (target.shape[2] * logits.shape[3]))
    return platform_dependent(
        gather_rows(logits),
        target,
        *more,
        cuda=partial(function, most=cuda_rows),
        default=partial(function, most=BLOCK_ROWS),
    )


def _cross_entropy(logits: Array, target: Array, most: int) -> Array:
    def block(rows: tuple[Array, Array]) -> Array:
        matrix, labels = rows
        z = upsample_rows(logits, matrix, target.shape[2])
        return jax.nn.logsumexp(z, axis=-1) - jnp.sum(z * one_hot(labels, z), axis=-1)

    matrices = row_blocks(logits.shape[1], target.shape[1], most)
    blocks = (matrices, rows_of_blocks(target, matrices))
    return join_rows(jax.lax.map(block, blocks), target.shape[1])


def _cross_entropy_fwd(logits: Array, target: Array) -> tuple[Array, tuple[Array, Array]]:
    return upsampled_cross_entropy(logits, target), (logits, target)


def _cross_entropy_bwd(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, None]:
    return by_rows(_cross_entropy_gradient, *residuals, dy), None


def _cross_entropy_gradient(logits: Array, target: Array, dy: Array, most: int) -> Array:
    width = resize_matrix(logits.shape[2], target.shape[2])

    def block(total: Array, rows: tuple[Array, Array, Array]) -> tuple[Array, None]:
        matrix, labels, dy_rows = rows
        z = upsample_rows(logits, matrix, target.shape[2])
        dz = (jax.nn.softmax(z, axis=-1) - one_hot(labels, z)) * dy_rows[..., None]
        return total + interpolate(matrix.T, interpolate(width.T, dz, 2), 1), None

    matrices = row_blocks(logits.shape[1], target.shape[1], most)
    blocks = (matrices, rows_of_blocks(target, matrices), rows_of_blocks(dy, matrices))
    return jax.lax.scan(block, jnp.zeros_like(logits), blocks)[0]


upsampled_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


def one_hot(labels: Array, z: Array) -> Array:
    return jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)


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
