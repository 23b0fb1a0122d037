"""What all networks are made of: convolution, BatchNorm and activation, and their constants."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer, he_normal, truncated_normal, xavier_uniform
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from deeplab_jax.config import ModelConfig
from deeplab_jax.ops.conv import Pads, Pair, both, conv, spatial_pads
from deeplab_jax.ops.dispatch import depthwise_conv, pointwise_conv
from deeplab_jax.ops.norm import batch_norm, moments
from deeplab_jax.ops.resize import height_width, resize_bilinear

relu = nn.relu


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


def hard_sigmoid(x: Array) -> Array:
    """relu6(x + 3) / 6, where the official gates have 0.16667 (`core/utils.py: q_sigmoid`)."""
    return relu6(x + 3) * 0.16667


def hard_swish(x: Array) -> Array:
    """x relu6(x + 3) / 6 (arXiv 1905.02244, section 5.2)."""
    return x * relu6(x + 3) * (1 / 6)


class KernelInits(NamedTuple):
    """How kernels start: depthwise ones, those behind them, plain ones, and the logits'."""

    depthwise: Initializer
    pointwise: Initializer
    plain: Initializer
    logits: Initializer


SLIM_INITS = KernelInits(*[truncated_normal(0.09)] * 4)  # official Xception and MobileNetV2
HE_INITS = KernelInits(he_normal(), he_normal(), he_normal(), xavier_uniform())
DEEPLAB_INITS = KernelInits(  # `core/utils.py`, `model.py`
    truncated_normal(0.33), truncated_normal(0.06), xavier_uniform(), truncated_normal(0.01)
)


@dataclass(frozen=True)
class LayerOptions:
    """What the layers of one part of a network share."""

    decay: float = 0.9997
    """Of BatchNorm's averages."""
    epsilon: float = 1e-3
    inits: KernelInits = SLIM_INITS
    tf_same: bool = False
    """Pad strided convolutions as TensorFlow's SAME does."""
    dtype: Any = jnp.float32
    """Of the arithmetic; parameters and statistics are float32."""


# The official constants of backbones by family and of heads. PSPNet and U-Net have no official
# ones: decay and epsilon are DeepLab's head's, the initial values those of their papers (He's).
OPTIONS = {
    "xception": LayerOptions(0.9997, 1e-3, SLIM_INITS),
    "mobilenet": LayerOptions(0.997, 1e-3, SLIM_INITS, tf_same=True),
    "resnet": LayerOptions(0.95, 1e-5, HE_INITS),
    "torch": LayerOptions(0.9, 1e-5, HE_INITS),  # backbones of `ModelConfig.torch_form`
    "unet": LayerOptions(0.9997, 1e-5, HE_INITS),
    "pspnet": LayerOptions(0.9997, 1e-5, HE_INITS),
    "deeplab": LayerOptions(0.9997, 1e-5, DEEPLAB_INITS),
}


