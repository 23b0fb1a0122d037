"""Dense prediction cells: what stands in place of the ASPP, found by search (arXiv 1809.04184;
official `core/dense_prediction_cell.py`).
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.config.cell import Branch
from deeplab_jax.models.layers import ConvBN, LayerOptions, SeparableConv, relu
from deeplab_jax.ops.pool import average_pool
from deeplab_jax.ops.resize import height_width, resize_bilinear, scale_dimension, scale_size


class DensePredictionCell(nn.Module):
    """A graph of branches on features [b, h, w, c], joined and projected: -> [b, h, w, channels].

    Dropout stands before the projection. No activation is ever bounded.
    """

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool, dropout: bool) -> Array:
        c, branches = self.config, list[Array]()
        layer = partial(ConvBN, c.aspp_channels, activation=relu, options=self.options)
        for i, branch in enumerate(c.dense_prediction_cell):
            y, name = x if branch.input < 0 else branches[branch.input], f"branch{i}"
            if branch.op == "pyramid_pooling":
                pooled = average_pool(y, self.window(branch, height_width(x))).astype(y.dtype)
                y = resize_bilinear(layer(name=name)(pooled, train=train), height_width(x))
            elif branch.kernel == (1, 1):
                y = layer(name=name)(y, train=train)
            else:
                h, w = (rate * 16 // c.output_stride for rate in branch.rate)
                conv = SeparableConv(
                    c.aspp_channels, branch.kernel, (h, w), relu, self.options, name=name
                )
                y = conv(y, train=train)
            branches.append(y)
        joined = nn.Dropout(0.1, deterministic=not dropout)(jnp.concatenate(branches, axis=-1))
        return layer(name="concat_projection")(joined, train=train)

    @nn.nowrap
    def window(self, branch: Branch, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the pooling window: a grid's part of the features, or of a crop's."""
        crop, (rows, columns) = self.config.image_pooling_crop_size, branch.grid_size
        h, w = scale_size(crop, self.config.output_stride) if crop else size
        return (scale_dimension(h, rows), scale_dimension(w, columns))
