"""`build_model`: from a `ModelConfig` to a Flax module."""

from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models import resnet
from deeplab_jax.models.dpc import DensePredictionCell
from deeplab_jax.models.heads import ASPP, Decoder, PyramidPooling, class_layers, logits_layer
from deeplab_jax.models.layers import BiasConv, LayerOptions, hard_swish, layer_options, relu
from deeplab_jax.models.mobilenet import MobileNetV2
from deeplab_jax.models.mobilenet_v3 import LAYOUTS, MobileNetV3
from deeplab_jax.models.unet import ContractingPath, ExpandingPath
from deeplab_jax.models.xception import Xception
from deeplab_jax.ops.partition import split_rows
from deeplab_jax.ops.resize import height_width, scale_size

MEAN_RGB = (123.15, 115.90, 103.06)  # of ImageNet, official `core/feature_extractor.py`
# Of ImageNet in torchvision and timm: 255 (0.485, 0.456, 0.406) and 255 (0.229, 0.224, 0.225).
TORCH_MEAN, TORCH_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Each makes (features, {stride: low-level features}) of an image; low-level features are named by
# the stride that they have without atrous convolution.
ENCODERS = {
    "xception": Xception,
    "resnet": resnet.ResNet,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "mobilenet_edgetpu": MobileNetV3,
    "unet": ContractingPath,
}
CLASSIFIER_DROPOUT = {"mobilenet": 0.2, "xception": 0.5, "resnet": 0.0}  # slim's defaults


class Network(nn.Module):
    """Image float32 [b, h, w, c] in [0, 255], RGB -> logits float32 [b, h', w', num_classes].

    h' is `scale_dimension(h, s)`, with s the decoder's last stride (DeepLab v3+: 4), the output
    stride (DeepLab v3, PSPNet), or the finest skip's stride (U-Net: 1 on its own encoder, else 2).
    c is 3 unless the configuration's `channels` says otherwise. A classifier is a network of one
    pixel, [b, 1, 1, num_classes]: to loss, step and evaluation it is like any other.
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
        c, kind = self.config, family(self.config.backbone)
        norm_train = train and not freeze_batch_norm
        options, deeplab = backbone_options(c), layer_options(c, "deeplab")
        x = normalise(split_rows(image), c).astype(options.dtype)
        encoder = next(e for name, e in ENCODERS.items() if c.backbone.startswith(name))
        backbone = encoder(c, options, name="backbone")
        x, low_levels = backbone(x, train=norm_train and not freeze_backbone)
        if c.head == "classifier":
            x = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
            if (layout := LAYOUTS.get(c.backbone)) and layout.hidden:
                act = hard_swish if layout.h_swish else relu
                x = BiasConv(layout.hidden, activation=act, options=options, name="hidden")(x)
            x = nn.Dropout(CLASSIFIER_DROPOUT[kind], deterministic=not train)(x)
        elif c.head == "pspnet":
            pyramid = PyramidPooling(layer_options(c, "pspnet"), name="pyramid_pooling")
            x = pyramid(x, train=norm_train, dropout=train)
        elif c.head == "unet":
            path = ExpandingPath(c, layer_options(c, "unet"), name="expanding_path")
            x = path(x, low_levels, train=norm_train)
        else:
            if c.dense_prediction_cell and c.aspp_form != "deeplabv2":
                cell = DensePredictionCell(c, deeplab, name="meta_architecture")
                x = cell(x, train=norm_train, dropout=train)
            elif c.aspp_form != "deeplabv2":
                x = ASPP(c, deeplab, name="aspp")(x, train=norm_train, dropout=train)
            for i, stride in enumerate(c.decoder_strides if c.head == "deeplabv3plus" else ()):
                size = scale_size(height_width(image), stride)
                stage = Decoder(c, deeplab, name=f"decoder{i}")
                x = stage(x, low_levels[stride], size, train=norm_train)
        if "logits" not in class_layers(c):  # the decoder made them
            return x
        return logits_layer(c, deeplab)(x)


def family(backbone: str) -> str:
    """xception_65 -> xception."""
    return backbone.split("_")[0]


def backbone_options(config: ModelConfig) -> LayerOptions:
    """What the layers of the backbone share."""
    return layer_options(config, "torch" if config.torch_form else family(config.backbone))


def normalise(image: Array, model: ModelConfig) -> Array:
    """Pixels in [0, 255] as the backbone was trained on them.

    In [-1, 1]; or minus the mean; or, of PyTorch's, minus the mean and by the deviation.
    """
    if (mean := mean_rgb(model)) is None:
        return image * (2.0 / 255.0) - 1.0
    channels = image.shape[-1]
    centred = image - jnp.asarray(for_channels(mean, channels), image.dtype)
    if not model.torch_form:
        return centred
    return centred / jnp.asarray(for_channels(TORCH_DEVIATION, channels), image.dtype)


def mean_rgb(model: ModelConfig) -> tuple[float, ...] | None:
    """The mean that the backbone's images are taken from; None: it has them in [-1, 1]."""
    if model.torch_form:
        return TORCH_MEAN
    # Of the official ResNets the plain form alone.
    plain = model.backbone in resnet.LAYOUTS and not model.backbone.endswith("_beta")
    return MEAN_RGB if plain else None


def for_channels(rgb: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A value of each channel; for others than RGB the mean of red's, green's and blue's."""
    return rgb if channels == 3 else (sum(rgb) / 3,) * channels


def mean_pixel(model: ModelConfig) -> tuple[int, ...]:
    """The pixel that normalises to about 0: what images are padded with, as uint8."""
    if mean := mean_rgb(model):
        return tuple(round(value) for value in for_channels(mean, model.image_channels))
    return (127,) * model.image_channels  # official 127.5


def build_model(config: ModelConfig) -> Network:
    """The network of a configuration; its variables fit any `output_stride`."""
    return Network(config)


def init_variables(config: ModelConfig, key: Array) -> Any:
    """Untrained variables, {"params": ..., "batch_stats": ...}; they fit images of any size.

    Under `jit` only what is used of the result is computed, and never the network.
    """
    image = jnp.zeros((1, 65, 65, config.image_channels))
    return build_model(config).init(key, image, train=False)


@cache  # tracing a deep network takes a second; nobody changes the result
def abstract_variables(config: ModelConfig) -> dict[str, Any]:
    """The variables of a network as shapes and dtypes, without computing anything."""
    abstract: dict[str, Any] = jax.eval_shape(partial(init_variables, config), jax.random.key(0))
    return abstract
