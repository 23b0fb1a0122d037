"""All configuration as frozen dataclasses: every default, every check, the command line, JSON.

`configs/NAME.py` exports `get_config() -> Config`; `--section.field=value` on the command line
changes one field of it. A contradiction is refused here, before anything is built, by a
`UserError`.
"""

import dataclasses
import difflib
import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from deeplab_jax.errors import UserError
from deeplab_jax.files import write_atomically

Backbone = Literal[
    "xception_41",
    "xception_65",
    "xception_71",
    "resnet_v1_50_beta",
    "resnet_v1_101_beta",
    "resnet_v1_50",
    "resnet_v1_101",
    "mobilenet_v2",
    "unet",
]
Head = Literal["deeplabv3plus", "deeplabv3", "pspnet", "unet", "classifier"]
Remat = Literal["none", "middle_flow", "convolutions", "units"]
DataKind = Literal["scenes", "folder", "voc2012", "cityscapes", "imagenet2012"]
OUTPUT_STRIDES = (8, 16, 32)
MAX_SIDE = 16385  # pixels: beyond, a batch of one picture is beyond any device
# Fields of `DataConfig` that not every source heeds.
HEEDED_BY: dict[str, tuple[DataKind, ...]] = {
    **dict.fromkeys(("image_dir", "mask_dir", "holdout", "classes", "ignore_label"), ("folder",)),
    **dict.fromkeys(("palette_masks", "exif_upright", "white"), ("folder",)),
    "root": ("folder", "voc2012", "cityscapes", "imagenet2012"),
    "prepared_dir": ("scenes", "voc2012", "cityscapes", "imagenet2012"),
    **dict.fromkeys(
        ("resize", "min_scale", "max_scale", "scale_step"),
        ("scenes", "folder", "voc2012", "cityscapes"),
    ),
}
MAX_JSON_BYTES = 2**20  # a config.json has 3 kB
HELP = {"-h", "--help"}
BESIDE_PACKAGE = Path(__file__).resolve().parents[1]
SCALARS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
T = TypeVar("T")


