"""Small networks of torchvision, timm and segmentation_models.pytorch (SMP), their weights by the
recipe of `../shared/README.md`, and the configuration that is to be the same network.

`PYTHONPATH=. python tests/weights/torch_cases.py` writes what they compute, which needs torch and
these three, to `tests/fixtures/torch_logits.npz`.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab_jax import ModelConfig

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "torch_logits.npz"
CLASSES = 5


class Case(NamedTuple):
    """`make` imports PyTorch's libraries and gives their network.

    Its channels are divided, for the width of `model`; a MobileNetV2 is narrow as it is made.
    """

    make: Callable[[], Any]
    model: ModelConfig
    size: tuple[int, int] = (64, 80)
    prefix: str = ""
    """Of the backbone's names."""


def classifier(backbone: str, output_stride: int = 32, **fields: Any) -> ModelConfig:
    return ModelConfig(
        backbone=backbone,  # type: ignore[arg-type]
        head="classifier",
        num_classes=CLASSES,
        output_stride=output_stride,
        **{"width": 1 / 8, **fields},
    )


def timm(name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **options)

    return make


def torchvision(name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import torchvision

        return getattr(torchvision.models, name)(num_classes=CLASSES, **options)

    return make


def mobilenet(**options: Any) -> Callable[[], Any]:
    def make() -> Any:
        from timm.models.efficientnet import _gen_mobilenet_v2

        return _gen_mobilenet_v2("mobilenetv2_100", 0.1, num_classes=CLASSES, **options)

    return make


def deeplabv3(name: str) -> Callable[[], Any]:
    def make() -> Any:
        from torchvision.models import segmentation

        options = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}
        return getattr(segmentation, name)(**options)

    return make


def smp(encoder: str) -> Callable[[], Any]:
    def make() -> Any:
        import segmentation_models_pytorch

        return segmentation_models_pytorch.DeepLabV3Plus(
            encoder, encoder_weights=None, classes=CLASSES
        )

    return make


SEGMENTS: dict[str, Any] = {
    "num_classes": CLASSES,
    "width": 1 / 8,
    "atrous_rates": (12, 24, 36),
    "aspp_channels": 32,
    "aspp_convs_after": 1,
}
TORCHVISION = ModelConfig(
    backbone="resnet_50", head="deeplabv3", output_stride=8, aspp_separable=False, **SEGMENTS
)
SMP = ModelConfig(
    backbone="resnet_50",
    head="deeplabv3plus",
    multi_grid=(2, 1, 1),
    separable_norm=False,
    decoder_low_level_channels=6,
    decoder_channels=32,
    decoder_convs=1,
    **SEGMENTS,
)
MOBILE = {"width": 0.1, "width_divisor": 8, "mobilenet_form": "torch"}
CASES = {
    "timm_resnet50": Case(timm("resnet50"), classifier("resnet_50")),
    "timm_resnet50_stride8": Case(
        timm("resnet50", output_stride=8), classifier("resnet_50", 8), (65, 97)
    ),
    "torchvision_resnet50_stride8": Case(
        torchvision("resnet50", replace_stride_with_dilation=[False, True, True]),
        *(classifier("resnet_50", 8), (65, 97)),
    ),
    "timm_mobilenetv2": Case(mobilenet(), classifier("mobilenet_v2", **MOBILE)),
    "timm_mobilenetv2_stride8": Case(
        mobilenet(output_stride=8), classifier("mobilenet_v2", 8, **MOBILE)
    ),
    "torchvision_deeplabv3": Case(
        deeplabv3("deeplabv3_resnet50"), TORCHVISION, (65, 97), "backbone."
    ),
    "smp_deeplabv3plus": Case(smp("resnet50"), SMP, prefix="encoder."),
    "smp_deeplabv3plus_tu": Case(
        smp("tu-resnet101"),
        replace(SMP, backbone="resnet_101", multi_grid=(1, 1, 1)),
        *((32, 48), "encoder.model."),
    ),
    "timm_xception41": Case(timm("xception41"), classifier("xception_41", width=1 / 4)),
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recipe under PyTorch's names: kernels are [out, in, kh, kw]."""
    z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    z = z.standard_normal(size=shape).astype(np.float32)
    if len(shape) > 1:
        return z * np.float32(np.sqrt(1 / np.prod(shape[1:])))
    last = name.rpartition(".")[2]
    return 1 + np.float32(0.1) * np.abs(z) if last in ("weight", "running_var") else z / 10


def image(size: tuple[int, int]) -> np.ndarray:
    g = np.random.Generator(np.random.PCG64(7))
    return g.uniform(0, 255, size=(1, *size, 3)).astype(np.float32)


def narrow(network: Any, part: int) -> Any:
    """PyTorch's network with its channels divided, and the recipe's weights."""
    import torch

    def fewer(n: int) -> int:
        return n if n in (1, 3, CLASSES) else n // part

    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.ndim:  # else a count of batches
            shape = (*map(fewer, tensor.shape[:2]), *tensor.shape[2:])
            tensor.data = torch.from_numpy(weight(name, shape))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.groups = fewer(module.groups)
    return network.eval()


def theirs(case: Case) -> np.ndarray:
    """PyTorch's logits f32[b, ..., classes], before they are upsampled."""
    import torch

    part = 1 if case.model.backbone == "mobilenet_v2" else round(1 / case.model.width)
    network = narrow(case.make(), part)
    pixels = image(case.size) / 255
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if case.model.backbone.startswith("xception"):
        mean = deviation = (0.5, 0.5, 0.5)
    x = (pixels - np.float32(mean)) / np.float32(deviation)
    with torch.inference_mode():
        y = torch.from_numpy(x).permute(0, 3, 1, 2)
        if hasattr(network, "segmentation_head"):  # SMP's
            y = network.segmentation_head[0](network.decoder(network.encoder(y)))
        elif hasattr(network, "backbone"):  # torchvision's
            y = network.classifier(network.backbone(y)["out"])
        else:
            y = network(y)
    return np.asarray(y.movedim(1, -1))


if __name__ == "__main__":
    np.savez_compressed(FIXTURE, **{name: theirs(case) for name, case in CASES.items()})
