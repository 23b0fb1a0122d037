"""What travels with the weights: the network, and the task that it was trained for.

Everything has an upper bound: a file from anywhere must not describe what takes hours or all
memory to build.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from deeplab_jax.config.cell import Cell
from deeplab_jax.config.checks import check_fields, heeded, limited, require

Backbone = Literal[
    "xception_41",
    "xception_65",
    "xception_71",
    "resnet_v1_50_beta",
    "resnet_v1_101_beta",
    "resnet_v1_50",
    "resnet_v1_101",
    "resnet_v1_18_beta",
    "resnet_v1_18",
    "mobilenet_v2",
    "mobilenet_v3_large_seg",
    "mobilenet_v3_small_seg",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v3_large_minimalistic",
    "mobilenet_v3_small_minimalistic",
    "mobilenet_edgetpu",
    "unet",
]
Head = Literal["deeplabv3plus", "deeplabv3", "pspnet", "unet", "classifier"]
Remat = Literal["none", "middle_flow", "convolutions", "units"]
Color = tuple[int, int, int]
Size = tuple[int, int]
OUTPUT_STRIDES = (8, 16, 32)
MAX_SIDE = 16385  # pixels: beyond, a batch of one image is beyond any device
MOST_CHANNELS = 64  # of an image
MOST_CLASSES = {"classifier": 46340}  # u16 labels, where a pair of classes must be an int32
VOC_CLASSES = 21
MOST_VALUE = 1e30  # of a pixel
SEGMENTATION = ("scenes", "folder", "voc2012", "cityscapes")  # sources of data


def is_size(size: Size, least: int = 1) -> bool:
    return len(size) == 2 and all(least <= n <= MAX_SIDE for n in size)


def size_field() -> Size | None:
    """A field of height and width, of at least 17 pixels each; None: from the data."""
    allowed = f"height and width, each 17 to {MAX_SIDE}"
    size: Size | None = limited(None, allowed, lambda size: is_size(size, 17))
    return size


def channels_field(default: int) -> int:
    channels: int = limited(default, "1 to 8192", lambda n: 1 <= n <= 8192)
    return channels


@dataclass(frozen=True)
class ModelConfig:
    """The network. The same variables serve every `output_stride`."""

    backbone: Backbone = "xception_65"
    """The encoder. unet: U-Net's own contracting path, for head unet alone.

    mobilenet_v3_*_seg: the official segmentation form, with half the channels behind the last
    stride; minimalistic: without 5x5 kernels, squeeze-and-excitation and h-swish.
    """
    head: Head = "deeplabv3plus"
    num_classes: int | None = None
    """None: as many as the data have; without data 21, as PASCAL VOC."""
    channels: int | None = limited(None, f"1 to {MOST_CHANNELS}", lambda n: 1 <= n <= MOST_CHANNELS)
    """Channels of an image; None: as many as the data have, an alpha channel not counted; without
    data 3."""
    output_stride: int = 16
    """Input pixels per pixel of the encoder's output: 8, 16 or 32."""
    atrous_rates: tuple[int, ...] | None = limited(
        None,
        "at most 16 whole numbers from 1 to 1024, or None",
        lambda rates: len(rates) <= 16 and all(1 <= r <= 1024 for r in rates),
    )
    """Rates of the ASPP's 3x3 branches; None: (6, 12, 18) * 16 / output_stride; (): no branch."""
    multi_grid: tuple[int, int, int] = limited(
        (1, 1, 1),
        "three numbers from 1 to 64",
        lambda grid: len(grid) == 3 and all(1 <= m <= 64 for m in grid),
    )
    """Factors on the rates of the last block (Xception, ResNet: released ones want 1 2 4).

    ResNet-18's last block has two units: the third factor stays 1.
    """
    width: float = limited(1.0, "a number above 0 up to 16", lambda x: 0 < x <= 16)
    """Multiplier on the backbone's channels."""
    width_divisor: int | None = limited(None, "1 to 64, or None", lambda n: 1 <= n <= 64)
    """MobileNetV2 rounds channels to a multiple of this; None: 8 at width 1, else 1, as official
    DeepLab does. Slim's ImageNet checkpoints of other widths have 8."""
    mobilenet_endpoints: Literal["official", "blocks"] = "official"
    """What of MobileNetV2 the head stands on.

    official: as official DeepLab, the 320-channel layer, and low-level features inside the blocks
    (the depthwise outputs); blocks: as other libraries, the 1280-channel layer above, and the
    blocks' outputs, which learns faster from ImageNet weights. A classifier always has that layer.
    """
    whole_top: bool = False
    """Narrow MobileNetV3 and EdgeTPU keep all channels of their last layer.

    So do the 8-bit file of the slim EdgeTPU network, and every EdgeTPU classifier.
    """
    activation: Literal["relu", "relu6"] = "relu"
    """Of Xception, ASPP and decoder; relu6 also clips Xception's sums, for 8-bit arithmetic."""
    aspp_form: Literal["projection", "concat", "deeplabv2"] = "projection"
    """What becomes of the ASPP's branches.

    projection: they are joined, and projected by a 1x1 convolution; concat: joined alone;
    deeplabv2: no ASPP, but the sum of as many logits as there are rates (DeepLab v2).
    """
    aspp_channels: int = channels_field(256)
    aspp_separable: bool = True
    dense_prediction_cell: Cell = limited(
        (),
        "at most 16 branches, the input of each -1 or the number of an earlier one",
        lambda cell: len(cell) <= 16 and all(b.input < i for i, b in enumerate(cell)),
    )
    """In place of the ASPP a cell of the official JSON language; (): the ASPP."""
    image_pooling: bool = True
    image_pooling_crop_size: Size | None = limited(
        None, "height and width in pixels, or None", is_size
    )
    """Height and width whose features the pooling window covers, as in training; None: all."""
    image_pooling_stride: Size = limited(
        (1, 1), "height and width, each 1 to 1024", lambda s: all(1 <= n <= 1024 for n in s)
    )
    """Of that window."""
    image_pooling_gate: Literal["none", "sigmoid", "hard_sigmoid"] = "none"
    """With which function the pooled features multiply the ASPP's output; none: a branch of it."""
    decoder_strides: tuple[int, ...] = (4,)
    """Strides of the low-level features, one decoder stage each, largest first."""
    decoder_low_level_channels: int = channels_field(48)
    decoder_channels: int = channels_field(256)
    decoder_convs: int = limited(2, "0 to 16", lambda n: 0 <= n <= 16)
    decoder_kernel: int = limited(
        3, "an odd number up to 31", lambda k: 1 <= k <= 31 and k % 2 == 1
    )
    decoder_separable: bool = True
    decoder_merge: Literal["concat", "sum"] = "concat"
    """sum: low-level features as wide as the decoder are added to one convolution's output."""
    decoder_logits: bool = False
    """The decoder's output is the logits: convolutions without BatchNorm and activation."""
    logits_kernel: int = limited(1, "an odd number up to 7", lambda k: k in (1, 3, 5, 7))
    """Of aspp_form = deeplabv2."""
    head_init: Literal["official", "he"] = "official"
    """How ASPP, decoder and any head's logits start: official deviations, or He's, by fan-in.

    he: for some hundred steps from ImageNet weights, where official logits, which start near 0, are
    late to learn small classes. From nothing it was worse.
    """
    batch_norm_decay: float | None = limited(None, "between 0 and 1, or None", lambda x: 0 < x < 1)
    """Decay of BatchNorm's averages; None: the official one of each part.

    The official ones (0.9997, MobileNetV2 0.997) need tens of thousands of steps. Runs of some
    hundred steps want 0.9 to 0.99.
    """
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Type of the network's arithmetic; parameters, statistics, logits and loss stay float32.

    auto: bfloat16 where a run starts on accelerators that have it, else float32.
    """
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it, unit by unit of the backbone.

    middle_flow: everything of Xception's middle flow, from each unit's input; convolutions:
    BatchNorm, activations and depthwise convolutions, from the kept outputs of the other
    convolutions; units: everything, from the unit's input.
    """

    def __post_init__(self) -> None:
        check_fields(self, "model")
        most = MOST_CLASSES.get(self.head, 255)
        allowed = f"2 to {most}; one class needs 2, because the background is class 0"
        require(2 <= self.classes <= most, "model.num_classes", self.num_classes, allowed)
        strides = ", ".join(map(str, OUTPUT_STRIDES))
        ok = self.output_stride in OUTPUT_STRIDES
        require(ok, "model.output_stride", self.output_stride, f"choose one of {strides}")
        remat_ok = self.remat != "middle_flow" or self.backbone.startswith("xception")
        require(remat_ok, "model.remat", self.remat, "only Xception has one: convolutions, units")
        self._check_backbone()
        self._check_aspp()
        if self.head == "deeplabv3plus":
            s = self.decoder_strides
            ordered = len(s) > 0 and all(a > b for a, b in pairwise(s))
            fits = all(x in (4, 8, 16) and x <= self.output_stride for x in s)
            allowed = "4, 8, 16, largest first, none above output_stride"
            require(ordered and fits, "model.decoder_strides", s, allowed)
            ok = self.decoder_convs > 0 or not self.decoder_logits
            allowed = "1 or more, as the last makes the logits (model.decoder_logits)"
            require(ok, "model.decoder_convs", self.decoder_convs, allowed)

    def _check_backbone(self) -> None:
        """What only some backbones have."""
        if self.backbone != "mobilenet_v2":
            for name, none in (("width_divisor", None), ("mobilenet_endpoints", "official")):
                value = getattr(self, name)
                allowed = f"for mobilenet_v2 alone; or {none}"
                require(value == none, f"model.{name}", value, allowed)
        if not self.backbone.startswith(("mobilenet_v3", "mobilenet_edgetpu")):
            allowed = "for mobilenet_v3 and mobilenet_edgetpu alone; or False"
            require(not self.whole_top, "model.whole_top", self.whole_top, allowed)
        if self.backbone.startswith(("mobilenet", "unet")):
            allowed = f"{self.backbone} has none: leave (1, 1, 1)"
            require(self.multi_grid == (1, 1, 1), "model.multi_grid", self.multi_grid, allowed)
        if self.backbone.startswith("resnet_v1_18"):
            allowed = f"the last block of {self.backbone} has two units: the third must be 1"
            require(self.multi_grid[2] == 1, "model.multi_grid", self.multi_grid, allowed)
        if self.backbone == "unet":
            allowed = "model.backbone = unet is U-Net's own encoder: unet"
            require(self.head == "unet", "model.head", self.head, allowed)
            allowed = "model.backbone = unet has no atrous convolution: 16"
            require(self.output_stride == 16, "model.output_stride", self.output_stride, allowed)

    def _check_aspp(self) -> None:
        """What only some forms of the ASPP allow."""
        if self.dense_prediction_cell:
            ok, allowed = self.output_stride <= 16, "a dense prediction cell wants 8 or 16"
            require(ok, "model.output_stride", self.output_stride, allowed)
        if not self.sums_logits:
            allowed = "1; others for model.aspp_form = deeplabv2 with model.atrous_rates alone"
            require(self.logits_kernel == 1, "model.logits_kernel", self.logits_kernel, allowed)
        gated = self.image_pooling and self.image_pooling_gate != "none"
        if gated and self.aspp_form == "concat" and not self.dense_prediction_cell:
            allowed = "(): a gate fits one branch, unless model.aspp_form is projection"
            require(self.rates == (), "model.atrous_rates", self.rates, allowed)

    @property
    def classes(self) -> int:
        """How many classes the network has, the default filled in."""
        return VOC_CLASSES if self.num_classes is None else self.num_classes

    @property
    def image_channels(self) -> int:
        """How many channels an image has, the default filled in."""
        return 3 if self.channels is None else self.channels

    @property
    def sums_logits(self) -> bool:
        """Whether the logits are DeepLab v2's sum over rates."""
        return self.aspp_form == "deeplabv2" and len(self.rates) > 0

    @property
    def rates(self) -> tuple[int, ...]:
        """The ASPP's rates with the default filled in: they follow the output stride."""
        if self.atrous_rates is not None:
            return self.atrous_rates
        return tuple(r * 16 // self.output_stride for r in (6, 12, 18))


@dataclass(frozen=True)
class TaskConfig:
    """What the network's outputs mean, and how an image is brought to it."""

    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their ids; (): those of the data."""
    colors: tuple[Color, ...] = limited(
        (),
        "red, green and blue of each class, 0 to 255 each",
        lambda colors: all(0 <= c <= 255 for color in colors for c in color),
    )
    """The classes' colours; (): those of the data, or VOC's."""
    values: tuple[int, ...] = limited(
        (), "whole numbers from 0 to 65535", lambda values: all(0 <= v <= 65535 for v in values)
    )
    """The mask value of each class id, as in the masks that it was trained on; (): the id."""
    eval_size: Size | None = size_field()
    """Height and width that images are padded to at evaluation and prediction.

    None, or where an image is larger: its own, rounded up to k * output_stride + 1.

    Of a classifier: the central crop's; None: that of the training crops.
    """
    resize: Literal["auto", "keep", "fit"] = heeded("keep", *SEGMENTATION)
    """fit: scale every image to fit into eval_size first (training images too).

    auto: where the longer side of most is above twice the crop's, to fit into twice the crop's.
    """
    range: tuple[float, float] | None = limited(
        None,
        "two finite numbers, the lower one first, such as 0 4095 for 12 bits; or None",
        lambda range: -MOST_VALUE <= range[0] < range[1] <= MOST_VALUE,
        heeded_by=("folder",),
    )
    """The values that become black and white in images of more than 8 bits.

    None: found in the training images, and kept with the weights (`find_range`); without data what
    the type says, 0 65535.
    """

    def __post_init__(self) -> None:
        check_fields(self, "task")
        if self.resize == "fit":
            why = "task.resize = fit needs the size to fit into"
            require(self.eval_size is not None, "task.eval_size", self.eval_size, why)
        if self.colors and len(self.colors) != len(self.classes):
            allowed = f"one for each of the {len(self.classes)} classes (task.classes)"
            require(False, "task.colors", self.colors, allowed)
