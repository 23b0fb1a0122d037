"""The official weights by name, and timm's backbones: where they are, what was published of them,
how they are read.

Source: tensorflow/models, research/deeplab, g3doc/model_zoo.md and quantize.md; slim's pages; timm
1.0.31 (the sizes of its files follow from its networks).
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from deeplab_jax.config import ModelConfig
from deeplab_jax.weights.detect import UNTOLD
from deeplab_jax.weights.download import download, download_from_hub
from deeplab_jax.weights.official import CITYSCAPES_CELL, official_config

MODELS = "http://download.tensorflow.org/models/{}.tar.gz"
HUB = "https://huggingface.co/"
MOBILENET_V2 = "https://storage.googleapis.com/mobilenet_v2/checkpoints/mobilenet_v2_1.0_224.tgz"
MB = 2**20
Flags = dict[str, Any]


class Row(NamedTuple):
    """A checkpoint: its file, the data that it was trained on, what its authors say of it.

    `score` is mIoU of val unless it says otherwise, `megabytes` the file's. `flags` are those of
    the official scripts. `eval_size` and `resize` bring images to it. `backbone_only`: for training
    to start from.
    """

    archive: str
    data: str
    score: str
    megabytes: float
    flags: Flags
    eval_size: tuple[int, int] | None = None
    resize: str = "keep"
    backbone_only: bool = False

    @property
    def url(self) -> str:
        """Where the file is."""
        return self.archive if "://" in self.archive else MODELS.format(self.archive)

    @property
    def repository(self) -> str:
        """Of the Hugging Face Hub; "" of other rows."""
        parts = self.url.removeprefix(HUB).split("/")
        return "/".join(parts[:2]) if self.url.startswith(HUB) else ""

    @property
    def file(self) -> str:
        """The name of the file, where it is kept here."""
        if self.repository:
            return f"{self.repository.rpartition('/')[2]}.safetensors"
        return self.url.rpartition("/")[2]

    @property
    def network(self) -> ModelConfig:
        """The network as the flags describe it, or of the Hub's rows our own fields."""
        return ModelConfig(**self.flags) if self.repository else official_config(self.flags)


MNV2 = {"model_variant": "mobilenet_v2"}
X65 = {"model_variant": "xception_65", "atrous_rates": (6, 12, 18), "decoder_output_stride": (4,)}
DPC = {
    "model_variant": "xception_71",
    "decoder_output_stride": (4,),
    "dense_prediction_cell_config": CITYSCAPES_CELL,
}
MNV3 = {
    "output_stride": 32,
    "image_pooling_crop_size": (769, 769),
    "image_pooling_stride": (4, 5),
    "aspp_convs_filters": 128,
    "aspp_with_concat_projection": False,
    "aspp_with_squeeze_and_excitation": True,
    "image_se_uses_qsigmoid": True,
    "decoder_output_stride": (8,),
    "decoder_use_sum_merge": True,
    "decoder_filters": 19,
    "decoder_output_is_logits": True,
}
EDGE = {"model_variant": "mobilenet_edgetpu", "output_stride": 32}


def _voc(archive: str, data: str, score: str, megabytes: float, flags: Flags) -> Row:
    return Row(archive, data, score, megabytes, flags | {"num_classes": 21}, (513, 513))


def _cityscapes(archive: str, score: str, megabytes: float, flags: Flags) -> Row:
    flags = flags | {"num_classes": 19}
    return Row(archive, "Cityscapes", score, megabytes, flags, (1025, 2049))


def _ade20k(archive: str, score: str, megabytes: float, flags: Flags) -> Row:
    return Row(archive, "ADE20K", score, megabytes, flags | {"num_classes": 151}, (513, 513), "fit")


def _backbone(archive: str, data: str, megabytes: float, variant: str, **flags: Any) -> Row:
    flags = {"model_variant": variant, **flags}
    return Row(archive, data, "", megabytes, flags, backbone_only=True)


