"""Receptive fields, by letting a few lit rows of an image spread through the network.

Every convolution is replaced by "is any pixel that I read lit?", on positive numbers; what stands
between convolutions (sums, concatenations, pooling, resizing, slices) keeps lit what sees a lit
pixel. 32 images, each with another of 32 neighbouring rows lit, tell all: no map is coarser, so
every other row of a map sees what one of these sees, moved by a multiple of 32. Columns
are told as the rows of the transposed network, where that is another one.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.build import build_model
from deeplab_jax.models.layers import BiasConv, ConvBN, Gate
from deeplab_jax.models.unet import UpConv
from deeplab_jax.ops.conv import both
from deeplab_jax.ops.resize import height_width, resize_bilinear

HEIGHT = 2**13 + 1  # twice as high as any field that is told; every stride divides it
PERIOD = 32  # the largest output stride


class View(NamedTuple):
    """How the pixels of a feature map look at the image."""

    stride: int | None
    """Input pixels from one to the next; None: pooled to a fixed grid."""
    field: int | None
    """Side of the square of input pixels that one sees at most; None: all, or more than 4096."""


def receptive_fields(config: ModelConfig) -> list[View]:
    """The view of each convolution's output, in the order of computation."""
    rows, other = views_of_rows(config), transposed(config)
    columns = rows if other == config else views_of_rows(other)
    return [max(pair, key=lambda v: v.field or HEIGHT) for pair in zip(rows, columns, strict=True)]


def transposed(config: ModelConfig) -> ModelConfig:
    """The network with height and width exchanged."""
    crop, stride = config.image_pooling_crop_size, config.image_pooling_stride
    cell = [
        dataclasses.replace(
            branch,
            kernel=branch.kernel[::-1],
            rate=branch.rate[::-1],
            grid_size=branch.grid_size[::-1],
        )
        for branch in config.dense_prediction_cell
    ]
    return dataclasses.replace(
        config,
        image_pooling_crop_size=crop and crop[::-1],
        image_pooling_stride=stride[::-1],
        dense_prediction_cell=tuple(cell),
    )


def views_of_rows(config: ModelConfig) -> list[View]:
    """The views of the rows, by an image of one column."""
    views: list[View] = []

    def spread(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, Gate) and context.method_name == "__call__":
            x, gate = args  # of a product both are seen
            return x + resize_bilinear(gate, height_width(x))
        if not isinstance(module, ConvBN | BiasConv | UpConv) or context.method_name != "__call__":
            return call(*args, **kwargs)
        x = np.asarray(args[0])
        lit = x[:, :, 0].max(axis=2) > 0
        if not isinstance(module, UpConv):
            lit = any_lit(lit, module)
        elif args[1][0] > lit.shape[1]:
            lit = np.repeat(lit, 2, axis=1)[:, : args[1][0]]  # pixel k makes 2k and 2k + 1
        views.append(widest_view(lit))
        shape = (*lit.shape, 1, module.features or x.shape[3])
        return jnp.asarray(np.broadcast_to(lit[:, :, None, None], shape), x.dtype)

    # What a pixel sees does not depend on the channels, as long as the same layers have shortcuts:
    # ResNet-18's first unit has one because its stem is narrower, from a quarter of the width on.
    least = 1 / 4 if config.backbone.startswith("resnet_v1_18") else 1 / 8
    few = dataclasses.replace(
        config,
        num_classes=2,
        width=min(config.width, least),
        aspp_channels=4,
        decoder_channels=4,
        decoder_low_level_channels=4,
    )
    middle, rows = HEIGHT // 2, np.arange(PERIOD)
    image = np.zeros((PERIOD, HEIGHT, 1, config.image_channels), np.float32)
    image[rows, middle + rows] = 255.0
    with nn.intercept_methods(spread):
        build_model(few).apply({}, jnp.asarray(image), train=False, mutable=["intermediates"])
    return views


def any_lit(lit: np.ndarray, layer: ConvBN | BiasConv) -> np.ndarray:
    """Which rows of a convolution's output read a lit row: bool [n, h] -> [n, h']."""
    pads, _ = layer.pads((lit.shape[1], lit.shape[1]))
    (kernel, _), (rate, _) = both(layer.kernel), both(layer.rate)
    padded = np.pad(lit, ((0, 0), pads))
    last = padded.shape[1] - (kernel - 1) * rate  # of the rows where a window begins
    starts = range(0, kernel * rate, rate)
    return np.any([padded[:, i : i + last : layer.stride] for i in starts], axis=0)


def widest_view(lit: np.ndarray) -> View:
    """What the rows of a map see, from which are lit by which: bool [row of the image, row]."""
    stride, rest = divmod(HEIGHT - 1, max(lit.shape[1] - 1, 1))
    if rest or stride > PERIOD:
        return View(None, None)
    if lit[:, [0, -1]].any():
        return View(stride, None)
    image, row = np.nonzero(lit)
    offset = image - stride * row
    phase = row % (PERIOD // stride)  # rows of one phase see the same, each moved by the period
    fields = (np.ptp(offset[phase == p]) + 1 for p in np.unique(phase))
    return View(stride, int(max(fields)))