def round_up(size: int, stride: int) -> int:
    """The smallest k * stride + 1 that is not below `size`: a size whose corners stay aligned."""
    return -(-(size - 1) // stride) * stride + 1


def round_near(size: float, stride: int) -> int:
    """The nearest k * stride + 1, with k from 1."""
    return max(1, round((size - 1) / stride)) * stride + 1


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise the one form of error that a wrong field gets."""
    if not ok:
        raise UserError(f"{name} = {value!r} is not possible: {allowed}")


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    require(value in choices, name, value, f"choose one of {', '.join(map(str, choices))}{hint}")


@dataclass(frozen=True)
class ModelConfig:
    """The network. The same variables serve every `output_stride`.

    Everything has an upper bound: a config.json from anywhere must not describe what takes hours or
    all memory to build.
    """

    backbone: Backbone = "xception_65"
    """The encoder. unet: U-Net's own contracting path, for head unet alone."""
    head: Head = "deeplabv3plus"
    num_classes: int = 21
    output_stride: int = 16
    """Input pixels per pixel of the encoder's output: 8, 16 or 32."""
    atrous_rates: tuple[int, ...] | None = None
    """Rates of the ASPP's 3x3 branches; None: (6, 12, 18) * 16 / output_stride; (): no branch."""
    multi_grid: tuple[int, int, int] = (1, 1, 1)
    """Factors on the rates of the last block (Xception, ResNet: released ones want 1 2 4)."""
    width: float = 1.0
    """Multiplier on the backbone's channels."""
    width_divisor: int | None = None
    """MobileNetV2 rounds channels to a multiple of this; None: 8 at width 1, else 1, as official
    DeepLab does. Slim's ImageNet checkpoints of other widths have 8."""
    mobilenet_endpoints: Literal["official", "blocks"] = "official"
    """What of MobileNetV2 the head stands on.

    official: as official DeepLab, the 320-channel layer, and low-level features inside the blocks
    (the depthwise outputs); blocks: as other libraries, the 1280-channel layer above, and the
    blocks' outputs, which learns faster from ImageNet weights. A classifier always has that layer.
    """
    aspp_channels: int = 256
    aspp_separable: bool = True
    image_pooling: bool = True
    image_pooling_crop_size: tuple[int, int] | None = None
    """Height and width whose features the pooling window covers, as in training; None: all."""
    decoder_strides: tuple[int, ...] = (4,)
    """Strides of the low-level features, one decoder stage each, largest first."""
    decoder_low_level_channels: int = 48
    decoder_channels: int = 256
    decoder_convs: int = 2
    decoder_kernel: int = 3
    decoder_separable: bool = True
    head_init: Literal["official", "he"] = "official"
    """How ASPP, decoder and any head's logits start: official deviations, or He's, by fan-in.

    he: for some hundred steps from ImageNet weights, where official logits, which start near 0, are
    late to learn small classes. From nothing it was worse (README).
    """
    batch_norm_decay: float | None = None
    """Decay of BatchNorm's averages; None: the official one of each part.

    The official ones (0.9997, MobileNetV2 0.997) need tens of thousands of steps. Runs of some
    hundred steps want 0.9 to 0.99.
    """
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the network's arithmetic; parameters, statistics, logits and loss stay float32."""
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it, unit by unit of the backbone.

    middle_flow: everything of Xception's middle flow, from each unit's input; convolutions:
    BatchNorm, activations and depthwise convolutions, from the kept outputs of the other
    convolutions; units: everything, from the unit's input.
    """

    def __post_init__(self) -> None:
        one_of("model.backbone", self.backbone, get_args(Backbone))
        one_of("model.head", self.head, get_args(Head))
        one_of("model.output_stride", self.output_stride, OUTPUT_STRIDES)
        one_of("model.remat", self.remat, get_args(Remat))
        remat_ok = self.remat != "middle_flow" or self.backbone.startswith("xception")
        require(remat_ok, "model.remat", self.remat, "only Xception has one: convolutions, units")
        one_of("model.dtype", self.dtype, ("float32", "bfloat16"))
        # Labels are uint8; of a classifier uint16, where a pair of classes must be an int32.
        most = 46340 if self.head == "classifier" else 255
        allowed = f"2 to {most}; one class needs 2, because the background is class 0"
        require(2 <= self.num_classes <= most, "model.num_classes", self.num_classes, allowed)
        require(0 < self.width <= 16, "model.width", self.width, "a number above 0 up to 16")
        divisor = self.width_divisor
        divisor_ok = divisor is None or (1 <= divisor <= 64 and self.backbone == "mobilenet_v2")
        allowed = "1 to 64, and for mobilenet_v2 alone; or None"
        require(divisor_ok, "model.width_divisor", divisor, allowed)
        endpoints = self.mobilenet_endpoints
        one_of("model.mobilenet_endpoints", endpoints, ("official", "blocks"))
        endpoints_ok = endpoints == "official" or self.backbone == "mobilenet_v2"
        allowed = "for mobilenet_v2 alone; or official"
        require(endpoints_ok, "model.mobilenet_endpoints", endpoints, allowed)
        one_of("model.head_init", self.head_init, ("official", "he"))
        rates = self.atrous_rates or ()
        rates_ok = len(rates) <= 16 and all(1 <= r <= 1024 for r in rates)
        allowed = "at most 16 whole numbers from 1 to 1024, or None"
        require(rates_ok, "model.atrous_rates", self.atrous_rates, allowed)
        mg = self.multi_grid
        mg_ok = len(mg) == 3 and all(1 <= m <= 64 for m in mg)
        require(mg_ok, "model.multi_grid", mg, "three numbers from 1 to 64")
        if self.backbone in ("mobilenet_v2", "unet"):
            allowed = f"{self.backbone} has none: leave (1, 1, 1)"
            require(mg == (1, 1, 1), "model.multi_grid", mg, allowed)
        if self.backbone == "unet":
            allowed = "model.backbone = unet is U-Net's own encoder: unet"
            require(self.head == "unet", "model.head", self.head, allowed)
            allowed = "model.backbone = unet has no atrous convolution: 16"
            require(self.output_stride == 16, "model.output_stride", self.output_stride, allowed)
        window = self.image_pooling_crop_size
        window_ok = window is None or (len(window) == 2 and all(1 <= n <= MAX_SIDE for n in window))
        allowed = "height and width in pixels, or None"
        require(window_ok, "model.image_pooling_crop_size", window, allowed)
        for name in ("aspp_channels", "decoder_low_level_channels", "decoder_channels"):
            channels = getattr(self, name)
            require(1 <= channels <= 8192, f"model.{name}", channels, "1 to 8192")
        decay = self.batch_norm_decay
        decay_ok = decay is None or 0 < decay < 1
        require(decay_ok, "model.batch_norm_decay", decay, "between 0 and 1, or None")
        convs, k = self.decoder_convs, self.decoder_kernel
        require(0 <= convs <= 16, "model.decoder_convs", convs, "0 to 16")
        require(1 <= k <= 31 and k % 2 == 1, "model.decoder_kernel", k, "an odd number up to 31")
        if self.head == "deeplabv3plus":
            s = self.decoder_strides
            ordered = len(s) > 0 and all(a > b for a, b in pairwise(s))
            fits = all(x in (4, 8, 16) and x <= self.output_stride for x in s)
            allowed = "4, 8, 16, largest first, none above output_stride"
            require(ordered and fits, "model.decoder_strides", s, allowed)

    @property
    def rates(self) -> tuple[int, ...]:
        """The ASPP's rates with the default filled in: they follow the output stride."""
        if self.atrous_rates is not None:
            return self.atrous_rates
        return tuple(r * 16 // self.output_stride for r in (6, 12, 18))


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures come from and how they are cut."""

    source: DataKind = "scenes"
    """imagenet2012 is for head classifier, the others are for segmentation."""
    root: str = ""
    """folder: has images/ and masks/; voc2012: VOCdevkit; else: TFDS's manual downloads."""
    prepared_dir: str = "~/.cache/deeplab_jax/tfds"
    """Where TFDS builders keep their ArrayRecord files."""
    train_split: str = "train"
    eval_split: str = "validation"
    image_dir: str = "images"
    mask_dir: str = "masks"
    holdout: float = 0.0
    """folder without SPLIT sub-folders: the share of pictures kept for evaluation."""
    classes: str = ""
    """File with one class name a line, each with an optional #rrggbb; default root/classes.txt."""
    palette_masks: bool = False
    """folder: accept palette PNGs, whose indices are then the labels."""
    exif_upright: bool = False
    """folder: images are turned as EXIF says, because masks were drawn on upright images.

    Where a mask's size proves one or the other, that decides.
    """
    white: int | None = None
    """folder: the value that is white in grayscale images of more than 8 bits; None: 65535.

    12 bits in 16-bit files want 4095: else they are nearly black. Kept for prediction.
    """
    ignore_label: int = 255
    """folder: of the mask's pixels that count neither in training nor in evaluation."""
    crop_size: tuple[int, int] = (257, 321)
    """Height and width of a training crop: k * output_stride, or one more; classifier: any."""
    eval_size: tuple[int, int] | None = None
    """Height and width that images are padded to at evaluation and prediction.

    None, or where an image is larger: its own, rounded up to k * output_stride + 1.

    Of a classifier: the central crop's; None: crop_size.
    """
    resize: Literal["keep", "fit"] = "keep"
    """fit: scale every picture to fit into eval_size first (of training pictures too)."""
    min_scale: float = 0.5
    """Not for a classifier, whose crops have a random area and aspect (`inception_crop`)."""
    max_scale: float = 2.0
    scale_step: float = 0.25
    flip: bool = True
    photometric: float = 0.0
    """Strength of random brightness, contrast and saturation; 0: none, 0.3: usual."""
    workers: int = 0
    """Processes that decode; 0: threads of this one. The batches are the same for any number."""
    max_bad_records: int = 10
    """How many unreadable records a run bears, each an example of ignored pixels; then it stops."""

    def __post_init__(self) -> None:
        one_of("data.source", self.source, get_args(DataKind))
        one_of("data.resize", self.resize, ("keep", "fit"))
        if self.source != "scenes":
            what = f"name the {self.source} data set's folder: --data.root=PATH"
            require(bool(self.root), "data.root", self.root, what)
        self._check_heeded()
        for name in ("crop_size", "eval_size"):
            size = getattr(self, name)
            good = size is None or (len(size) == 2 and all(17 <= n <= MAX_SIDE for n in size))
            require(good, f"data.{name}", size, f"height and width, each 17 to {MAX_SIDE}")
        if self.resize == "fit":
            why = "data.resize = fit needs the size to fit into"
            require(self.eval_size is not None, "data.eval_size", self.eval_size, why)
        scales = (self.min_scale, self.max_scale)
        require(0 < scales[0] <= scales[1], "data.min_scale, max_scale", scales, "0 < min <= max")
        require(self.scale_step >= 0, "data.scale_step", self.scale_step, "0 (continuous) or more")
        require(0 <= self.ignore_label <= 255, "data.ignore_label", self.ignore_label, "0 to 255")
        white_ok = self.white is None or 255 <= self.white < 2**31
        allowed = "255 or more, such as 4095 for 12 bits; or None"
        require(white_ok, "data.white", self.white, allowed)
        require(0 <= self.holdout < 1, "data.holdout", self.holdout, "from 0 up to below 1")
        require(0 <= self.photometric <= 1, "data.photometric", self.photometric, "0 to 1")
        for name in ("workers", "max_bad_records"):
            require(getattr(self, name) >= 0, f"data.{name}", getattr(self, name), "0 or more")

    def _check_heeded(self) -> None:
        for field_ in dataclasses.fields(self):
            sources, value = HEEDED_BY.get(field_.name), getattr(self, field_.name)
            if sources is None or self.source in sources:
                continue
            allowed = (
                f"data.source = {self.source} takes no notice of it: leave {field_.default!r}, or"
                f" choose --data.source={' or '.join(sources)}"
            )
            require(value == field_.default, f"data.{field_.name}", value, allowed)

    @property
    def one_label(self) -> bool:
        """Whether a picture has one label, u16 [1 1], instead of one a pixel."""
        return self.source == "imagenet2012"


@dataclass(frozen=True)
class OptimConfig:
    """SGD with momentum in the official (TF1) form, L2 on convolution kernels."""

    learning_rate: float = 0.007
    momentum: float = 0.9
    nesterov: bool = False
    schedule: Literal["poly", "step"] = "poly"
    """The official `learning_policy`; step: times decay_rate every decay_steps."""
    decay_steps: int = 2000
    decay_rate: float = 0.1
    power: float = 0.9
    end_learning_rate: float = 0.0
    slow_start_steps: int = 0
    slow_start_learning_rate: float = 1e-4
    weight_decay: float = 4e-5
    new_layers_multiplier: float = 1.0
    """On the gradients of everything but the backbone (official last_layer_gradient_multiplier)."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optim.learning_rate", self.learning_rate, "above 0")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "from 0 up to below 1")
        one_of("optim.schedule", self.schedule, ("poly", "step"))
        require(self.decay_steps >= 1, "optim.decay_steps", self.decay_steps, "1 or more")
        require(0 < self.decay_rate <= 1, "optim.decay_rate", self.decay_rate, "above 0 up to 1")
        for name in ("power", "end_learning_rate", "slow_start_steps", "weight_decay"):
            require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "0 or more")
        m = self.new_layers_multiplier
        require(m > 0, "optim.new_layers_multiplier", m, "above 0")


@dataclass(frozen=True)
class MeshConfig:
    """How batch, pictures and state are split over the devices: `sharding.py`.

    The product of the three is the number of devices.
    """

    data: int | None = None
    """Parts of the batch; None: as many as the other two leave devices for."""
    fsdp: int = 1
    """Parts of the batch too, and of parameters, optimiser and moving average."""
    space: int = 1
    """Devices that share the height of each picture, where it is too large for one."""

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "space"):
            n = getattr(self, name)
            ok = 1 <= n <= 65536 if n is not None else name == "data"
            require(ok, f"mesh.{name}", n, "a number of devices, 1 or more")

    @property
    def shape(self) -> tuple[int | None, int, int]:
        """As `sharding.device_mesh` takes it."""
        return self.data, self.fsdp, self.space


@dataclass(frozen=True)
class TrainConfig:
    """How long, on what batches, and what is kept."""

    steps: int = 30_000
    batch_size: int = 16
    """Pictures a step over all devices."""
    accumulate: int = 1
    """Parts that the batch is worked through in, one after the other, for memory's sake."""
    class_weights: tuple[float, ...] = ()
    """One weight a class in the loss; (): 1 each."""
    hard_pixels: float = 1.0
    """Share of the hardest pixels that the loss is taken over (official top_k_percent_pixels)."""
    hard_pixels_ramp: int = 0
    """Steps over which that share falls from 1 to hard_pixels."""
    freeze_batch_norm: bool = False
    freeze_backbone: bool = False
    ema_decay: float = 0.0
    """Decay of a moving average of parameters and BatchNorm's statistics, which evaluation then
    uses; 0: none."""
    max_bad_steps: int = 10
    """Steps in a row whose loss or gradient may be no finite number. Each changes nothing."""
    rollback: bool = False
    """After that many, go back to the last checkpoint and pass over the data since, not stop."""
    seed: int = 0
    log_every: int = 10
    eval_every: int = 1000
    checkpoint_every: int = 500
    keep_every: int = 0
    """Keep the checkpoints of every so many steps for good; 0: the last two alone."""
    hang_seconds: int = 1800
    """When a step takes longer, print where each thread stands and leave; 0: never."""

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "log_every", "eval_every", "checkpoint_every")
        for name in (*counts, "max_bad_steps", "accumulate"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "1 or more")
        parts, size = self.accumulate, self.batch_size
        allowed = f"a divisor of train.batch_size = {size}"
        require(size % parts == 0, "train.accumulate", parts, allowed)
        require(0 < self.hard_pixels <= 1, "train.hard_pixels", self.hard_pixels, "above 0 up to 1")
        for name in ("hard_pixels_ramp", "keep_every", "hang_seconds"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "from 0 up to below 1")
        weights = self.class_weights
        require(all(w >= 0 for w in weights), "train.class_weights", weights, "0 or more each")


@dataclass(frozen=True)
class EvalConfig:
    """How predictions are made (`scales` to `overlap`, of `predict` too), and what is measured."""

    batch_size: int = 8
    pictures: int = 5
    """Pictures shown, from the best predicted to the worst; 5: these, the quartiles, the median."""
    scales: tuple[float, ...] = (1.0,)
    """Each picture is seen at these sizes and the probabilities averaged. Paper: 0.5 0.75 ... 1.75.

    A size is rounded to k * output_stride + 1.
    """
    flip: bool = False
    """See the mirror image too, at each scale."""
    window: tuple[int, int] | None = None
    """Height and width of a window that slides over pictures too large for memory; None: whole."""
    overlap: float = 0.33
    """Share of a window's height and width that its neighbour sees too, at least."""
    trimap_widths: tuple[int, ...] = ()
    """Widths in pixels of the bands around boundaries in which mIoU is measured (paper, Figure 5).

    A band has the pixels with a pixel of another label, void among them, at most so far away.
    """
    boundary: float = 0.0
    """Boundary IoU (Cheng et al. 2021): the boundary's width as a share of the picture's diagonal.

    0: not measured; theirs is 0.02.
    """

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "eval.batch_size", self.batch_size, "1 or more")
        require(self.pictures >= 1, "eval.pictures", self.pictures, "1 or more")
        scales_ok = len(self.scales) > 0 and all(0 < s <= 8 for s in self.scales)
        require(scales_ok, "eval.scales", self.scales, "one number or more, each above 0 up to 8")
        window = self.window
        window_ok = window is None or (len(window) == 2 and all(n <= MAX_SIDE for n in window))
        allowed = f"height and width in pixels, each at most {MAX_SIDE}, or None"
        require(window_ok, "eval.window", window, allowed)
        require(0 <= self.overlap < 1, "eval.overlap", self.overlap, "from 0 up to below 1")
        widths = self.trimap_widths
        widths_ok = all(w >= 1 for w in widths) and len(set(widths)) == len(widths)
        require(widths_ok, "eval.trimap_widths", widths, "different whole numbers from 1")
        require(0 <= self.boundary <= 1, "eval.boundary", self.boundary, "0 to 1")


