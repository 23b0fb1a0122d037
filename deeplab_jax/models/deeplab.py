"""ASPP and decoder, DeepLab's parts behind a backbone (paper section 3.1; official `model.py`)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.models.layers import (
    ConvBN,
    average_pool,
    height_width,
    relu,
    resize_bilinear,
)

EPSILON = 1e-5  # of BatchNorm here, official `model.py`; the backbones have their own


class HeadInit(NamedTuple):
    """How the kernels of ASPP, decoder and logits start."""

    depthwise: nn.initializers.Initializer
    pointwise: nn.initializers.Initializer
    plain: nn.initializers.Initializer
    logits: nn.initializers.Initializer


HE_INIT = nn.initializers.he_normal()
HEAD_INITS = {
    "official": HeadInit(  # `core/utils.py`, `model.py`
        nn.initializers.truncated_normal(0.33),
        nn.initializers.truncated_normal(0.06),
        nn.initializers.xavier_uniform(),
        nn.initializers.truncated_normal(0.01),
    ),
    # By fan-in: the official logits start so small that little gradient gets below them.
    "he": HeadInit(HE_INIT, HE_INIT, HE_INIT, nn.initializers.xavier_uniform()),
}


class SeparableConv(nn.Module):
    """Depthwise k x k and pointwise convolution, each with BatchNorm and ReLU.

    The official checkpoints name them `{name}_depthwise` and `{name}_pointwise`.
    """

    features: int
    kernel: int
    rate: int
    inits: HeadInit
    decay: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        common = {
            "activation": relu,
            "decay": self.decay,
            "epsilon": EPSILON,
            "dtype": self.dtype,
        }
        x = ConvBN(
            None,
            self.kernel,
            rate=self.rate,
            kernel_init=self.inits.depthwise,
            name="depthwise",
            **common,
        )(x, train=train)
        return ConvBN(self.features, kernel_init=self.inits.pointwise, name="pointwise", **common)(
            x, train=train
        )


def conv_block(
    features: int,
    kernel: int,
    *,
    separable: bool,
    rate: int = 1,
    inits: HeadInit,
    decay: float,
    dtype: Any,
    name: str,
) -> nn.Module:
    """A k x k convolution with BatchNorm and ReLU, separable or plain."""
    if separable and kernel > 1:
        return SeparableConv(features, kernel, rate, inits, decay, dtype, name=name)
    return ConvBN(
        features,
        kernel,
        rate=rate,
        activation=relu,
        decay=decay,
        epsilon=EPSILON,
        kernel_init=inits.plain,
        dtype=dtype,
        name=name,
    )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: features [b, h, w, c] -> [b, h, w, channels].

    Branches in the order of the official concat: the pooled image, 1x1, one 3x3 for each rate.
    `pooling_window` is that of the official average pool, in pixels of the features; None: all.
    """

    rates: tuple[int, ...]
    channels: int = 256
    separable: bool = True
    image_pooling: bool = True
    pooling_window: tuple[int, int] | None = None
    inits: HeadInit = HEAD_INITS["official"]
    decay: float = 0.9997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, dropout: bool) -> Array:
        def block(name: str, kernel: int = 1, rate: int = 1) -> nn.Module:
            return conv_block(
                self.channels,
                kernel,
                separable=self.separable,
                rate=rate,
                inits=self.inits,
                decay=self.decay,
                dtype=self.dtype,
                name=name,
            )

        branches = []
        if self.image_pooling:
            pooled = average_pool(x, self.pooling_window or height_width(x))
            pooled = block("image_pooling")(pooled.astype(x.dtype), train=train)
            branches.append(resize_bilinear(pooled, height_width(x)))
        branches.append(block("aspp0")(x, train=train))
        for i, rate in enumerate(self.rates, start=1):
            branches.append(block(f"aspp{i}", 3, rate)(x, train=train))
        x = block("concat_projection")(jnp.concatenate(branches, axis=-1), train=train)
        return nn.Dropout(0.1, deterministic=not dropout)(x)


class Decoder(nn.Module):
    """One stage of the v3+ decoder: encoder features and a low-level map -> [b, h', w', channels].

    The low-level map is reduced by a 1x1 convolution (48 channels in the paper), joined to the
    upsampled encoder features, and refined by a few 3x3 convolutions (two of 256 in the paper).
    """

    low_level_channels: int = 48
    channels: int = 256
    convs: int = 2
    kernel: int = 3
    separable: bool = True
    inits: HeadInit = HEAD_INITS["official"]
    decay: float = 0.9997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, low_level: Array, size: tuple[int, int], *, train: bool) -> Array:
        low_level = conv_block(
            self.low_level_channels,
            1,
            separable=False,
            inits=self.inits,
            decay=self.decay,
            dtype=self.dtype,
            name="feature_projection",
        )(low_level, train=train)
        x = jnp.concatenate([resize_bilinear(x, size), resize_bilinear(low_level, size)], axis=-1)
        for i in range(self.convs):
            x = conv_block(
                self.channels,
                self.kernel,
                separable=self.separable,
                inits=self.inits,
                decay=self.decay,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x, train=train)
        return x


class Logits(nn.Module):
    """The last 1x1 convolution, with a bias and without BatchNorm, computed in float32."""

    num_classes: int
    inits: HeadInit = HEAD_INITS["official"]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.inits.logits, (1, 1, x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return x.astype(jnp.float32) @ kernel[0, 0] + bias