def _timm(name: str, megabytes: float, **fields: Any) -> Row:
    """Licence Apache-2.0, as timm's configurations have it."""
    url = f"{HUB}timm/{name}/resolve/main/model.safetensors"
    fields |= {"head": "classifier", "num_classes": 1000, "output_stride": 32}
    return Row(url, "ImageNet", "", megabytes, fields, backbone_only=True)


BETA = {"multi_grid": (1, 2, 4)}
P = "deeplabv3_{}_pascal_{}_{}"
ROWS = {
    "mobilenetv2_05_voc": _voc(
        P.format("mnv2_dm05", "trainaug", "2018_10_01"),
        *("VOC trainaug", "70.19", 7.6, MNV2 | {"depth_multiplier": 0.5}),
    ),
    "mobilenetv2_05_voc_trainval": _voc(
        P.format("mnv2_dm05", "trainval", "2018_10_01"),
        *("VOC trainval", "71.83 test", 7.6, MNV2 | {"depth_multiplier": 0.5}),
    ),
    "mobilenetv2_voc": _voc(
        P.format("mnv2", "train_aug", "2018_01_29"), "VOC trainaug", "75.32", 23, MNV2
    ),
    "mobilenetv2_voc_trainval": _voc(
        P.format("mnv2", "trainval", "2018_01_29"), "VOC trainval", "80.25 test", 23, MNV2
    ),
    "xception65_voc": _voc(
        "deeplabv3_pascal_train_aug_2018_01_04", "VOC trainaug", "82.20", 439, X65
    ),
    "xception65_voc_trainval": _voc(
        "deeplabv3_pascal_trainval_2018_01_04", "VOC trainval", "87.80 test", 439, X65
    ),
    "mobilenetv2_05_voc_8bit": _voc(
        P.format("mnv2_dm05", "train_aug", "8bit_2019_04_26"),
        *("VOC trainaug", "69.65", 8.2, MNV2 | {"depth_multiplier": 0.5}),
    ),
    "mobilenetv2_voc_8bit": _voc(
        P.format("mnv2", "train_aug", "8bit_2019_04_26"), "VOC trainaug", "74.26", 24, MNV2
    ),
    "mobilenetv2_cityscapes": _cityscapes(
        "deeplabv3_mnv2_cityscapes_train_2018_02_05", "70.71", 23, MNV2
    ),
    "xception65_cityscapes": _cityscapes(
        "deeplabv3_cityscapes_train_2018_02_06", "78.79", 439, X65
    ),
    "xception71_dpc_cityscapes": _cityscapes(
        "deeplab_cityscapes_xception71_trainfine_2018_09_08", "80.31", 445, DPC
    ),
    "xception71_dpc_cityscapes_trainval": _cityscapes(
        "deeplab_cityscapes_xception71_trainvalfine_2018_09_08", "82.66 test", 446, DPC
    ),
    "mobilenetv3_large_cityscapes": _cityscapes(
        "deeplab_mnv3_large_cityscapes_trainfine_2019_11_15",
        *("72.41", 17, MNV3 | {"model_variant": "mobilenet_v3_large_seg"}),
    ),
    "mobilenetv3_small_cityscapes": _cityscapes(
        "deeplab_mnv3_small_cityscapes_trainfine_2019_11_15",
        *("68.99", 5, MNV3 | {"model_variant": "mobilenet_v3_small_seg"}),
    ),
    "edgetpu_cityscapes": _cityscapes("edgetpu-deeplab_2020_03_09", "70.6", 60, EDGE),
    "edgetpu_slim_cityscapes": _cityscapes(
        "edgetpu-deeplab-slim_2020_03_09",
        *("70.0", 40, EDGE | {"depth_multiplier": 0.75, "aspp_convs_filters": 128}),
    ),
    "mobilenetv2_ade20k": _ade20k(
        "deeplabv3_mnv2_ade20k_train_2018_12_03",
        *("32.04", 24.8, MNV2 | {"decoder_output_stride": (4,)}),
    ),
    "xception65_ade20k": _ade20k(
        "deeplabv3_xception_ade20k_train_2018_05_29", "45.65 at stride 8", 439, X65
    ),
    "xception41_imagenet": _backbone("xception_41_2018_05_09", "ImageNet", 288, "xception_41"),
    "xception65_imagenet": _backbone(
        "deeplabv3_xception_2018_01_04", "ImageNet", 447, "xception_65"
    ),
    "xception71_imagenet": _backbone("xception_71_2018_05_09", "ImageNet", 474, "xception_71"),
    "xception65_coco": _backbone(
        "xception_65_coco_pretrained_2018_10_02", "COCO", 292, "xception_65"
    ),
    "resnet50_imagenet": _backbone(
        "resnet_v1_50_2018_05_04", "ImageNet", 274, "resnet_v1_50_beta", **BETA
    ),
    "resnet101_imagenet": _backbone(
        "resnet_v1_101_2018_05_04", "ImageNet", 477, "resnet_v1_101_beta", **BETA
    ),
    "mobilenetv2_imagenet": _backbone(MOBILENET_V2, "ImageNet", 78, "mobilenet_v2"),
    "xception65_timm": _timm("xception65.ra3_in1k", 153, backbone="xception_65"),
    "resnet50_timm": _timm("resnet50.a1_in1k", 98, backbone="resnet_50"),
    "resnet101_timm": _timm("resnet101.a1_in1k", 171, backbone="resnet_101"),
    "mobilenetv2_timm": _timm(
        "mobilenetv2_100.ra_in1k", 14, backbone="mobilenet_v2", mobilenet_form="torch"
    ),
}


