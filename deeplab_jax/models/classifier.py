"""The ImageNet heads of the backbones, to pretrain them (official `core/xception.py`, slim nets).

A classifier is a segmentation network of one pixel: its logits are [b, 1, 1, classes], and loss,
step and evaluation are those of every other head.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.models.layers import ConvBN, relu6
from deeplab_jax.models.mobilenet import make_divisible

DROPOUT = {"mobilenet_v2": 0.2, "xception": 0.5, "resnet": 0.0}  # slim's defaults


class ClassifierPool(nn.Module):
    """Features [b, h, w, c] -> the pooled picture [b, 1, 1, c]; with MobileNetV2, 1280 channels."""

    backbone: str
    width: float
    decay: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, dropout: bool) -> Array:
        if self.backbone == "mobilenet_v2":
            # Narrow released networks keep 1280 (slim `finegrain_classification_mode`).
            features = max(1280, make_divisible(1280 * self.width, 8))
            x = ConvBN(
                features, activation=relu6, decay=self.decay, dtype=self.dtype, name="Conv_1"
            )(x, train=train)
        x = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        rate = next(r for name, r in DROPOUT.items() if self.backbone.startswith(name))
        return nn.Dropout(rate, deterministic=not dropout)(x)
