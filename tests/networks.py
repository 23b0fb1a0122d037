"""Every head and a backbone of each kind, small, with weights as after training; and images."""

from typing import Any

import jax
import numpy as np
from synthetic import random_variables

from deeplab_jax import ModelConfig, build_model
from deeplab_jax.config.cell import Branch
from deeplab_jax.models import Network

SMALL = {
    "num_classes": 3,
    "width": 0.1,
    "aspp_channels": 8,
    "decoder_low_level_channels": 4,
    "decoder_channels": 8,
}
CELL = (Branch("conv", -1, (1, 1)), Branch("conv", 0, (3, 3), (1, 6)), Branch("pyramid_pooling"))
NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"backbone": "resnet_v1_18_beta"},
    "xception bounded": {"backbone": "xception_41", "activation": "relu6", "multi_grid": (1, 2, 4)},
    "gate, sum, logits": {
        "backbone": "mobilenet_v3_small_seg",
        "image_pooling_gate": "hard_sigmoid",
        "aspp_form": "concat",
        "atrous_rates": (),
        "decoder_merge": "sum",
        "decoder_logits": True,
    },
    "pooling window": {
        "backbone": "resnet_v1_18_beta",
        "head": "deeplabv3",
        "output_stride": 8,
        "image_pooling_crop_size": (33, 33),
        "image_pooling_gate": "sigmoid",
    },
    "pspnet": {"backbone": "resnet_v1_18", "head": "pspnet"},
    "unet": {"backbone": "unet", "head": "unet", "width": 0.06, "channels": 4},
    "atrous unet": {"backbone": "resnet_v1_18", "head": "unet", "output_stride": 8},
    "cell": {"backbone": "mobilenet_edgetpu", "head": "deeplabv3", "dense_prediction_cell": CELL},
    "mobilenet_v2": {"backbone": "mobilenet_v2", "mobilenet_endpoints": "blocks"},
    "deeplabv2": {
        "backbone": "resnet_v1_18",
        "head": "deeplabv3",
        "aspp_form": "deeplabv2",
        "logits_kernel": 3,
    },
    "classifier": {"backbone": "mobilenet_v3_small", "head": "classifier"},
}


def make(options: dict[str, Any]) -> tuple[Network, Any]:
    """A network and variables, with BatchNorm as it is after training."""
    config = ModelConfig(**(SMALL | options))
    rng = np.random.default_rng(0)

    def leaf(path: Any, x: np.ndarray) -> np.ndarray:
        low = {"scale": 0.5, "var": 0.5, "bias": -0.2, "mean": -0.2}.get(path[-1].key)
        return x if low is None else rng.uniform(low, low + 0.7, x.shape).astype(np.float32)

    return build_model(config), jax.tree.map_with_path(leaf, random_variables(config))


def random_images(n: int, size: tuple[int, int], channels: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.uniform(0, 255, (n, *size, channels)).astype(np.float32)


def like(images: np.ndarray) -> jax.ShapeDtypeStruct:
    """One of them."""
    return jax.ShapeDtypeStruct(images.shape[1:], images.dtype)


def differ(found: np.ndarray, ours: Any) -> float:
    return float(np.abs(found - ours).max() / np.abs(ours).max())
