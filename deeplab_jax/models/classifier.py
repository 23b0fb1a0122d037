"""The ImageNet heads of the backbones, to pretrain them (official `core/xception.py`, slim nets).

A classifier is a segmentation network of one pixel: its logits are [b, 1, 1, classes], and loss,
step and evaluation are those of every other head.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

DROPOUT = {"mobilenet_v2": 0.2, "xception": 0.5, "resnet": 0.0}  # slim's defaults


class ClassifierPool(nn.Module):
    """Features [b, h, w, c] -> the pooled image [b, 1, 1, c], with dropout."""

    backbone: str

    @nn.compact
    def __call__(self, x: Array, *, dropout: bool) -> Array:
        x = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        rate = next(r for name, r in DROPOUT.items() if self.backbone.startswith(name))
        return nn.Dropout(rate, deterministic=not dropout)(x)