@dataclass(frozen=True)
class Config:
    """One experiment."""

    workdir: str = "runs/experiment"
    """The run's folder. Run again with the same one to resume."""
    pretrained: str = ""
    """A converted folder or a run's folder to start from; layers of another shape are refused."""
    pretrained_logits: bool = True
    """False: start the last layer afresh, as another number of classes needs."""
    accept_changes: bool = False
    """Resume although the configuration or the data are no longer those of the checkpoint."""
    distributed: Literal["auto", "yes", "no"] = "auto"
    """Several processes: auto, where the machine starts them; yes: insist; no: this one alone."""
    reestimate_batch_norm: bool = False
    """Re-estimate the backbone's BatchNorm on images: for weights whose BatchNorm was folded."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        one_of("distributed", self.distributed, ("auto", "yes", "no"))
        stride, any_size = self.model.output_stride, self.model.head == "classifier"
        for name in ("crop_size", "eval_size"):
            size = getattr(self.data, name)
            fits = any_size or size is None or all(n % stride in (0, 1) for n in size)
            near = size and tuple(round_near(n, stride) for n in size)
            allowed = (
                f"output stride {stride} takes k * {stride} or k * {stride} + 1, such as {near}"
            )
            require(fits, f"data.{name}", size, allowed)
        weights, classes = self.train.class_weights, self.model.num_classes
        allowed = f"one weight for each of the {classes} classes (model.num_classes)"
        require(len(weights) in (0, classes), "train.class_weights", weights, allowed)
        self._check_evaluation()
        start = self.optim.slow_start_steps
        allowed = f"fewer than train.steps = {self.train.steps}"
        require(start < self.train.steps, "optim.slow_start_steps", start, allowed)

    def _check_evaluation(self) -> None:
        """A window's logits must fall on the grid of the whole picture's; a classifier has none."""
        e, stride = self.eval, self.model.output_stride
        if self.model.head == "classifier":
            for name, none in (("window", None), ("trimap_widths", ()), ("boundary", 0.0)):
                value = getattr(e, name)
                require(value == none, f"eval.{name}", value, f"a classifier takes only {none!r}")
        if e.window is None:
            return
        for name, size in (("eval.window", e.window), ("data.eval_size", self.data.eval_size)):
            fits = size is None or all(n > stride and n % stride == 1 for n in size)
            near = size and tuple(round_near(n, stride) for n in size)
            allowed = f"eval.window needs k * {stride} + 1 (the output stride's), such as {near}"
            require(fits, name, size, allowed)


def at_output_stride(config: Config, stride: int) -> Config:
    """The same experiment at another output stride.

    Atrous rates follow, and sizes that do not fit the stride are rounded up to k * stride + 1.

    Raises:
      UserError: the stride is not 8, 16 or 32, or the network does not have it.
    """
    one_of("output_stride", stride, OUTPUT_STRIDES)
    model, data = config.model, config.data
    rates = model.atrous_rates and tuple(
        max(1, r * model.output_stride // stride) for r in model.atrous_rates
    )

    def fit(size: tuple[int, int]) -> tuple[int, int]:
        if model.head == "classifier":  # takes any
            return size
        h, w = (n if n % stride in (0, 1) else round_up(n, stride) for n in size)
        return (h, w)

    return dataclasses.replace(
        config,
        model=dataclasses.replace(model, output_stride=stride, atrous_rates=rates),
        data=dataclasses.replace(
            data, crop_size=fit(data.crop_size), eval_size=data.eval_size and fit(data.eval_size)
        ),
        eval=dataclasses.replace(
            config.eval, window=config.eval.window and fit(config.eval.window)
        ),
    )


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as JSON-ready nested dictionaries."""
    return dataclasses.asdict(config)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`to_dict` as {"section.field": value}, tuples as the lists that JSON makes of them."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        out |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in out.items()}


