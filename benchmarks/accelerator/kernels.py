"""A depthwise 3x3 convolution as Pallas kernels for NVIDIA GPUs: an experiment, never timed.

A program takes a few pixels of the batch, whatever their rows, and a run of channels, which lie
along a warp: each thread loads 16 bytes at once, and the nine taps meet in the caches. Tests hold
its numbers to `conv`'s in interpret mode; README.md says what an H100's assembler makes of it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from deeplab_jax.ops.conv import Pads

# Of a program's tile; Triton wants powers of two. 4 warps x 32 threads x 8 channels of 2 bytes.
PIXELS, PIXELS_OF_SUM, CHANNELS, WARPS = 32, 16, 64, 4
TILES_OF_SUM = 32  # of pixels, whose kernel gradient one program adds up


def divide(n: Array, by: int) -> tuple[Array, Array]:
    """(n // by, n % by) of numbers at least 0; Triton's lowering knows no others."""
    return lax.div(n, jnp.int32(by)), lax.rem(n, jnp.int32(by))


def tile(number: Any, size: int) -> Array:
    return number * size + jnp.arange(size)


def load(ref: Any, place: tuple[Array, ...], inside: Array, c: Array) -> Array:
    """f32 [pixels, channels] of a map at (image, row, column) of each pixel, 0 where not inside."""
    index = (*[i[:, None] for i in place], c[None, :])
    mask = inside[:, None] & (c < ref.shape[-1])[None, :]
    return plgpu.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)


def load_taps(ref: Any, pixel: Array, size: tuple[int, int], c: Array, form: Any) -> Any:
    """What the nine positions of the kernel meet at these pixels of the output, one by one."""
    (_, h, w, _), (stride, rate, pads) = ref.shape, form
    rest, column = divide(pixel, size[1])
    image, row = divide(rest, size[0])
    for i in range(3):
        for j in range(3):
            y, x = row * stride + i * rate - pads[0][0], column * stride + j * rate - pads[1][0]
            inside = (image < ref.shape[0]) & (y >= 0) & (y < h) & (x >= 0) & (x < w)
            yield load(ref, (image, jnp.clip(y, 0, h - 1), jnp.clip(x, 0, w - 1)), inside, c)


def forward_kernel(x_ref: Any, k_ref: Any, y_ref: Any, *, size: Any, form: Any) -> None:
    """A tile of the output [pixels, channels]."""
    count, depth = y_ref.shape
    pixel, c = tile(pl.program_id(0), PIXELS), tile(pl.program_id(1), CHANNELS)
    total = jnp.zeros((PIXELS, CHANNELS), jnp.float32)
    for i, tap in enumerate(load_taps(x_ref, pixel, size, c, form)):
        weight = plgpu.load(k_ref.at[i, c], mask=c < depth, other=0.0)
        total += tap * weight.astype(jnp.float32)[None, :]
    mask = (pixel < count)[:, None] & (c < depth)[None, :]
    plgpu.store(y_ref.at[pixel[:, None], c[None, :]], total.astype(y_ref.dtype), mask=mask)


def gradient_kernel(x_ref: Any, dy_ref: Any, out_ref: Any, *, size: Any, form: Any) -> None:
    """The nine sums over a few tiles: one row of f32 [programs, 9, channels]."""
    count, depth = dy_ref.shape
    first, c = pl.program_id(0) * TILES_OF_SUM, tile(pl.program_id(1), CHANNELS)

    def add(n: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        pixel = tile(first + n, PIXELS_OF_SUM)
        dy = load(dy_ref, (jnp.minimum(pixel, count - 1),), pixel < count, c)
        taps = load_taps(x_ref, pixel, size, c, form)
        return tuple(total + tap * dy for total, tap in zip(sums, taps, strict=True))

    zeros = (jnp.zeros((PIXELS_OF_SUM, CHANNELS), jnp.float32),) * 9
    for i, total in enumerate(lax.fori_loop(0, TILES_OF_SUM, add, zeros)):
        plgpu.store(out_ref.at[pl.program_id(0), i, c], jnp.sum(total, axis=0), mask=c < depth)


def run(kernel: Any, out: Any, tiles: int, interpret: bool, *operands: Array) -> Array:
    """A grid of so many tiles of pixels by the tiles of channels."""
    grid, params = (tiles, pl.cdiv(out.shape[-1], CHANNELS)), plgpu.CompilerParams(num_warps=WARPS)
    launch = pl.pallas_call(
        kernel, out_shape=out, grid=grid, compiler_params=params, interpret=interpret
    )
    result: Array = launch(*operands)
    return result


def forward(
    x: Array, kernel: Array, stride: int, rate: int, pads: Pads, *, interpret: bool = False
) -> Array:
    """Depthwise convolution of x [b, h, w, c] by kernel [3, 3, 1, c], summed in float32."""
    b, *sides, c = x.shape
    h, w = ((n + sum(p) - 2 * rate - 1) // stride + 1 for n, p in zip(sides, pads, strict=True))
    body = partial(forward_kernel, size=(h, w), form=(stride, rate, pads))
    out = jax.ShapeDtypeStruct((b * h * w, c), x.dtype)
    y = run(body, out, pl.cdiv(b * h * w, PIXELS), interpret, x, kernel.reshape(9, c))
    return y.reshape(b, h, w, c)


def input_gradient(
    dy: Array, kernel: Array, rate: int, pads: Pads, *, interpret: bool = False
) -> Array:
    """dx at stride 1: the same sum with the kernel turned round."""
    (top, bottom), (left, right) = pads
    turned = ((2 * rate - top, 2 * rate - bottom), (2 * rate - left, 2 * rate - right))
    return forward(dy, kernel[::-1, ::-1], 1, rate, turned, interpret=interpret)


def kernel_gradient(
    x: Array, dy: Array, stride: int, rate: int, pads: Pads, *, interpret: bool = False
) -> Array:
    """dk f32 [3, 3, 1, c]: partial sums by the kernel, which XLA adds up."""
    b, h, w, c = dy.shape
    programs = pl.cdiv(b * h * w, PIXELS_OF_SUM * TILES_OF_SUM)
    body = partial(gradient_kernel, size=(h, w), form=(stride, rate, pads))
    out = jax.ShapeDtypeStruct((programs, 9, c), jnp.float32)
    sums = run(body, out, programs, interpret, x, dy.reshape(-1, c))
    return jnp.sum(sums, axis=0).reshape(3, 3, 1, c)
