"""The recipe but for the data: how a network is optimised, from what, how long, by what loss."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from deeplab_jax.config.checks import at_least, check_fields, limited, require, share

LossName = Literal["cross_entropy", "focal", "dice", "tversky", "lovasz"]
PIXELWISE = ("cross_entropy", "focal")  # losses of each pixel; the others are of regions


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser, by default SGD in the official (TF1) form, and the learning rate."""

    optimizer: Literal["sgd", "decoupled_sgd", "adamw"] = "sgd"
    """sgd: momentum, with L2 in the gradient; decoupled_sgd: momentum, and weights shrink by
    weight_decay a step whatever learning_rate is; adamw: Adam, they shrink by rate * weight_decay.
    """
    learning_rate: float = limited(0.007, "above 0", lambda x: x > 0)
    momentum: float = share(0.9)
    """Of adamw the decay of its first moment; that of the second is 0.999."""
    nesterov: bool = False
    schedule: Literal["poly", "step", "cosine", "constant"] = "poly"
    """poly and step are the official `learning_policy`; step: times decay_rate every decay_steps;
    cosine: half a wave down to end_learning_rate; constant: best with train.ema_decay."""
    decay_steps: int = at_least(2000, 1)
    decay_rate: float = limited(0.1, "above 0 up to 1", lambda x: 0 < x <= 1)
    power: float = at_least(0.9, 0)
    """Of poly."""
    end_learning_rate: float = at_least(0.0, 0)
    """Of poly and cosine."""
    slow_start_steps: int = at_least(0, 0)
    """Steps before the schedule begins."""
    slow_start: Literal["constant", "linear"] = "constant"
    """Their rate: slow_start_learning_rate, as the official; or from it up to learning_rate."""
    slow_start_learning_rate: float = 1e-4
    weight_decay: float = at_least(4e-5, 0)
    """On kernels but depthwise ones; never on biases and BatchNorm."""
    new_layers_multiplier: float = limited(1.0, "above 0", lambda x: x > 0)
    """On the rate of everything but the backbone (official last_layer_gradient_multiplier)."""
    clip_norm: float = at_least(0.0, 0)
    """Gradients whose norm, over all parameters, is above it are scaled down to it; 0: none."""

    def __post_init__(self) -> None:
        check_fields(self, "optim")


def to_seconds(time: str) -> float:
    """Seconds of 2h, 90min, 45s or 1h30min; 0 of what is no time."""
    found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m(?:in)?)?(?:([\d.]+)s)?", time)
    try:
        h, m, s = (float(x or 0) for x in found.groups()) if found else (0.0, 0.0, 0.0)
    except ValueError:
        return 0.0
    return 3600 * h + 60 * m + s


def are_losses(losses: Any) -> bool:
    """Whether each is (name, weight), a loss of its own with a weight above 0."""
    try:
        names, weights = zip(*losses, strict=True)
        known = set(names) <= set(get_args(LossName)) and len(set(names)) == len(names)
        return known and all(weight > 0 for weight in weights)
    except (TypeError, ValueError):
        return False


@dataclass(frozen=True)
class TrainConfig:
    """From what weights, how long, on what batches, by what loss."""

    pretrained: str = ""
    """Weights to start from: a run's folder or a folder of weights, a name of `deeplab zoo`, or
    user/model of the Hugging Face Hub; layers of another shape are refused."""
    pretrained_logits: bool | None = None
    """False: start the last layer afresh. None: where the weights' classes are not the data's."""
    reestimate_batch_norm: bool | None = None
    """Re-estimate the backbone's BatchNorm on images. None: where the weights had it folded."""
    time: str = limited("", "such as 2h, 90min or 1h30min", lambda t: not t or to_seconds(t) > 0)
    """How long a run takes, evaluations too: as many steps as, by the first ones' measure, fit."""
    epochs: float | None = limited(None, "above 0", lambda x: x > 0)
    """How often each image is seen; None: by steps. With it steps follow from the images."""
    steps: int | None = at_least(None, 1)
    """None: by the number of images."""
    batch_size: int | None = at_least(None, 1)
    """Images a step over all devices; None: as many as fit their memory, at most 64; on a CPU 8."""
    accumulate: int = at_least(1, 1)
    """Parts that the batch is worked through in, one after the other, for memory's sake."""
    loss: tuple[tuple[LossName, float], ...] = limited(
        (("cross_entropy", 1.0),),
        f"NAME=WEIGHT, each above 0 and named once, of {', '.join(get_args(LossName))}",
        are_losses,
    )
    """What is minimised, a weighted sum, such as cross_entropy=0.375 dice=1.125.

    cross_entropy and focal are means over pixels; dice, tversky and lovasz (Lovász-softmax) are
    means over the classes that labels show, however few pixels they have.
    """
    loss_per: Literal["image", "batch"] = "image"
    """What dice, tversky and lovasz take as one: each image, or all images of a batch."""
    label_smoothing: float = share(0.0)
    """Of cross_entropy: the share of a target that all classes have alike."""
    focal_gamma: float = at_least(2.0, 0)
    """Of focal: (1 - p)^gamma weighs a pixel whose class was given the probability p."""
    tversky_beta: float = limited(0.7, "0 to 1", lambda x: 0 <= x <= 1)
    """Of tversky: what a missed pixel weighs; a false alarm weighs 1 - beta. 0.5: dice."""
    class_weights: tuple[float, ...] | None = limited(
        (), "0 or more each", lambda weights: all(w >= 0 for w in weights)
    )
    """One weight a class in cross_entropy and focal; (): 1 each; None: 1 / sqrt(share of the pixels
    of the masks that show it)."""
    logit_adjustment: float = limited(0.0, "0 to 1", lambda x: 0 <= x <= 1)
    """How much of the class weights predictions do without at the end, 1: all. The loss that has
    them sees the logits plus a part of log(weight) that rises from 0 to this over the run: rare
    classes are learnt first, and are not predicted too often."""
    hard_pixels: float = limited(1.0, "above 0 up to 1", lambda x: 0 < x <= 1)
    """Share of the hardest pixels that cross_entropy and focal are taken over (official
    top_k_percent_pixels)."""
    hard_pixels_ramp: int = at_least(0, 0)
    """Steps over which that share falls from 1 to hard_pixels."""
    freeze_batch_norm: bool = False
    freeze_backbone: bool = False
    ema_decay: float = share(0.0)
    """Decay of a moving average of parameters and BatchNorm's statistics, which evaluation then
    uses; 0: none."""
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.loss, Mapping):
            object.__setattr__(self, "loss", tuple(self.loss.items()))
        check_fields(self, "train")
        parts, size = self.accumulate, self.batch
        allowed = f"a divisor of train.batch_size = {size}"
        require(size % parts == 0, "train.accumulate", parts, allowed)
        once = not (self.time and self.epochs)
        require(once, "train.epochs", self.epochs, f"train.time = {self.time} decides: give one")
        pixelwise = any(name in PIXELWISE for name, _ in self.loss)
        allowed = f"no loss of train.loss is one of {' or '.join(PIXELWISE)}"
        require(pixelwise or self.hard_pixels == 1, "train.hard_pixels", self.hard_pixels, allowed)
        whole = parts == 1 or self.loss_per == "image"
        require(whole, "train.loss_per", self.loss_per, f"train.accumulate = {parts} takes image")

    @property
    def batch(self) -> int:
        """`batch_size`, the default filled in: the paper's, or the nearest that makes its parts."""
        return self.batch_size or -(-16 // self.accumulate) * self.accumulate

    @property
    def length(self) -> int:
        """`steps`, the default filled in: the paper's."""
        return self.steps or 30_000
