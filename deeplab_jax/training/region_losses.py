"""Losses of regions, for rare classes beside cross entropy: Dice, Tversky, Lovász-softmax.

Each is an average over the classes that an image's labels show, however few pixels they have. An
image counts as its pixels that are not ignored, so that the loss of a batch is the same over
devices and in the parts of gradient accumulation. Or all images together are taken for one
(`per_batch`), as nnU-Net's batch Dice: not to be divided into parts.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.ops.labels import valid_pixels
from deeplab_jax.ops.partition import gather_rows
from deeplab_jax.ops.resize import height_width, map_upsampled, resize_bilinear
from deeplab_jax.training.losses import SMALLEST


def tversky_loss(
    logits: Array, label: Array, ignore_label: int, *, beta: float, per_batch: bool = False
) -> Array:
    """Mean of 1 - hits / (hits + (1 - beta) * false alarms + beta * misses).

    Of a class' probabilities p and labels y in {0, 1}: hits sum p y, false alarms sum p (1 - y),
    misses sum (1 - p) y (Salehi et al. 2017, arXiv 1706.05721). beta = 1/2 is the Dice loss,
    1 - 2 sum p y / (sum p + sum y) (Milletari et al. 2016, arXiv 1606.04797, without its squares).

    logits f32 [b, h', w', c] are upsampled to label int [b, h, w] a block of rows at a time.
    """
    hits, predicted, labelled = sum_pixels(logits, label, ignore_label, per_batch)
    wrong = (1.0 - beta) * (predicted - hits) + beta * (labelled - hits)
    index = hits / jnp.maximum(hits + wrong, SMALLEST)  # 0: a class that no pixel has
    return jnp.sum(shares(labelled) * (1.0 - index))


def sum_pixels(
    logits: Array, label: Array, ignore_label: int, per_batch: bool
) -> tuple[Array, Array, Array]:
    """Sums over the pixels that count of p y, p and y: each f32 [images, c]."""
    valid = valid_pixels(label, logits.shape[-1], ignore_label)

    def sum_rows(maps: Sequence[Array], target: Array, valid: Array) -> Array:
        (z,) = maps
        p = jnp.where(valid[..., None], jax.nn.softmax(z), 0.0)
        y = jnp.where(valid[..., None], jax.nn.one_hot(target, z.shape[-1]), 0.0)
        return jnp.stack([jnp.sum(x, axis=2) for x in (p * y, p, y)], axis=2)

    size, logits = height_width(label), logits.astype(jnp.float32)
    rows = map_upsampled(sum_rows, [logits], size, jnp.where(valid, label, 0), valid)
    sums = sum_images(jnp.sum(rows, axis=1), per_batch)
    return sums[:, 0], sums[:, 1], sums[:, 2]


def sum_images(sums: Array, per_batch: bool) -> Array:
    """What was summed of each image [b, ...], or all images as one [1, ...]."""
    return jnp.sum(sums, axis=0, keepdims=True) if per_batch else sums


def shares(labelled: Array) -> Array:
    """What a class of an image counts, f32 [images, c], from the pixels that are labelled so.

    An image counts as its pixels, and each class that it shows as much as the others. The sum is
    1; or 0, of nothing but ignored pixels.
    """
    shown = labelled > 0
    pixels = jnp.sum(labelled, axis=-1, keepdims=True)
    of_each = pixels / jnp.maximum(jnp.sum(shown, axis=-1, keepdims=True), 1)
    return jnp.where(shown, of_each / jnp.maximum(jnp.sum(pixels), 1.0), 0.0)


def lovasz_loss(
    logits: Array, label: Array, ignore_label: int, *, per_batch: bool = False
) -> Array:
    """Mean of the convex extension of 1 - IoU to errors |y - p| (Berman et al. 2018, 1705.08790).

    Of a class' errors in falling order e_1, e_2, ... it is sum_k e_k (J_k - J_(k-1)), with J_k
    1 - IoU of a prediction that is wrong in the first k pixels: `lovasz_extension`.

    The full-size pixels are sorted class by class, and again in the backward pass: what is held are
    some maps f32 [b, h, w] of one class. Devices that share an image's height each sort all of it.
    """
    size, logits = height_width(label), logits.astype(jnp.float32)
    classes = jnp.arange(logits.shape[-1])
    valid = valid_pixels(label, len(classes), ignore_label)
    labelled = jnp.sum(valid[..., None] & (label[..., None] == classes), axis=(1, 2))
    share = shares(sum_images(labelled.astype(jnp.float32), per_batch))
    log_sum = map_upsampled(lambda maps: jax.nn.logsumexp(maps[0], axis=-1), [logits], size)

    @jax.checkpoint
    def add(loss: Array, of_class: tuple[Array, Array, Array]) -> tuple[Array, None]:
        z, i, share = of_class
        p = jnp.exp(resize_bilinear(z[..., None], size)[..., 0] - log_sum)
        shown = valid & (label == i)
        # Of ignored pixels 0: they come last, and add nothing.
        errors = jnp.where(valid, jnp.abs(shown - p), 0.0)
        flat = [gather_rows(x).reshape(len(share), -1) for x in (errors, shown)]
        return loss + jnp.sum(share * lovasz_extension(*flat)), None

    of_classes = (jnp.moveaxis(logits, -1, 0), classes, share.T)
    return jax.lax.scan(add, jnp.zeros(()), of_classes)[0]


def lovasz_extension(errors: Array, shown: Array) -> Array:
    """sum_k e_k (J_k - J_(k-1)) of errors f32 [n, pixels], where bool [n, pixels] is the class.

    Wrong in k pixels, f of them of the class, which has n, the union is u = n + k - f, and the
    IoU (n - f) / u: a pixel of the class takes 1 / u from it, another (n - f) / (u (u - 1)).
    """
    falling, shown = jax.lax.sort((-errors, shown), dimension=1, is_stable=False, num_keys=1)
    found = jnp.cumsum(shown, axis=1)
    count = found[:, -1:]
    union = count + jnp.cumsum(~shown, axis=1)
    of_other = (count - found) / jnp.maximum(union - 1, 1) / union
    return jnp.sum(-falling * jnp.where(shown, 1.0 / union, of_other), axis=1)
