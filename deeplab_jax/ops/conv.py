"""Convolutions of feature maps [b, h, w, c] by kernels [kh, kw, in, out], depthwise [kh, kw, 1, c].

    y[b, i, j, d] = sum over u, v, c of x[b, i s + u r - top, j s + v r - left, c] k[u, v, c, d]

with stride s, atrous rate r, and zeros where x has no pixel. These forms are what TPUs and GPUs
run: there XLA computes the BatchNorm and ReLU before a convolution while it reads its input.
"""

from jax import Array, lax

Pair = int | tuple[int, int]  # of height and width; one number for both
Pads = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)
NO_PADS = ((0, 0), (0, 0))


def both(n: Pair) -> tuple[int, int]:
    """For height and for width."""
    return n if isinstance(n, tuple) else (n, n)


def spatial_pads(
    size: tuple[int, int], kernel: Pair, stride: int, rate: Pair, tf_same: bool
) -> Pads:
    """Zero padding of height and width.

    Official Xception and ResNet pad a strided convolution explicitly by `k_eff - 1`, so that it
    equals "stride 1, then every s-th pixel" (`core/xception.py: fixed_padding`); PyTorch's networks
    do so too. MobileNetV2 has TensorFlow's own SAME (`tf_same`), which on even sizes pads only
    bottom and right.
    """

    def pad(n: int, kernel: int, rate: int) -> tuple[int, int]:
        reach = (kernel - 1) * rate
        total = max((-(-n // stride) - 1) * stride + reach + 1 - n, 0) if tf_same else reach
        return (total // 2, total - total // 2)

    height, width = map(pad, size, both(kernel), both(rate))
    return (height, width)


def conv(
    x: Array, kernel: Array, stride: int, rate: Pair = 1, pads: Pads = NO_PADS, groups: int = 1
) -> Array:
    """The convolution; with `groups` each group of channels by its own part of the kernel."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(stride, stride),
        padding=pads,
        rhs_dilation=both(rate),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