def from_dict(cls: type[Any], values: Any, where: str = "") -> Any:
    """The inverse of `to_dict`; an unknown field or a wrong type is a `UserError` that names it."""
    hints = get_type_hints(cls)
    if not isinstance(values, Mapping):
        shown = f"{values!r:.80}"
        raise UserError(f"{where or 'config'}: expected an object with fields, got {shown}")
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"fields are {', '.join(hints)}"
            raise UserError(f"{where}{key:.80}: there is no such field; {hint}")
    converted = {k: from_value(hints[k], v, f"{where}{k}") for k, v in values.items()}
    return cls(**converted)


def from_value(hint: Any, value: Any, where: str) -> Any:
    """A value of JSON as a field's type: lists as tuples, whole numbers as floats where asked."""
    kind, parts = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, f"{where}.")
    if NoneType in parts:  # X | None
        return None if value is None else from_value(parts[0], value, where)
    if kind is Literal:
        one_of(where, value, parts)
        return value
    return from_list(parts, value, where) if kind is tuple else from_scalar(hint, value, where)


def from_list(parts: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} = {value!r:.80}: expected a list")
    parts = parts[:1] * len(value) if parts[-1] is ... else parts
    if len(value) != len(parts):
        raise UserError(f"{where} = {value!r:.80}: expected {len(parts)} values")
    items = enumerate(zip(parts, value, strict=True))
    return tuple(from_value(part, item, f"{where}[{i}]") for i, (part, item) in items)


