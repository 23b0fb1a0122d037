"""`build_model`: from a `ModelConfig` to a Flax module."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.deeplab import ASPP, Decoder, Logits
from deeplab_jax.models.layers import scale_dimension
from deeplab_jax.models.mobilenet import MobileNetV2
from deeplab_jax.models.xception import Xception


class SegmentationModel(nn.Module):
    """Image float32 [b, h, w, 3], RGB in [0, 255] -> logits float32 [b, h', w', num_classes].

    h' is `scale_dimension(h, s)` at the decoder's last stride s (4 for DeepLab v3+), or at the
    output stride where there is no decoder (DeepLab v3).
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        image: Array,
        *,
        train: bool,
        freeze_batch_norm: bool = False,
        freeze_backbone: bool = False,
    ) -> Array:
        """`train` turns on dropout and batch statistics; the frozen parts keep their averages."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        norm_train = train and not freeze_batch_norm
        x = (image * (2.0 / 255.0) - 1.0).astype(dtype)
        x, low_levels = backbone(c, dtype)(x, train=norm_train and not freeze_backbone)
        decay = c.batch_norm_decay or 0.9997  # official `model.py`, for what is not the backbone
        x = ASPP(
            c.rates,
            c.aspp_channels,
            c.aspp_separable,
            c.image_pooling,
            decay,
            dtype,
            name="aspp",
        )(x, train=norm_train, dropout=train)
        if c.head == "deeplabv3plus":
            for i, stride in enumerate(c.decoder_strides):
                x = Decoder(
                    c.decoder_low_level_channels,
                    c.decoder_channels,
                    c.decoder_convs,
                    c.decoder_kernel,
                    c.decoder_separable,
                    decay,
                    dtype,
                    name=f"decoder{i}",
                )(x, low_levels[stride], decoder_size(image, stride), train=norm_train)
        return Logits(c.num_classes, name="logits")(x)


def decoder_size(image: Array, stride: int) -> tuple[int, int]:
    """Height and width of a decoder stage."""
    return (scale_dimension(image.shape[1], stride), scale_dimension(image.shape[2], stride))


def backbone(config: ModelConfig, dtype: Any) -> nn.Module:
    """The encoder named by the configuration, under the parameter name `backbone`."""
    c = config
    if c.backbone == "mobilenet_v2":
        decay = c.batch_norm_decay or 0.997
        return MobileNetV2(c.output_stride, c.width, decay, dtype, name="backbone")
    decay = c.batch_norm_decay or 0.9997
    return Xception(
        c.backbone, c.output_stride, c.multi_grid, c.width, decay, dtype, name="backbone"
    )


def build_model(config: ModelConfig) -> SegmentationModel:
    """The network of a configuration; its variables fit any `output_stride`."""
    return SegmentationModel(config)
