"""`build_model`: from a `ModelConfig` to a Flax module."""

from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models import resnet, unet
from deeplab_jax.models.classifier import ClassifierPool
from deeplab_jax.models.deeplab import ASPP, HEAD_INITS, Decoder, Logits
from deeplab_jax.models.layers import scale_dimension
from deeplab_jax.models.mobilenet import MobileNetV2
from deeplab_jax.models.pspnet import PyramidPooling
from deeplab_jax.models.resnet import ResNet
from deeplab_jax.models.unet import ContractingPath, ExpandingPath
from deeplab_jax.models.xception import Xception
from deeplab_jax.parallel.mesh import split_rows

MEAN_RGB = (123.15, 115.90, 103.06)  # of ImageNet, official `core/feature_extractor.py`


class Network(nn.Module):
    """Image float32 [b, h, w, 3], RGB in [0, 255] -> logits float32 [b, h', w', num_classes].

    h' is `scale_dimension(h, s)`, with s the decoder's last stride (DeepLab v3+: 4), the output
    stride (DeepLab v3, PSPNet), or the finest skip's stride (U-Net: 1 on its own encoder, else 2).
    A classifier gives one pixel: [b, 1, 1, num_classes].
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
        x = normalise(split_rows(image), c.backbone).astype(dtype)
        x, low_levels = backbone(c, dtype)(x, train=norm_train and not freeze_backbone)
        decay = c.batch_norm_decay or 0.9997  # official `model.py`, for what is not the backbone
        if c.head == "classifier":
            x = ClassifierPool(c.backbone)(x, dropout=train)
        elif c.head == "pspnet":
            pyramid = PyramidPooling(decay, dtype, name="pyramid_pooling")
            x = pyramid(x, train=norm_train, dropout=train)
        elif c.head == "unet":
            path = ExpandingPath(c.width, decay, dtype, name="expanding_path")
            x = path(x, low_levels, train=norm_train)
        else:
            x = aspp(c, decay, dtype)(x, train=norm_train, dropout=train)
            for i, stride in enumerate(c.decoder_strides if c.head == "deeplabv3plus" else ()):
                size = (
                    scale_dimension(image.shape[1], stride),
                    scale_dimension(image.shape[2], stride),
                )
                x = decoder(c, i, decay, dtype)(x, low_levels[stride], size, train=norm_train)
        return Logits(c.classes, HEAD_INITS[c.head_init], name="logits")(x)


def normalise(image: Array, backbone: str) -> Array:
    """Pixels in [0, 255] as the backbone was trained on them: in [-1, 1], or minus the mean."""
    if backbone in resnet.UNITS:  # the plain form alone
        return image - jnp.asarray(MEAN_RGB, image.dtype)
    return image * (2.0 / 255.0) - 1.0


def mean_pixel(backbone: str) -> tuple[int, int, int]:
    """The pixel that normalises to about 0: what images are padded with, as uint8."""
    if backbone in resnet.UNITS:
        return (round(MEAN_RGB[0]), round(MEAN_RGB[1]), round(MEAN_RGB[2]))
    return (127, 127, 127)  # official 127.5


# Of BatchNorm in the backbone, by family: official decays and epsilons; the U-Net paper has none.
DECAYS = {"xception": 0.9997, "mobilenet": 0.997, "resnet": 0.95, "unet": 0.9997}
EPSILONS = {"xception": 1e-3, "mobilenet": 1e-3, "resnet": resnet.EPSILON, "unet": unet.EPSILON}


def family(backbone: str) -> str:
    """xception_65 -> xception."""
    return backbone.split("_")[0]


def backbone_decay(config: ModelConfig) -> float:
    """Decay of BatchNorm's averages in the backbone."""
    return config.batch_norm_decay or DECAYS[family(config.backbone)]


def backbone(config: ModelConfig, dtype: Any) -> nn.Module:
    """The encoder named by the configuration, under the parameter name `backbone`."""
    c, kind, decay = config, family(config.backbone), backbone_decay(config)
    if kind == "mobilenet":
        return MobileNetV2(
            c.output_stride,
            c.width,
            c.width_divisor,
            "blocks" if c.head == "classifier" else c.mobilenet_endpoints,
            decay,
            dtype,
            c.remat,
            name="backbone",
        )
    if kind == "unet":
        return ContractingPath(c.width, decay, dtype, name="backbone")
    encoder = ResNet if kind == "resnet" else Xception
    return encoder(
        c.backbone, c.output_stride, c.multi_grid, c.width, decay, dtype, c.remat, name="backbone"
    )


def aspp(config: ModelConfig, decay: float, dtype: Any) -> nn.Module:
    """Atrous spatial pyramid pooling as configured, under the parameter name `aspp`."""
    c = config
    window = c.image_pooling_crop_size and (
        scale_dimension(c.image_pooling_crop_size[0], c.output_stride),
        scale_dimension(c.image_pooling_crop_size[1], c.output_stride),
    )
    return ASPP(
        c.rates,
        c.aspp_channels,
        c.aspp_separable,
        c.image_pooling,
        window,
        HEAD_INITS[c.head_init],
        decay,
        dtype,
        name="aspp",
    )


def decoder(config: ModelConfig, stage: int, decay: float, dtype: Any) -> nn.Module:
    """A decoder stage as configured, under the parameter name `decoder{stage}`."""
    c = config
    return Decoder(
        c.decoder_low_level_channels,
        c.decoder_channels,
        c.decoder_convs,
        c.decoder_kernel,
        c.decoder_separable,
        HEAD_INITS[c.head_init],
        decay,
        dtype,
        name=f"decoder{stage}",
    )


def build_model(config: ModelConfig) -> Network:
    """The network of a configuration; its variables fit any `output_stride`."""
    return Network(config)


def init_variables(config: ModelConfig, key: Array) -> Any:
    """Untrained variables, {"params": ..., "batch_stats": ...}; they fit images of any size.

    Under `jit` only what is used of the result is computed, and never the network.
    """
    return build_model(config).init(key, jnp.zeros((1, 65, 65, 3)), train=False)


@cache  # tracing a deep network takes a second; nobody changes the result
def abstract_variables(config: ModelConfig) -> dict[str, Any]:
    """The variables of a network as shapes and dtypes, without computing anything."""
    abstract: dict[str, Any] = jax.eval_shape(partial(init_variables, config), jax.random.key(0))
    return abstract