def from_scalar(hint: type[Any], value: Any, where: str) -> Any:
    if type(value) is not hint and (hint, type(value)) != (float, int):
        raise UserError(f"{where} = {value!r:.80}: expected {hint.__name__}")
    if isinstance(value, int | float) and not abs(value) < 2**63:  # NaN is not below either
        raise UserError(f"{where} = {value!r:.80}: expected a finite number of at most 64 bits")
    if isinstance(value, str) and "\0" in value:  # nearly all are paths
        raise UserError(f"{where} = {value!r:.80}: expected text without NUL")
    return hint(value)


def read_json(path: Path) -> Any:
    """What a small JSON file holds.

    Raises:
      UserError: it is missing, no plain file, above 1 MB or not JSON.
    """
    try:
        if not path.is_file():
            raise ValueError("no such file")
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES >> 20} MB")
        return json.loads(content.decode())
    except (OSError, ValueError, RecursionError) as e:  # RecursionError: brackets a thousand deep
        raise UserError(f"{path}: not a readable {path.name} ({e})") from e


def load_json(path: Path) -> Config:
    """Read a `config.json` that `save_json` wrote."""
    values = read_json(path)
    try:
        return from_dict(Config, values)
    except UserError as e:
        raise UserError(f"{path}: {e}") from e


