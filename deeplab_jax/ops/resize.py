"""Bilinear resizing with aligned corners, as all of the official code does it.

    y[i] = (1 - t) x[k] + t x[k + 1],  k + t = i (n_in - 1) / (n_out - 1)

for rows, then for columns. `jax.image.resize` has no such mode (jax#11206).
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.ops.dispatch import apply_matrices
from deeplab_jax.ops.partition import gather_rows, split_rows

Size = tuple[int, int]  # height, width
ROW_COUNTS = (64, 56, 48, 40, 32)  # of a block; multiples of 8, so that 8 devices have equal shares


def scale_dimension(size: int, stride: int) -> int:
    """Length of `size` pixels at 1/stride: the official `int((size - 1) / stride + 1)`."""
    return (size - 1) // stride + 1


def scale_size(size: Size, stride: int) -> Size:
    """`scale_dimension` of height and width."""
    return (scale_dimension(size[0], stride), scale_dimension(size[1], stride))


def height_width(x: Array) -> Size:
    """The size of an image-like array [b, h, w] or [b, h, w, c]."""
    return (x.shape[1], x.shape[2])


def resize_matrix(n_in: int, n_out: int) -> Array:
    """The interpolation as a matrix f32 [n_out, n_in]: a product is what accelerators do best."""
    position = jnp.arange(n_out) * ((n_in - 1) / max(n_out - 1, 1))
    return jnp.maximum(0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(n_in)[None, :]))


@partial(jax.jit, static_argnames="size")  # a name that an exported file knows (`lowering/`)
def resize_bilinear(x: Array, size: Size) -> Array:
    """Resize x [b, h, w, c] to [b, *size, c], in float32 inside."""
    if height_width(x) == size:
        return x
    if height_width(x) == (1, 1):  # the pooled image
        return jnp.broadcast_to(x, (x.shape[0], *size, x.shape[3]))
    x32 = gather_rows(x).astype(jnp.float32)
    rows, columns = (resize_matrix(n, m) for n, m in zip(height_width(x), size, strict=True))
    y = apply_matrices(x32, rows, columns)
    return split_rows(y.astype(x.dtype))


def map_upsampled(
    function: Callable[..., Array], maps: Sequence[Array], size: Size, *arrays: Array
) -> Array:
    """`function(maps resized to size, *arrays)` [b, height, ...], a block of rows at a time.

    Of maps f32 [b, h', w', c] and arrays [b, height, ...], function must compute each row of its
    result from the same row of its arguments. The resized maps never are in memory, nor for the
    backward pass, which computes them again: at 513x513 with 21 classes they would be 22 MB an
    image each, and several times that in a TPU's layout.
    """
    if all(height_width(x) == size for x in maps):
        return function(list(maps), *arrays)
    height, width = size
    rows = min(ROW_COUNTS, key=lambda rows: -height % rows)  # the least padding
    maps = [gather_rows(x) for x in maps]

    @partial(jax.checkpoint, prevent_cse=False)  # nothing is merged across a loop
    def block(inputs: tuple[list[Array], list[Array]]) -> Array:
        matrices, parts = inputs
        resized = map(apply_matrices, maps, matrices, columns)
        return function(list(resized), *parts)

    columns = [resize_matrix(x.shape[2], width) for x in maps]
    matrices = [split_blocks(resize_matrix(x.shape[1], height), rows, axis=0) for x in maps]
    parts = [split_blocks(x, rows, axis=1) for x in arrays]
    y = jnp.moveaxis(jax.lax.map(block, (matrices, parts)), 0, 2)  # [b, rows, blocks, ...]
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :height]


def split_blocks(x: Array, rows: int, axis: int) -> Array:
    """The axis cut into blocks of so many rows, padded with zeros: [blocks, ..., rows, ...].

    Of n blocks one has every n-th row: devices that share an image's height each have a part of it.
    """
    blocks = -(-x.shape[axis] // rows)
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, blocks * rows - x.shape[axis])
    x = jnp.pad(x, padding)
    x = x.reshape(*x.shape[:axis], rows, blocks, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis + 1, 0)
