"""The network of official variables is read off their names and shapes."""

import dataclasses

import pytest

from deeplab_jax import ModelConfig, UserError
from deeplab_jax.weights.detect import check_told, detect_network
from deeplab_jax.weights.tf_names import tf_slots

MOBILE = ModelConfig(backbone="mobilenet_v2")


def shapes_of(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """What a checkpoint of a network holds."""
    slots = tf_slots(model).values()
    names = {slot.name: tuple(slot.shape[axis] for axis in slot.axes) for slot in slots}
    return names | {"global_step": (), "image_pooling/weights/Momentum": (3,)}


@pytest.mark.parametrize(
    "model",
    [
        *(ModelConfig(backbone=name, num_classes=19) for name in ("xception_41", "xception_71")),
        ModelConfig(backbone="xception_65", num_classes=151, decoder_separable=False),
        ModelConfig(backbone="resnet_v1_50_beta", num_classes=21, aspp_separable=False),
        ModelConfig(backbone="resnet_v1_101", num_classes=21, head="deeplabv3"),
        ModelConfig(backbone="xception_65", num_classes=1001, head="classifier"),
        dataclasses.replace(MOBILE, num_classes=1001, head="classifier", width=1.4),
        *(
            dataclasses.replace(MOBILE, num_classes=21, head="deeplabv3", atrous_rates=(), width=w)
            for w in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
        ),
        dataclasses.replace(MOBILE, num_classes=21, width=0.35, width_divisor=8),
        ModelConfig(
            backbone="xception_65",
            num_classes=3,
            image_pooling=False,
            aspp_channels=64,
            decoder_low_level_channels=16,
            decoder_channels=32,
            decoder_convs=1,
            decoder_kernel=5,
            decoder_strides=(8, 4),
        ),
    ],
    ids=lambda m: f"{m.backbone}-{m.head}-{m.width}",
)
def test_what_variables_tell_is_found(model: ModelConfig) -> None:
    assert detect_network(shapes_of(model), "x") == model


def test_a_backbone_alone_and_strangers() -> None:
    alone = {n: s for n, s in shapes_of(MOBILE).items() if n.startswith("MobilenetV2/expanded")}
    alone |= {n: s for n, s in shapes_of(MOBILE).items() if n.startswith("MobilenetV2/Conv")}
    assert detect_network(alone, "x").backbone == "mobilenet_v2"
    with pytest.raises(UserError, match=r"ckpt: holds variables of InceptionV3, .*xception_65"):
        detect_network({"InceptionV3/Conv/weights": (3, 3, 3, 32)}, "ckpt")


def test_a_wrong_setting_is_contradicted() -> None:
    check_told({"backbone": "mobilenet_v2", "output_stride": 8}, MOBILE, "ckpt")
    with pytest.raises(UserError, match=r"model\.width = 0\.5 is not what ckpt holds: 1\.0"):
        check_told({"width": 0.5}, MOBILE, "ckpt")