def save_json(config: Config, path: Path) -> None:
    """Write a configuration as JSON."""
    write_atomically(path, json.dumps(to_dict(config), indent=2) + "\n")


def load_config_file(path: str) -> Config:
    """`get_config()` of a Python file such as configs/scenes.py, or a run's config.json.

    A relative path is also looked for beside the package, where a clone has its configs/.
    """
    file = _config_file(path)
    if not file.is_file():
        raise UserError(f"--config={path}: no such file; {_instead_of(file)}")
    if file.suffix == ".json":
        return load_json(file)
    return call_in_file(file, "get_config", Config, f"--config={path}")


def _config_file(path: str) -> Path:
    beside = BESIDE_PACKAGE / path
    return beside if beside.is_file() and not Path(path).exists() else Path(path)


def _instead_of(file: Path) -> str:
    """What could be meant by a configuration that is not there."""
    if (file / "config.json").is_file():
        return f"that is a run's folder: --config={file / 'config.json'}"
    for folder in (file.parent, BESIDE_PACKAGE / file.parent):
        if there := sorted(str(p) for p in folder.glob("*.py")):
            return f"files there: {', '.join(there)}"
    return (
        "give a Python file with get_config() -> Config, or a run's config.json, by --config=FILE;"
        " the project's repository has examples in configs/"
    )