def layer_options(config: ModelConfig, part: str) -> LayerOptions:
    """The options of a part, `OPTIONS`' name, with what the configuration changes."""
    options = OPTIONS[part]
    if part == "deeplab" and config.head_init == "he":
        options = replace(options, inits=HE_INITS)
    decay = config.batch_norm_decay or options.decay
    dtype = jnp.bfloat16 if config.dtype == "bfloat16" else jnp.float32
    return replace(options, decay=decay, dtype=dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all but the last axis, statistics in float32.

    Where the collection `moments` is mutable, the input's mean and variance are written there
    (`weights/batch_norm.py`).
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
    kernel: Pair = 1
    stride: int = 1
    rate: Pair = 1
    activation: Callable[[Array], Array] | None = None
    options: LayerOptions = LayerOptions()
    kernel_init: Initializer | None = None
    """None: the options' for a depthwise or a plain kernel."""
    norm: bool = True
    """False: the convolution alone, with its activation."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        k, c, options = both(self.kernel), x.shape[-1], self.options
        shape = (*k, 1, c) if self.features is None else (*k, c, self.features)
        init = options.inits.depthwise if self.features is None else options.inits.plain
        kernel = self.param("kernel", self.kernel_init or init, shape)
        if not self.norm:
            x = self.convolve(x, kernel)
            return self.activation(x) if self.activation is not None else x
        norm = BatchNorm(self.features or c, options.decay, options.epsilon, name="norm")
        if train or self.is_mutable_collection("moments"):
            x = self.convolve(x, kernel)
            if self.features is not None:  # a depthwise one costs less than its memory
                x = checkpoint_name(x, "convolution")
            x = norm(x, train=train)
        else:
            gain, shift = norm.affine()
            x = self.convolve(x, kernel * gain) + shift.astype(options.dtype)
        return self.activation(x) if self.activation is not None else x

    @nn.nowrap
    def convolve(self, x: Array, kernel: Array) -> Array:
        x = x.astype(self.options.dtype)
        if self.features is not None and both(self.kernel) == (1, 1):
            return pointwise_conv(x, kernel.astype(x.dtype), self.stride)
        pads = self.pads(height_width(x))
        if self.features is None:
            return depthwise_conv(x, kernel, self.stride, self.rate, pads)
        return conv(x, kernel, self.stride, self.rate, pads)

    @nn.nowrap
    def pads(self, size: tuple[int, int]) -> Pads:
        """Zero padding of an input of this size."""
        return spatial_pads(size, self.kernel, self.stride, self.rate, self.options.tf_same)


class SeparableConv(nn.Module):
    """Depthwise k x k and pointwise convolution, each with BatchNorm and activation.

    The official checkpoints name them `{name}_depthwise` and `{name}_pointwise`. Without
    `inner_norm` nothing stands between them.
    """

    features: int
    kernel: Pair
    rate: Pair
    activation: Callable[[Array], Array]
    options: LayerOptions
    inner_norm: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        layer, inner = partial(ConvBN, options=self.options), self.inner_norm
        act = self.activation if inner else None
        depthwise = layer(None, self.kernel, 1, self.rate, act, norm=inner, name="depthwise")
        x, init = depthwise(x, train=train), self.options.inits.pointwise
        pointwise = layer(
            self.features, activation=self.activation, kernel_init=init, name="pointwise"
        )
        y: Array = pointwise(x, train=train)
        return y


class BiasConv(nn.Module):
    """Convolution with a bias and without BatchNorm: gates, and what gives logits."""

    features: int
    kernel: int = 1
    rate: int = 1
    activation: Callable[[Array], Array] | None = None
    options: LayerOptions = LayerOptions()
    kernel_init: Initializer | None = None
    """None: the options' for a plain kernel."""

    stride = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init or self.options.inits.plain, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = x.astype(self.options.dtype)
        kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
        if self.kernel == 1:
            x = x @ kernel[0, 0] + bias
        else:
            x = conv(x, kernel, 1, self.rate, self.pads(height_width(x))) + bias
        return self.activation(x) if self.activation is not None else x

    @nn.nowrap
    def pads(self, size: tuple[int, int]) -> Pads:
        """Zero padding of an input of this size."""
        return spatial_pads(size, self.kernel, 1, self.rate, tf_same=False)


class Gate(nn.Module):
    """x [b, h, w, c] times a map between 0 and 1, the sigmoid of `gate` [b, h', w', c] resized."""

    sigmoid: Callable[[Array], Array] = hard_sigmoid

    def __call__(self, x: Array, gate: Array) -> Array:
        return x * resize_bilinear(self.sigmoid(gate), height_width(x))


def scale_channels(channels: int, width: float) -> int:
    """Channels of a backbone `width` times as wide, never below 8."""
    return max(8, int(channels * width))


def recompute_policy(remat: str) -> Any:
    """What `jax.checkpoint` keeps of a unit for the backward pass; the rest is computed again."""
    if remat == "convolutions":
        return jax.checkpoint_policies.save_only_these_names("convolution", "moments")
    return jax.checkpoint_policies.nothing_saveable


def apply_unit(
    unit: nn.Module, x: Array, *, train: bool, remat: str = "none"
) -> tuple[Array, Array]:
    """A unit of a backbone, its inside recomputed in the backward pass as `remat` says."""
    if remat == "none" or not train:
        return unit(x, train=train)
    # Of (variables, random keys, x), XLA may share what follows from the first two alone: kernels
    # in bfloat16.
    prevent_cse: Any = (False, False, True)
    recomputed = nn.remat(
        lambda unit, x: unit(x, train=True), policy=recompute_policy(remat), prevent_cse=prevent_cse
    )
    return recomputed(unit, x)