PROOF = """\
Licence of all: Apache-2.0. published: mIoU of val in %, unless it says otherwise.
here: downloaded and converted. Each network builds with the published number of parameters, is
read off its variables (tests/weights/test_zoo.py), and equals its authors' code on made-up weights
(tests/models/test_parity.py, tests/weights/test_torch_names.py). No file of this list could be
read where that was tested; the 8-bit files of three networks could: docs/weights.md."""


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
      UserError: the file cannot be had, or is not what it should be.
    """
    from deeplab_jax.weights.convert import convert_file  # which writes folders of weights

    row, home = ROWS[name], weights_folder()
    folder = home / name
    if (folder / "model.safetensors").is_file():
        return folder
    archives, most = home / "archives", round(1.5 * row.megabytes * MB) + 8 * MB
    if row.repository:
        archive = download_from_hub(row.repository, archives, most)
    else:
        archive = download(row.url, archives, most)
    staging = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=home))
    try:
        # The file tells its network, and by its name what else the row has.
        convert_file(str(archive), staging, {}, {}, backbone_only=row.backbone_only)
        if not folder.exists():  # else another process was first
            os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def find_row(source: str) -> tuple[str, Flags, Flags]:
    """The name of the row whose archive a file is, and settings that its variables do not tell.

    They are those of the model, without what stands on a backbone, and of the task; of another file
    there are none.
    """
    for name, row in ROWS.items():
        if row.file == Path(source).name:
            untold = () if row.backbone_only else UNTOLD
            model = {field: getattr(row.network, field) for field in untold}
            return name, model, {"eval_size": row.eval_size, "resize": row.resize}
    return "", {}, {}


def format_zoo() -> str:
    """A line for each row, in which what is at hand is marked; and what is proven of all."""
    home = weights_folder()
    rows = [("name", "trained on", "classes", "published", "MB", "here", "file")]
    for name, row in ROWS.items():
        here = "yes" if (home / name).is_dir() else ""
        classes = "" if row.backbone_only else str(row.network.classes)
        rows.append((name, row.data, classes, row.score, f"{row.megabytes:g}", here, row.url))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", PROOF])