def call_in_file(file: Path, function: str, result: type[T], where: str) -> T:
    """What `function()` of a Python file of the user's returns; `where` begins every message.

    Raises:
      UserError: the file cannot be run, has no such function, or that returns something else.
    """
    spec = importlib.util.spec_from_file_location(f"deeplab_jax_{function}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look themselves up
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, function):
            raise UserError(f"{where}: has no function {function}() -> {result.__name__}")
        value = getattr(module, function)()
    except UserError:
        raise
    except Exception as error:  # whatever a user's own code raises
        raise UserError(f"{where}: {_in_user_code(error, file)}") from error
    if not isinstance(value, result):
        found = type(value).__name__
        raise UserError(f"{where}: {function}() returned {found}, not a {result.__name__}")
    return value


def _in_user_code(error: Exception, file: Path) -> str:
    """'line 3: NameError: ...': the last line of the file that an error went through."""
    what = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    if isinstance(error, SyntaxError):
        other = "" if error.filename in (None, str(file)) else f"{error.filename}, "
        what, line = f"{type(error).__name__}: {error.msg}", error.lineno
        return f"{other}line {line}: {what}" if line else f"{other}{what}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f"line {frames[-1].lineno}: {what}" if frames else what


def pop_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The file of `--config=FILE` (or `--config FILE`), and the other arguments."""
    path, rest = None, []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            path = next(remaining, "")
        elif argument.startswith("--config="):
            path = argument.removeprefix("--config=")
        else:
            rest.append(argument)
        if path == "":
            raise UserError("--config: the file is missing, such as --config=configs/scenes.py")
    return path, rest


def field_types(cls: type[Any], prefix: str = "") -> dict[str, Any]:
    """Every field as {"section.field": type}."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(cls).items():
        section = dataclasses.is_dataclass(hint) and isinstance(hint, type)
        types |= field_types(hint, f"{prefix}{name}.") if section else {f"{prefix}{name}": hint}
    return types


