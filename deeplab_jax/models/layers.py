"""Convolutions, BatchNorm and resizing, each in the one form that the whole package uses.

Two forms differ from what one would write first, because XLA makes more of them (measured on
two x86-64 cores):

* a 1x1 convolution is a matrix product: on a CPU, 1.5x faster forward and 2-15x backward than
  `lax.conv`;
* a depthwise convolution is a sum of shifted multiply-adds with a custom VJP: on a CPU, 3-40x
  faster than `feature_group_count`; a dilated one is also reported slow on GPUs (jax#26266,
  jax#13800).

On a TPU both are `lax` convolutions: XLA computes the BatchNorm and ReLU before one while it reads
its input, writes the sums of the BatchNorm after it, and keeps the batch in the tiles' rows, where
33 columns would be padded to 40. A middle-flow unit, forward and backward, 16 images on a v5e:
2.4 GB of bytes accessed, 3.1 in the forms above (benchmarks/README.md).

On CUDA small kernels are what is saved, compiled ahead of time for an H100: Xception-65's training
step has less than half of the 6658 that the other forms have (benchmarks/README.md).

Shapes: image-like arrays are [b, h, w, c]; kernels are [kh, kw, in, out], depthwise ones
[kh, kw, 1, c].
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from deeplab_jax.parallel.mesh import gather_rows, platform_dependent, split_rows

Pads = tuple[tuple[int, int], tuple[int, int]]
NO_PADS = ((0, 0), (0, 0))


def scale_dimension(size: int, stride: int) -> int:
    """Length of `size` pixels at 1/stride: the official `int((size - 1) / stride + 1)`."""
    return (size - 1) // stride + 1


def height_width(x: Array) -> tuple[int, int]:
    """The size of an image-like array [b, h, w] or [b, h, w, c]."""
    return (x.shape[1], x.shape[2])


def scale_channels(channels: int, width: float) -> int:
    """Channels of a backbone `width` times as wide, never below 8."""
    return max(8, int(channels * width))


class AtrousStep(NamedTuple):
    """What a unit does at the chosen output stride.

    `natural_stride` is that of its input without atrous convolution.
    """

    stride: int
    rate: int
    natural_stride: int


def atrous_plan(
    unit_strides: Sequence[int], stem_stride: int, output_stride: int
) -> list[AtrousStep]:
    """Strides and rates of a backbone's units, from their natural strides.

    Once the output stride is reached, a unit that would stride keeps its pixels at the rate so far,
    and those after it dilate by its stride (official `stack_blocks_dense`).
    """
    plan = []
    natural, current, rate = stem_stride, stem_stride, 1
    for stride in unit_strides:
        dense = current == output_stride
        plan.append(AtrousStep(1 if dense else stride, rate if dense else 1, natural))
        natural *= stride
        if dense:
            rate *= stride
        else:
            current *= stride
    return plan


def spatial_pads(size: tuple[int, int], kernel: int, stride: int, rate: int, tf_same: bool) -> Pads:
    """Zero padding (before, after) of height and width.

    Official Xception and ResNet pad a strided convolution explicitly by `k_eff - 1`, so that it
    equals "stride 1, then every s-th pixel" (`core/xception.py: fixed_padding`). MobileNetV2 and
    the max-pool of ResNet use TensorFlow's own SAME (`tf_same`), which on even sizes pads only
    bottom and right.
    """
    reach = (kernel - 1) * rate
    if not tf_same or stride == 1:
        pad = (reach // 2, reach - reach // 2)
        return (pad, pad)

    def same(n: int) -> tuple[int, int]:
        total = max((-(-n // stride) - 1) * stride + reach + 1 - n, 0)
        return (total // 2, total - total // 2)

    return (same(size[0]), same(size[1]))


def shifted_sum(x: Array, kernel: Array, stride: int, rate: int, pads: Pads) -> Array:
    """Depthwise convolution of x [b, h, w, c] by kernel [kh, kw, 1, c] as shifted multiply-adds."""
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    kh, kw = kernel.shape[:2]
    taps = [
        (tap(padded, i, j, kernel.shape, stride, rate) * kernel[i, j, 0]).astype(x.dtype)
        for i in range(kh)
        for j in range(kw)
    ]
    return sum(taps[1:], start=taps[0])


def tap(
    padded: Array, i: int, j: int, kernel_shape: tuple[int, ...], stride: int, rate: int
) -> Array:
    """The pixels of the padded input that position (i, j) of the kernel meets: [b, oh, ow, c]."""
    b, h, w, c = padded.shape
    kh, kw = kernel_shape[:2]
    return lax.slice(
        padded,
        (0, i * rate, j * rate, 0),
        (b, h - (kh - 1 - i) * rate, w - (kw - 1 - j) * rate, c),
        (1, stride, stride, 1),
    )


def depthwise_conv(x: Array, kernel: Array, stride: int, rate: int, pads: Pads) -> Array:
    """Depthwise convolution with one filter a channel: x [b, h, w, c], kernel [kh, kw, 1, c]."""
    grouped = partial(conv, stride=stride, rate=rate, pads=pads, groups=x.shape[-1])
    return platform_dependent(
        x,
        kernel,
        tpu=lambda x, k: grouped(x, k.astype(x.dtype)),
        default=lambda x, k: shifted_conv(x, k, stride, rate, pads),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def shifted_conv(x: Array, kernel: Array, stride: int, rate: int, pads: Pads) -> Array:
    """Depthwise convolution by `shifted_sum`, with a backward pass of its own."""
    return shifted_sum(x, kernel, stride, rate, pads)


def _shifted_fwd(
    x: Array, kernel: Array, stride: int, rate: int, pads: Pads
) -> tuple[Array, tuple[Array, Array]]:
    return shifted_sum(x, kernel, stride, rate, pads), (x, kernel)


def _shifted_bwd(
    stride: int, rate: int, pads: Pads, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    """dx: the same shifted sum over the dilated cotangent, kernel flipped. dw: one reduction a tap.

    Autodiff would sum nine padded copies of the input's size instead.
    """
    x, kernel = residuals
    kh, kw = kernel.shape[:2]
    # Undo the stride by interior zeros; pad so that the flipped kernel meets what the forward met.
    spread = [(0, 0, 0)]
    for axis, (k, (before, _)) in enumerate(zip((kh, kw), pads, strict=True), start=1):
        reach = (k - 1) * rate
        dilated = (dy.shape[axis] - 1) * stride + 1
        spread.append((reach - before, x.shape[axis] + before - dilated, stride - 1))
    dy_spread = lax.pad(dy, jnp.zeros((), dy.dtype), [*spread, (0, 0, 0)])
    dx = shifted_sum(dy_spread, kernel[::-1, ::-1], 1, rate, NO_PADS)

    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    reductions = partial(_kernel_gradient, size=(kh, kw), stride=stride, rate=rate)
    cudnn = partial(cudnn_kernel_gradient, size=(kh, kw), stride=stride)
    dw = platform_dependent(
        padded,
        dy,
        cpu=partial(_kernel_gradient_by_rows, size=(kh, kw), stride=stride, rate=rate),
        cuda=cudnn if rate == 1 else reductions,
        default=reductions,
    )
    return dx, dw.reshape(kernel.shape).astype(kernel.dtype)


shifted_conv.defvjp(_shifted_fwd, _shifted_bwd)


def _kernel_gradient(
    padded: Array, dy: Array, *, size: tuple[int, int], stride: int, rate: int
) -> Array:
    """dw [kh * kw, c]: a reduction over (b, h, w) for each tap."""
    shape = (*size, 1, 1)
    taps = [tap(padded, i, j, shape, stride, rate) for i in range(size[0]) for j in range(size[1])]
    return jnp.stack(channel_sums(*(t * dy for t in taps)))


def cudnn_kernel_gradient(padded: Array, dy: Array, *, size: tuple[int, int], stride: int) -> Array:
    """The same by cuDNN, for CUDA: one call where XLA makes 23 kernels of nine sums.

    Not for dilated kernels, which cuDNN would have transposed first.
    """
    c = dy.shape[-1]
    kernel = jnp.zeros((*size, 1, c), dy.dtype)
    convolve = partial(conv, padded, stride=stride, rate=1, pads=NO_PADS, groups=c)
    (dw,) = jax.linear_transpose(convolve, kernel)(dy)
    return dw.reshape(-1, c).astype(jnp.float32)


def _kernel_gradient_by_rows(
    padded: Array, dy: Array, *, size: tuple[int, int], stride: int, rate: int
) -> Array:
    """The same for XLA:CPU, which would write out each tap: a loop over rows stays in the cache."""
    kh, kw = size
    b, h, _, c = dy.shape

    def add_row(total: Array, y: Array) -> tuple[Array, None]:
        row = lax.dynamic_slice_in_dim(dy, y, 1, axis=1)
        above = [lax.dynamic_slice_in_dim(padded, y * stride + i * rate, 1, 1) for i in range(kh)]
        taps = [tap(a, 0, j, (1, kw), stride, rate) for a in above for j in range(kw)]
        return total + jnp.stack([jnp.sum(t * row, (1, 2), jnp.float32) for t in taps], 1), None

    total, _ = lax.scan(add_row, jnp.zeros((b, kh * kw, c)), jnp.arange(h))
    return jnp.sum(total, axis=0)


def pointwise_conv(x: Array, kernel: Array, stride: int) -> Array:
    """1x1 convolution as a matrix product: x [b, h, w, c], kernel [1, 1, c, d]."""

    def product(x: Array, kernel: Array) -> Array:
        # Pixels 0, s, 2s, ... whatever the padding rule.
        return x[:, ::stride, ::stride] @ kernel[0, 0]

    return platform_dependent(
        x,
        kernel,
        tpu=partial(conv, stride=stride, rate=1, pads=NO_PADS),
        cuda=lambda x, kernel: cudnn_pointwise(x, kernel, stride),
        default=product,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def cudnn_pointwise(x: Array, kernel: Array, stride: int) -> Array:
    """1x1 convolution by cuDNN, for CUDA: fewer kernels around it than around Triton's product.

    Triton even ends in a failed check where a slice precedes the product (openxla/xla#47381).
    Backward dw comes before dx: XLA would put off every dw to the end of the step, and keep its
    operands until then (Xception-65, 16 images: 8.9 GB instead of 7.4). The price: no dx is
    computed while the devices exchange dw.
    """
    return conv(x, kernel, stride, 1, NO_PADS)


def _cudnn_pointwise_fwd(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return cudnn_pointwise(x, kernel, stride), (x, kernel)


def _cudnn_pointwise_bwd(
    stride: int, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    convolve = partial(conv, stride=stride, rate=1, pads=NO_PADS)
    (dw,) = jax.linear_transpose(partial(convolve, x), kernel)(dy)
    dw, dy = lax.optimization_barrier((dw, dy))
    (dx,) = jax.linear_transpose(lambda x: convolve(x, kernel), x)(dy)
    return dx, dw


cudnn_pointwise.defvjp(_cudnn_pointwise_fwd, _cudnn_pointwise_bwd)


def conv(x: Array, kernel: Array, stride: int, rate: int, pads: Pads, groups: int = 1) -> Array:
    """XLA's k x k convolution: x [b, h, w, c], kernel [kh, kw, c / groups, d]."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        rhs_dilation=(rate, rate),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def max_pool(x: Array, window: int, stride: int) -> Array:
    """Maximum over window x window with TensorFlow's SAME: [b, h, w, c] -> [b, ceil(h/s), ...]."""
    return nn.max_pool(x, (window, window), (stride, stride), padding="SAME")


def average_pool(x: Array, window: tuple[int, int]) -> Array:
    """Mean over every whole window (VALID, stride 1), in float32; a larger window is cut to x."""
    h, w = height_width(x)
    window = (min(window[0], h), min(window[1], w))
    x = x.astype(jnp.float32)
    if window == (h, w):
        return jnp.mean(x, axis=(1, 2), keepdims=True)
    return nn.avg_pool(x, window)


def adaptive_average_pool(x: Array, bins: int) -> Array:
    """Means over a grid of bins x bins regions that cover x [b, h, w, c]; -> [b, bins, bins, c].

    Region i of n pixels goes from floor(i n / bins) up to ceil((i + 1) n / bins), as in PSPNet's
    public implementations.
    """

    def matrix(n: int) -> Array:
        i, pixel = jnp.arange(bins)[:, None], jnp.arange(n)[None, :]
        inside = (pixel >= i * n // bins) & (pixel < -(-(i + 1) * n // bins))
        return inside / jnp.sum(inside, axis=1, keepdims=True)

    h, w = height_width(x)
    y = jnp.einsum("ih,jw,bhwc->bijc", matrix(h), matrix(w), x.astype(jnp.float32))
    return y.astype(x.dtype)


def resize_matrix(n_in: int, n_out: int) -> Array:
    """Bilinear interpolation with aligned corners as a matrix [n_out, n_in]."""
    position = jnp.arange(n_out) * ((n_in - 1) / max(n_out - 1, 1))
    return jnp.maximum(0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(n_in)[None, :]))


BLOCK_ROWS = 64  # of an upsampled map handled at once, at most
ROW_SHARES = 8  # a block's rows are a multiple of this: as many devices have equal shares of them


def row_blocks(n_in: int, n_out: int, most: int = BLOCK_ROWS) -> Array:
    """`resize_matrix` cut into blocks of rows: [blocks, rows, n_in], padded with zeros.

    Of n blocks one has every n-th row, so that devices which share an image's height have a part
    of each block.
    """
    most = max(most, ROW_SHARES)
    sizes = range(-(-most // 2 // ROW_SHARES) * ROW_SHARES, most + 1, ROW_SHARES)
    rows = min(sizes, key=lambda rows: (-(-n_out // rows) * rows, -rows))  # the least padding
    blocks = -(-n_out // rows)
    matrix = jnp.pad(resize_matrix(n_in, n_out), ((0, blocks * rows - n_out), (0, 0)))
    return matrix.reshape(rows, blocks, n_in).swapaxes(0, 1)


def rows_of_blocks(x: Array, matrices: Array) -> Array:
    """[b, h, ...] -> [blocks, b, rows, ...], the rows of each block, padded with zeros."""
    blocks, rows = matrices.shape[:2]
    padding = [(0, 0), (0, blocks * rows - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    padded = jnp.pad(x, padding).reshape(x.shape[0], rows, blocks, *x.shape[2:])
    return jnp.moveaxis(padded, 2, 0)


def join_rows(blocks: Array, height: int) -> Array:
    """The inverse of `rows_of_blocks`: [blocks, b, rows, ...] -> [b, height, ...]."""
    n, b, rows = blocks.shape[:3]
    return jnp.moveaxis(blocks, 0, 2).reshape(b, n * rows, *blocks.shape[3:])[:, :height]


def upsample_rows(x: Array, matrix: Array, width: int) -> Array:
    """Some rows of x f32 [b, h, w, c] upsampled: matrix [rows, h] -> [b, rows, width, c]."""
    y = interpolate(matrix, x, 1)
    return y if x.shape[2] == width else interpolate(resize_matrix(x.shape[2], width), y, 2)


def interpolate(matrix: Array, x: Array, axis: int) -> Array:
    """matrix [n, m] times the rows (axis 1) or columns (axis 2), m of them, of x f32 [b, h, w, c].

    On CUDA as a batch of products that move no axis: for the einsum XLA's Triton finds no tiles
    where the axes around the summed one, merged, have an odd size.
    """
    kept, summed, last = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]

    def batched(matrix: Array, x: Array) -> Array:
        y = jnp.einsum(
            "knm,kmc->knc",
            jnp.broadcast_to(matrix, (math.prod(kept), *matrix.shape)),
            x.reshape(-1, summed, math.prod(last)),
            precision="highest",
        )
        return y.reshape(*kept, -1, *last)

    einsum = partial(
        jnp.einsum, "nh,bhwc->bnwc" if axis == 1 else "nw,bhwc->bhnc", precision="highest"
    )
    return platform_dependent(matrix, x, cuda=batched, default=einsum)


def resize_bilinear(x: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of x [b, h, w, c] to [b, *size, c] with aligned corners, in float32.

    `jax.image.resize` has no such mode (jax#11206); all resizes of the official code need it.
    """
    if x.shape[1:3] == size:
        return x
    if x.shape[1:3] == (1, 1):  # the pooled image
        return jnp.broadcast_to(x, (x.shape[0], *size, x.shape[3]))
    x32 = gather_rows(x).astype(jnp.float32)
    y = upsample_rows(x32, resize_matrix(x.shape[1], size[0]), size[1]).astype(x.dtype)
    return split_rows(y)


def channel_sums(*arrays: Array) -> tuple[Array, ...]:
    """Sums of arrays of one shape [b, ..., c] over all but the last axis, each f32 [c]."""

    def separate(*arrays: Array) -> tuple[Array, ...]:
        return tuple(jnp.sum(x, range(x.ndim - 1), jnp.float32) for x in arrays)

    return platform_dependent(*arrays, cuda=sums_in_pairs, default=separate)


def sums_in_pairs(*arrays: Array) -> tuple[Array, ...]:
    """`channel_sums` for CUDA: of two, 2 kernels and an all-reduce, where XLA makes 7 kernels.

    More than two at once XLA writes out before it sums them, or needs too much shared memory for.
    """

    def add(x: Sequence[Array], y: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(map(jnp.add, x, y))

    parts = []  # [b, c] each
    for i in range(0, len(arrays), 2):
        pair = tuple(x.astype(jnp.float32) for x in arrays[i : i + 2])
        parts += lax.reduce(pair, (0.0,) * len(pair), add, range(1, pair[0].ndim - 1))
    index = jnp.arange(len(parts))[:, None]
    joined = parts[0][:, None]
    for i, part in enumerate(parts[1:], start=1):
        joined = jnp.where(index == i, part[:, None], joined)
    total = jnp.sum(joined, axis=0)
    # Masked, not sliced: XLA joins what uses the sums only if it reads the same elements.
    return tuple(jnp.sum(jnp.where(index == i, total, 0), axis=0) for i in range(len(parts)))


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance over all but the last axis, in one pass, float32."""
    x = x.astype(jnp.float32)
    mean, square = (s * (x.shape[-1] / x.size) for s in channel_sums(x, jnp.square(x)))
    return mean, jnp.maximum(0.0, square - jnp.square(mean))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, tuple[Array, Array]]:
    """x [..., c] by its own mean and variance, scaled and shifted; and these two moments.

    The moments feed the running averages and carry no gradient. Backward needs x alone: autodiff
    would keep two float32 arrays of its size besides.
    """
    return _batch_norm_fwd(x, scale, bias, epsilon)[0]


def _batch_norm_fwd(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, tuple[Array, Array]], tuple[Array, ...]]:
    mean, var = checkpoint_name(moments(x), "moments")
    inverse = lax.rsqrt(var + epsilon)
    inverse, gain = checkpoint_name((inverse, scale * inverse), "moments")
    y = ((x - mean) * gain + bias).astype(x.dtype)
    return (y, (mean, var)), (x, mean, inverse, gain)


def _batch_norm_bwd(
    epsilon: float, residuals: tuple[Array, ...], cotangents: tuple[Array, Any]
) -> tuple[Array, Array, Array]:
    """With x^ = (x - mean) / deviation: dx = scale / deviation (dy - mean(dy) - x^ mean(dy x^))."""
    x, mean, inverse, gain = residuals
    dy = cotangents[0].astype(jnp.float32)
    count = x.size // x.shape[-1]
    normal = (x - mean) * inverse
    dbias, dscale = channel_sums(dy, dy * normal)
    dx = (dy - dbias / count - normal * (dscale / count)) * gain
    return dx.astype(x.dtype), dscale, dbias


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


class BatchNorm(nn.Module):
    """Batch normalisation over all but the last axis, statistics in float32.

    Under `jit` with the batch sharded over devices the mean is over the *global* batch: what other
    frameworks call synchronised BatchNorm needs no further code here. Where the collection
    `moments` is mutable, the input's mean and variance are written there (`weights/batch_norm.py`).
    """

    features: int
    decay: float
    epsilon: float

    def setup(self) -> None:
        c = (self.features,)
        self.scale = self.param("scale", nn.initializers.ones, c)
        self.bias = self.param("bias", nn.initializers.zeros, c)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, c)
        self.var = self.variable("batch_stats", "var", jnp.ones, c)

    def affine(self) -> tuple[Array, Array]:
        """(gain, shift) with y = gain x + shift, by the averages."""
        gain = self.scale * lax.rsqrt(self.var.value + self.epsilon)
        return gain, self.bias - self.mean.value * gain

    def __call__(self, x: Array, *, train: bool) -> Array:
        if self.is_mutable_collection("moments") and not self.is_initializing():
            self.sow("moments", "mean_var", moments(x))
        if not train:
            gain, shift = self.affine()
            return (x * gain + shift).astype(x.dtype)
        y, (mean, var) = batch_norm(x, self.scale, self.bias, self.epsilon)
        if not self.is_initializing():
            self.mean.value = self.decay * self.mean.value + (1 - self.decay) * mean
            self.var.value = self.decay * self.var.value + (1 - self.decay) * var
        return y


class ConvBN(nn.Module):
    """Convolution, BatchNorm and, when asked, an activation: the brick of every network here.

    `features=None` makes it depthwise. Outside training BatchNorm is folded into the kernel: one
    pass over the output less.
    """

    features: int | None
    kernel: int = 1
    stride: int = 1
    rate: int = 1
    activation: Callable[[Array], Array] | None = None
    tf_same: bool = False
    decay: float = 0.9997
    epsilon: float = 1e-3
    kernel_init: Initializer = nn.initializers.truncated_normal(0.09)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        k, c = self.kernel, x.shape[-1]
        shape = (k, k, 1, c) if self.features is None else (k, k, c, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        norm = BatchNorm(self.features or c, self.decay, self.epsilon, name="norm")
        if train or self.is_mutable_collection("moments"):
            x = self.convolve(x, kernel)
            if self.features is not None:  # a depthwise one costs less than its memory
                x = checkpoint_name(x, "convolution")
            x = norm(x, train=train)
        else:
            gain, shift = norm.affine()
            x = self.convolve(x, kernel * gain) + shift.astype(self.dtype)
        return self.activation(x) if self.activation is not None else x

    @nn.nowrap
    def convolve(self, x: Array, kernel: Array) -> Array:
        x, k = x.astype(self.dtype), self.kernel
        pads = spatial_pads(height_width(x), k, self.stride, self.rate, self.tf_same)
        if self.features is None:
            return depthwise_conv(x, kernel, self.stride, self.rate, pads)
        kernel = kernel.astype(self.dtype)
        if k == 1:
            return pointwise_conv(x, kernel, self.stride)
        return conv(x, kernel, self.stride, self.rate, pads)


def recompute_policy(remat: str) -> Any:
    """What `jax.checkpoint` keeps of a unit for the backward pass; the rest is computed again."""
    if remat == "convolutions":
        return jax.checkpoint_policies.save_only_these_names("convolution", "moments")
    return jax.checkpoint_policies.nothing_saveable


def apply_unit(
    unit: nn.Module, x: Array, *, train: bool, remat: str = "none"
) -> tuple[Array, Array]:
    """A unit of a backbone, its inside recomputed in the backward pass as `remat` says."""

    def call(unit: nn.Module, x: Array) -> tuple[Array, Array]:
        return unit(x, train=train)

    if remat == "none" or not train:
        return call(unit, x)
    # Of (variables, random keys, x), XLA may share what follows from the first two alone: kernels
    # in bfloat16.
    prevent_cse: Any = (False, False, True)
    return nn.remat(call, policy=recompute_policy(remat), prevent_cse=prevent_cse)(unit, x)


relu = nn.relu


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)
