"""One experiment: what travels with the weights, the recipe, and this machine.

A section has one lifetime. `model` and `task` are kept with the weights. A resumed run must have
the same recipe: `data`, `augment`, `optim`, `train`. How predictions are looked at (`eval`) and
what belongs to this machine (`machine`, `mesh`) is never compared.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from deeplab_jax.config.augment import AugmentConfig
from deeplab_jax.config.checks import (
    at_least,
    check_fields,
    check_heeded,
    heeded,
    limited,
    one_of,
    require,
    round_near,
    round_up,
    share,
)
from deeplab_jax.config.model import (
    MAX_SIDE,
    OUTPUT_STRIDES,
    SEGMENTATION,
    ModelConfig,
    Size,
    TaskConfig,
    is_size,
    size_field,
)
from deeplab_jax.config.recipe import PIXELWISE, OptimConfig, TrainConfig

LayoutName = Literal[
    "auto", "pairs", "cityscapes", "coco", "labelme", "yolo", "ultralytics", "cvat", "kaggle"
]
LABEL_MAP = re.compile(r"(\d{1,5}|#[0-9a-fA-F]{6})=(\S.*)")
DataKind = Literal["scenes", "folder", "voc2012", "cityscapes", "imagenet2012"]
PAPER_CROP = (513, 513)  # section 4, PASCAL VOC
TRACKERS = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}  # and packages
# Sections that a resume must find again.
COMPARED = ("model", "task", "data", "augment", "optim", "train")


@dataclass(frozen=True)
class DataConfig:
    """Which images train the network, and how they are cut. Where they lie: `machine.root`."""

    source: DataKind = "scenes"
    """imagenet2012 is for head classifier, the others are for segmentation."""
    train_split: str = "train"
    eval_split: str = "validation"
    layout: LayoutName = heeded("auto", "folder")
    """How a folder is laid out; auto: found by looking."""
    image_dir: str = heeded("", "folder")
    """The folder of the images, below root; "": found by looking."""
    mask_dir: str = heeded("", "folder")
    """The folder of the masks, below root; "": found by looking."""
    holdout: float = limited(0.1, "from 0 up to below 1", lambda x: 0 <= x < 1, ("folder",))
    """folder without a split for evaluation: the share of the images that is kept for it."""
    classes: str = heeded("", "folder")
    """File that lists the classes (docs/data.md has its forms); "": found by looking."""
    label_map: tuple[str, ...] = limited(
        (),
        "'VALUE=NAME' or '#rrggbb=NAME' each, with the name 'void' for ignored pixels",
        lambda entries: all(LABEL_MAP.fullmatch(entry) for entry in entries),
        ("folder",),
    )
    """What values or colours of masks stand for: 7=road 8=road 0=void; (): found by looking."""
    ignore_label: int | None = limited(
        None, "0 to 65535", lambda n: 0 <= n <= 65535, heeded_by=("folder",)
    )
    """The value of a mask's pixels that count neither in training nor in evaluation; None: 255."""
    zero: Literal["auto", "class", "ignore", "background"] = heeded("auto", "folder")
    """What the value 0 of masks is: the first of the classes, ignored, or a background that their
    list lacks; in the last two cases 1 is the first of the list."""
    edges: Literal["auto", "ignore", "nearest"] = heeded("auto", "folder")
    """What becomes of mask pixels between colours or values, as soft edges have: ignored, or taken
    for the nearest; auto: ignored, and the nearest where masks are JPEG."""
    overlap: Literal["paint", "ignore"] = heeded("paint", "folder")
    """Pixels in annotations of several classes: of the one on top, or ignored."""
    exif_upright: bool = heeded(False, "folder")
    """folder: images are turned as EXIF says, because masks were drawn on upright images.

    Where a mask's size proves one or the other, that decides.
    """
    transparent: Literal["keep", "ignore"] = heeded("keep", "folder")
    """ignore: pixels of an image that its alpha channel hides count neither in training nor in
    evaluation; keep: they count, in whatever colour they have below."""
    crop_size: Size | None = size_field()
    """Height and width of a training crop: k * output_stride, or one more; classifier: any.

    None: from the images' sizes, at most 513 x 513.
    """
    min_scale: float = heeded(0.5, *SEGMENTATION)
    """Not for a classifier, whose crops have a random area and aspect (`inception_crop`)."""
    max_scale: float = heeded(2.0, *SEGMENTATION)
    scale_step: float = limited(
        0.25, "0 (continuous) or more", lambda x: x >= 0, heeded_by=SEGMENTATION
    )

    def __post_init__(self) -> None:
        check_fields(self, "data")
        check_heeded(self, "data", self.source)
        scales = (self.min_scale, self.max_scale)
        require(0 < scales[0] <= scales[1], "data.min_scale, max_scale", scales, "0 < min <= max")

    @property
    def one_label(self) -> bool:
        """Whether an image has one label, u16 [1 1], instead of one a pixel."""
        return self.source == "imagenet2012"

    @property
    def crop(self) -> Size:
        """`crop_size`, the default filled in: the paper's."""
        return self.crop_size or PAPER_CROP


