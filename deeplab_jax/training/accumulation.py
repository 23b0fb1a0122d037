"""Gradient accumulation: a batch larger than memory has room for, part by part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.ops.labels import valid_pixels

Gradient = Callable[..., tuple[tuple[Array, Any], Any]]  # ((loss, batch_stats), gradient)


def accumulate(gradient: Gradient, parts: int, num_classes: int, ignore_label: int) -> Gradient:
    """The gradient of a batch, computed part by part in the memory of one part.

    Loss and gradient are the batch's: each part weighs as its valid pixels, as they do in the
    mean. BatchNorm normalises each part by its own statistics and moves its averages once
    a part, as if each were a batch; with `freeze_batch_norm` nothing differs from the whole batch
    but the order of sums (and dropout's draws). Hard pixels are chosen within each part.
    """

    def count_valid(label: Array) -> Array:
        return jnp.sum(valid_pixels(label, num_classes, ignore_label))

    def split(x: Array) -> Array:
        # Every parts-th row: each part has rows of every device, whose rows stand together.
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    def whole(
        params: Any, batch_stats: Any, image: Array, label: Array, key: Array, step: Array
    ) -> Any:
        pixels = jnp.maximum(count_valid(label), 1)

        def add(total: Any, part: tuple[Array, Array, Array]) -> tuple[Any, None]:
            (loss, batch_stats), grads = total
            (part_loss, batch_stats), part_grads = gradient(params, batch_stats, *part, step)
            share = count_valid(part[1]) / pixels
            grads = jax.tree.map(lambda x, y: x + share * y, grads, part_grads)
            return ((loss + share * part_loss, batch_stats), grads), None

        nothing = ((jnp.zeros(()), batch_stats), jax.tree.map(jnp.zeros_like, params))
        keys = jax.random.split(key, parts)
        return jax.lax.scan(add, nothing, (split(image), split(label), keys))[0]

    return whole
