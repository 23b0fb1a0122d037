"""The official weights by name: where they are, what was published of them, how they are read.

Source: tensorflow/models, research/deeplab/g3doc/model_zoo.md and quantize.md; slim's pages.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deeplab_jax.data.datasets import cityscapes, voc
from deeplab_jax.errors import UserError
from deeplab_jax.weights.download import download

MODELS = "http://download.tensorflow.org/models/{}.tar.gz"
MB = 2**20


class Row(NamedTuple):
    """A checkpoint: its file, the data it was trained on, what its authors say, and its settings.

    `score` is mIoU of val unless it says otherwise, `megabytes` the file's; `model` and `task` are
    what its variables cannot tell; `backbone_only`: for training to start from.
    """

    url: str
    data: str
    score: str
    megabytes: float
    model: Mapping[str, Any] = {}
    task: Mapping[str, Any] = {}
    backbone_only: bool = False


def _row(archive: str, data: str, score: str, megabytes: float, **settings: Any) -> Row:
    return Row(MODELS.format(archive), data, score, megabytes, **settings)


VOC = {"eval_size": (513, 513), "classes": voc.CLASS_NAMES, "colors": voc.COLORS}
CITYSCAPES = {
    "eval_size": (1025, 2049),
    "classes": cityscapes.CLASS_NAMES,
    "colors": cityscapes.COLORS,
}
ADE20K = {"eval_size": (513, 513), "resize": "fit"}
RATES = {"atrous_rates": (6, 12, 18)}
BETA = {"multi_grid": (1, 2, 4)}
ROWS = {
    "mobilenetv2_05_voc": _row(
        "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01", "VOC trainaug", "70.19", 7.6, task=VOC
    ),
    "mobilenetv2_05_voc_trainval": _row(
        "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01",
        "VOC trainval",
        "71.83 test",
        7.6,
        task=VOC,
    ),
    "mobilenetv2_voc": _row(
        "deeplabv3_mnv2_pascal_train_aug_2018_01_29", "VOC trainaug", "75.32", 23, task=VOC
    ),
    "mobilenetv2_voc_trainval": _row(
        "deeplabv3_mnv2_pascal_trainval_2018_01_29", "VOC trainval", "80.25 test", 23, task=VOC
    ),
    "xception65_voc": _row(
        "deeplabv3_pascal_train_aug_2018_01_04", "VOC trainaug", "82.20", 439, model=RATES, task=VOC
    ),
    "xception65_voc_trainval": _row(
        *("deeplabv3_pascal_trainval_2018_01_04", "VOC trainval", "87.80 test", 439),
        model=RATES,
        task=VOC,
    ),
    "mobilenetv2_05_voc_8bit": _row(
        *("deeplabv3_mnv2_dm05_pascal_train_aug_8bit_2019_04_26", "VOC trainaug", "69.65", 8.2),
        task=VOC,
    ),
    "mobilenetv2_voc_8bit": _row(
        "deeplabv3_mnv2_pascal_train_aug_8bit_2019_04_26", "VOC trainaug", "74.26", 24, task=VOC
    ),
    "mobilenetv2_cityscapes": _row(
        "deeplabv3_mnv2_cityscapes_train_2018_02_05", "Cityscapes", "70.71", 23, task=CITYSCAPES
    ),
    "xception65_cityscapes": _row(
        *("deeplabv3_cityscapes_train_2018_02_06", "Cityscapes", "78.79", 439),
        model=RATES,
        task=CITYSCAPES,
    ),
    "mobilenetv2_ade20k": _row(
        "deeplabv3_mnv2_ade20k_train_2018_12_03", "ADE20K", "32.04", 24.8, task=ADE20K
    ),
    "xception65_ade20k": _row(
        *("deeplabv3_xception_ade20k_train_2018_05_29", "ADE20K", "45.65 at stride 8", 439),
        model=RATES,
        task=ADE20K,
    ),
    "xception41_imagenet": _row("xception_41_2018_05_09", "ImageNet", "", 288, backbone_only=True),
    "xception65_imagenet": _row(
        "deeplabv3_xception_2018_01_04", "ImageNet", "", 447, backbone_only=True
    ),
    "xception71_imagenet": _row("xception_71_2018_05_09", "ImageNet", "", 474, backbone_only=True),
    "xception65_coco": _row(
        "xception_65_coco_pretrained_2018_10_02", "COCO", "", 292, backbone_only=True
    ),
    "resnet50_imagenet": _row(
        "resnet_v1_50_2018_05_04", "ImageNet", "", 274, model=BETA, backbone_only=True
    ),
    "resnet101_imagenet": _row(
        "resnet_v1_101_2018_05_04", "ImageNet", "", 477, model=BETA, backbone_only=True
    ),
    "mobilenetv2_imagenet": Row(
        "https://storage.googleapis.com/mobilenet_v2/checkpoints/mobilenet_v2_1.0_224.tgz",
        *("ImageNet", "71.8 % top-1", 78),
        model={"mobilenet_endpoints": "blocks"},
        backbone_only=True,
    ),
}


def weights_folder() -> Path:
    """Where weights by name are kept: DEEPLAB_WEIGHTS, else ~/.cache/deeplab_jax/weights."""
    if named := os.environ.get("DEEPLAB_WEIGHTS"):
        return Path(named)
    # Not Path's expanduser, which fails where there is no home.
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "deeplab_jax" / "weights"


def fetch(name: str) -> Path:
    """The folder of the weights of a name, downloaded and converted where it is not yet there.

    Raises:
      UserError: there is no such name; the file cannot be had, or is not what it should be.
    """
    from deeplab_jax.weights.convert import convert_file  # which reads folders of weights, too

    if name not in ROWS:
        raise UserError(f"{name}: no official weights of this name; there are {', '.join(ROWS)}")
    row, home = ROWS[name], weights_folder()
    folder = home / name
    if (folder / "model.safetensors").is_file():
        return folder
    archive = download(row.url, home / "archives", round(1.5 * row.megabytes * MB) + 8 * MB)
    staging = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=home))
    try:
        convert_file(
            *(str(archive), staging, dict(row.model), dict(row.task)),
            classes=None,
            backbone_only=row.backbone_only,
            fresh_logits=False,
        )
        if not folder.exists():  # else another process was first
            os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def format_zoo() -> str:
    """A line for each row: name, data, published score, size and URL; what is at hand is marked."""
    home = weights_folder()
    rows = [("name", "trained on", "published", "MB", "here", "file")]
    for name, row in ROWS.items():
        here = "yes" if (home / name).is_dir() else ""
        rows.append((name, row.data, row.score, f"{row.megabytes:g}", here, row.url))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