def override(base: Config, arguments: Sequence[str]) -> Config:
    """`base` with the changes of `--section.field=value` arguments.

    `--section.field value` and hyphens for underscores will do too. Where a field has several
    values they are `513 513`, `513,513`, `513x513` or `(513, 513)`.

    Raises:
      UserError: an argument is no field, or its value is not one of the field.
    """
    if HELP & set(arguments):
        _print_help(base)
    types, values = field_types(Config), to_dict(base)
    for name, words in _named(arguments):
        if name not in types:
            raise UserError(f"--{name}: there is no such setting; {_near(name, list(types))}")
        *sections, field_name = name.split(".")
        target = values
        for section in sections:
            target = target[section]
        target[field_name] = from_words(types[name], words, name)
    return from_dict(Config, values)


def _print_help(base: Config) -> NoReturn:
    """Every field with its default and what is said of it above."""
    import tyro

    tyro.cli(
        Config,
        prog="python -m deeplab_jax train",
        default=base,
        args=["--help"],
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff,),  # --flag=True, as every other field
    )
    sys.exit()


def _named(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each `--name=word` or `--name word word` as the name and its words."""
    named: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            named.append((name.replace("-", "_"), [value] if equals else []))
        elif named:
            named[-1][1].append(argument)
        else:
            is_config = argument.endswith((".py", ".json"))
            hint = f"--config={argument}" if is_config else "settings are --section.field=value"
            raise UserError(f"{argument!r} is no setting; {hint}")
    return named


def _near(name: str, names: Sequence[str]) -> str:
    """What a wrong name could stand for: --steps for --train.steps; else the section's settings."""
    section, _, last = name.rpartition(".")
    ends = [n for n in names if n.rpartition(".")[2] == last]
    if near := ends or difflib.get_close_matches(name, names, 3, 0.75):
        return f"did you mean {' or '.join(f'--{n}' for n in near)}?"
    there = [n for n in names if n.startswith(f"{section or name}.")]
    return f"there are {', '.join(f'--{n}' for n in there)}" if there else "--help names all"


def from_words(hint: Any, words: list[str], name: str) -> Any:
    """The words of a command line as a field's type."""
    given = " ".join(words)
    if NoneType in get_args(hint):  # X | None
        if given.lower() == "none":
            return None
        hint = get_args(hint)[0]
    if get_origin(hint) is tuple:
        return _several(get_args(hint), re.split(r"[\s,x×*()\[\]]+", given.lower()), name, given)
    require(len(words) == 1, name, given, "one value is needed; quote what has spaces")
    if get_origin(hint) is Literal:
        one_of(name, given, get_args(hint))
        return given
    return _scalar(hint, given, name)


def _several(parts: tuple[Any, ...], words: list[str], name: str, given: str) -> tuple[Any, ...]:
    """A tuple's values: as many as it has, or any number."""
    words = [word for word in words if word]
    count = len(words) if parts[-1] is ... else len(parts)
    example = " ".join(((words or ["513"]) * count)[:count])
    what = "height and width" if count == 2 else f"{count} values"
    allowed = f"{what} are needed, such as --{name} {example}"
    require(len(words) == count, name, given, allowed)
    return tuple(_scalar(parts[0], word, name) for word in words)


def _scalar(hint: type[Any], word: str, name: str) -> Any:
    try:
        if hint is bool:
            return {"true": True, "false": False}[word.lower()]
        return hint(word)
    except (KeyError, ValueError):
        raise UserError(
            f"{name} = {word!r:.80} is not possible: {SCALARS[hint]} is needed"
        ) from None


def parse(arguments: Sequence[str], default: str) -> Config:
    """A `Config` from `--config=FILE` (or `default`; "": plain defaults) and changed fields."""
    path, rest = pop_config(arguments)
    path = default if path is None else path
    if HELP & set(rest) and not _config_file(path).is_file():
        path = ""  # installed without its configs/, it can still say what there is to set
    return override(load_config_file(path) if path else Config(), rest)