@dataclass(frozen=True)
class EvalConfig:
    """How predictions are made (`scales` to `overlap`, of `predict` too), and what is measured."""

    batch_size: int = at_least(8, 1)
    images: int = at_least(5, 1)
    """Images shown, from the best predicted to the worst; 5: these, the quartiles, the median."""
    scales: tuple[float, ...] = limited(
        (1.0,),
        "one number or more, each above 0 up to 8",
        lambda scales: len(scales) > 0 and all(0 < s <= 8 for s in scales),
    )
    """Each image is seen at these sizes and the probabilities averaged. Paper: 0.5 0.75 ... 1.75.

    A size is rounded to k * output_stride + 1.
    """
    flip: bool = False
    """See the mirror image too, at each scale."""
    window: Size | None = limited(
        None, f"height and width in pixels, each at most {MAX_SIDE}, or None", is_size
    )
    """Height and width of a window that slides over images too large for memory; None: whole."""
    overlap: float = share(0.33)
    """Share of a window's height and width that its neighbour sees too, at least."""
    trimap_widths: tuple[int, ...] = limited(
        (),
        "different whole numbers from 1",
        lambda widths: all(w >= 1 for w in widths) and len(set(widths)) == len(widths),
    )
    """Widths in pixels of the bands around boundaries in which mIoU is measured (paper, Figure 5).

    A band has the pixels with a pixel of another label, void among them, at most so far away.
    """
    boundary: float = limited(0.0, "0 to 1", lambda x: 0 <= x <= 1)
    """Boundary IoU (Cheng et al. 2021): the boundary's width as a share of the image's diagonal.

    0: not measured; theirs is 0.02.
    """

    def __post_init__(self) -> None:
        check_fields(self, "eval")


def devices_field(default: int | None) -> Any:
    return limited(default, "a number of devices, 1 or more", lambda n: 1 <= n <= 65536)


@dataclass(frozen=True)
class MeshConfig:
    """How batch, images and state are split over the devices: `parallel/mesh.py`.

    The product of the three is the number of devices.
    """

    data: int | None = devices_field(None)
    """Parts of the batch; None: as many as the other two leave devices for."""
    fsdp: int = devices_field(1)
    """Parts of the batch too, and of parameters, optimiser and moving average."""
    space: int = devices_field(1)
    """Devices that share the height of each image, where it is too large for one."""

    def __post_init__(self) -> None:
        check_fields(self, "mesh")

    @property
    def shape(self) -> tuple[int | None, int, int]:
        """As `parallel.mesh.device_mesh` takes it."""
        return self.data, self.fsdp, self.space


@dataclass(frozen=True)
class MachineConfig:
    """Paths, intervals and limits: what another machine may have otherwise."""

    workdir: str = "runs/experiment"
    """The run's folder. Run again with the same one to resume."""
    root: str = ""
    """The data: a folder of images and masks; VOCdevkit; or TFDS's manual downloads."""
    prepared_dir: str = heeded(
        "~/.cache/deeplab_jax/tfds", "scenes", "voc2012", "cityscapes", "imagenet2012"
    )
    """Where TFDS builders keep their ArrayRecord files."""
    workers: int = at_least(0, 0)
    """Processes that decode; 0: threads of this one. The batches are the same for any number."""
    log_every: int = at_least(10, 1)
    log_to: tuple[str, ...] = limited(
        (),
        f"some of {', '.join(TRACKERS)}, each once",
        lambda names: set(names) <= {*TRACKERS} and len(set(names)) == len(names),
    )
    """Trackers that get the numbers too."""
    eval_every: int = at_least(1000, 1)
    patience: int = at_least(0, 0)
    """End after so many evaluations in a row without a better score; 0: never. A schedule that
    falls to its end, as poly, is cut: the run says by how much."""
    checkpoint_every: int = at_least(500, 1)
    keep_every: int = at_least(0, 0)
    """Keep the checkpoints of every so many steps for good; 0: the last two alone."""
    max_bad_records: int = at_least(10, 0)
    """How many unreadable records a run bears, each an example of ignored pixels; then it stops."""
    max_bad_steps: int = at_least(10, 1)
    """Steps in a row whose loss or gradient may be no finite number. Each changes nothing."""
    rollback: bool = False
    """After that many, go back to the last checkpoint and pass over the data since, not stop."""
    hang_seconds: int = at_least(1800, 0)
    """When a step takes longer, print where each thread stands and leave; 0: never."""
    distributed: Literal["auto", "yes", "no"] = "auto"
    """Several processes: auto, where the machine starts them; yes: insist; no: this one alone."""
    accept_changes: bool = False
    """Resume although the recipe or the data are no longer those of the checkpoint."""

    def __post_init__(self) -> None:
        check_fields(self, "machine")


@dataclass(frozen=True)
class Config:
    """One experiment, in sections of one lifetime each."""

    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)

    def __post_init__(self) -> None:
        source, root = self.data.source, self.machine.root
        check_heeded(self.task, "task", source)
        check_heeded(self.augment, "augment", source)
        check_heeded(self.machine, "machine", source)
        what = f"name the {source} data set's folder: --machine.root=PATH"
        require(source == "scenes" or bool(root), "machine.root", root, what)
        what = "data.source = scenes is drawn, and takes no notice of it; --data.source=folder"
        require(source != "scenes" or not root, "machine.root", root, what)
        check_protocol(self.model, self.task, self.eval)
        check_size("data.crop_size", self.data.crop_size, self.model)
        h, w = self.data.crop_size or (1, 1)
        what = f"only squares can be turned so: --crop-size {min(h, w)} {min(h, w)}"
        fits = h == w or not self.augment.quarter_turns
        require(fits, "augment.quarter_turns with data.crop_size", (h, w), what)
        classes, weights = self.model.num_classes, self.train.class_weights or ()
        names = self.task.classes
        allowed = f"one for each of the {classes} classes (model.num_classes)"
        if classes is not None:
            require(len(weights) in (0, classes), "train.class_weights", weights, allowed)
            require(len(names) in (0, classes), "task.classes", names, allowed)
        if self.model.head == "classifier":
            allowed = f"a classifier takes only {' and '.join(PIXELWISE)}"
            fits = all(name in PIXELWISE for name, _ in self.train.loss)
            require(fits, "train.loss", self.train.loss, allowed)
        start = self.optim.slow_start_steps
        allowed = f"fewer than train.steps = {self.train.length}"
        require(start < self.train.length, "optim.slow_start_steps", start, allowed)


def check_size(name: str, size: Size | None, model: ModelConfig) -> None:
    """Raise UserError unless a size suits the output stride; a classifier takes any."""
    stride = model.output_stride
    fits = size is None or model.head == "classifier" or all(n % stride in (0, 1) for n in size)
    near = size and tuple(round_near(n, stride) for n in size)
    allowed = f"output stride {stride} takes k * {stride} or k * {stride} + 1, such as {near}"
    require(fits, name, size, allowed)


def check_protocol(model: ModelConfig, task: TaskConfig, protocol: EvalConfig) -> None:
    """Raise UserError unless a network can look at images so.

    A window's logits must fall on the grid of the whole image's.
    """
    check_size("task.eval_size", task.eval_size, model)
    if model.head == "classifier":
        for name, none in (("window", None), ("trimap_widths", ()), ("boundary", 0.0)):
            value = getattr(protocol, name)
            require(value == none, f"eval.{name}", value, f"a classifier takes only {none!r}")
    if protocol.window is None:
        return
    stride = model.output_stride
    for name, size in (("eval.window", protocol.window), ("task.eval_size", task.eval_size)):
        fits = size is None or all(n > stride and n % stride == 1 for n in size)
        near = size and tuple(round_near(n, stride) for n in size)
        allowed = f"eval.window needs k * {stride} + 1 (the output stride's), such as {near}"
        require(fits, name, size, allowed)


def at_output_stride(
    model: ModelConfig, task: TaskConfig, stride: int | None
) -> tuple[ModelConfig, TaskConfig]:
    """The same network at another output stride; None: as it is.

    Atrous rates follow, and a size that does not fit the stride is rounded up to k * stride + 1.

    Raises:
      UserError: the stride is not 8, 16 or 32, or the network does not have it.
    """
    if stride is None:
        return model, task
    one_of("output_stride", stride, OUTPUT_STRIDES)
    rates = model.atrous_rates and tuple(
        max(1, r * model.output_stride // stride) for r in model.atrous_rates
    )
    size = fit_to_stride(task.eval_size, model, stride)
    model = dataclasses.replace(model, output_stride=stride, atrous_rates=rates)
    return model, dataclasses.replace(task, eval_size=size)


def fit_to_stride(size: Size | None, model: ModelConfig, stride: int) -> Size | None:
    """A size that a network takes at this output stride: itself, or rounded up."""
    if size is None or model.head == "classifier":
        return size
    h, w = (n if n % stride in (0, 1) else round_up(n, stride) for n in size)
    return (h, w)
