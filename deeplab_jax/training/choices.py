"""What a run settles before it starts: by its data, by its devices, or as it once began.

What is chosen stands in the run's config.json, and a run that goes on takes it from there: another
device, or more data, must not change what is trained.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jax.sharding import Mesh

from deeplab_jax.config import Config, load_json
from deeplab_jax.data.settle import Choice, Choices, choose, is_open, value_of, with_choices
from deeplab_jax.data.source import Source
from deeplab_jax.errors import UserError
from deeplab_jax.parallel.mesh import batch_shares
from deeplab_jax.parallel.processes import writes
from deeplab_jax.training.checkpoint import list_steps
from deeplab_jax.training.memory import step_bytes

# What another device or other data would choose otherwise. Classes must be those of the data.
KEPT = (
    *(
        "model.channels",
        "task.range",
        "model.dtype",
        "task.resize",
        "task.eval_size",
        "data.crop_size",
        "train.class_weights",
    ),
    *("train.pretrained_logits", "train.reestimate_batch_norm", "train.batch_size", "train.steps"),
)
EPOCHS = 22  # from pretrained weights: as CamVid's 1000 steps of 8 among 367 images
EPOCHS_FROM_NOTHING = 66
STEPS = (500, 30_000)  # at least, for averages and the rate to settle; at most: the paper's
MOST_IMAGES = 64  # a step: beyond, the learning rate would have to follow
CPU_IMAGES = 8
SHARE = 0.85  # of a device's memory, for a step: the rest is for evaluation and fragments
GB = 1e9


def settle_run(config: Config, source: Source, mesh: Mesh) -> tuple[Config, Choices]:
    """The configuration with everything filled in that it leaves open, and what was chosen.

    Raises:
      UserError: the configuration names classes that are not those of the data.
    """
    chosen: Choices = {}
    stages: list[Callable[[Config], Choices]] = [
        choose_as_begun,
        partial(choose, source=source),
        partial(choose_dtype, mesh=mesh),
        partial(choose_length, source=source, mesh=mesh),
    ]
    for stage in stages:
        found = stage(config)
        config, chosen = with_choices(config, found), chosen | found
    return config, chosen


def choose_as_begun(config: Config) -> Choices:
    """What the run in this folder chose when it began, if it has a checkpoint to go on from."""
    workdir = Path(config.machine.workdir)
    if not list_steps(workdir / "checkpoints"):
        return {}
    try:
        begun = load_json(workdir / "config.json")
    except UserError:  # the checkpoint has the settings too, and will refuse others
        return {}
    names = [n for n in KEPT if is_open(config, n) and not is_open(begun, n)]
    if not is_open(config, "task.resize"):  # then None means: each image as large as it is
        names = [name for name in names if name != "task.eval_size"]
    return {name: Choice(value_of(begun, name), "as this run began") for name in names}


def choose_dtype(config: Config, mesh: Mesh) -> Choices:
    """The type of the arithmetic: bfloat16 where the devices are made for it."""
    if not is_open(config, "model.dtype"):
        return {}
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return {"model.dtype": Choice("float32", "faster on a CPU")}
    if float(getattr(device, "compute_capability", 8)) < 8:
        return {"model.dtype": Choice("float32", f"{device.device_kind} has no bfloat16")}
    return {"model.dtype": Choice("bfloat16", f"faster on {device.device_kind}")}


def choose_length(config: Config, source: Source, mesh: Mesh) -> Choices:
    """Images a step, and the number of steps that follows from it and from the images."""
    if not is_open(config, "train.batch_size"):
        return choose_steps(config, source)
    parts = batch_shares(mesh) * config.train.accumulate
    most = min(MOST_IMAGES, len(source))
    sizes = [parts * 2**k for k in range(7) if parts * 2**k <= most] or [parts]

    def with_batch(images: int, reason: str = "") -> Choices:
        batch: Choices = {"train.batch_size": Choice(images, reason)}
        return batch | choose_steps(with_choices(config, batch), source)

    def held(images: int) -> float:
        if writes():  # which may take minutes
            print(f"compiling a step of {images} images, to know its memory", file=sys.stderr)
        whole = with_choices(config, with_batch(images))
        return step_bytes(whole, mesh, source.ignore_label)

    return with_batch(*choose_batch(sizes, memory_of(mesh), held))


def choose_batch(
    sizes: list[int], memory: float | None, held: Callable[[int], float]
) -> tuple[int, str]:
    """The largest of the sizes, which ascend, whose step fits the bytes of a device; and why.

    `held` has the bytes that a step holds, after a compilation: the largest is asked first.
    """
    if memory is None:
        fitting = max([n for n in sizes if n <= CPU_IMAGES], default=sizes[0])
        return fitting, f"on a CPU at most {CPU_IMAGES}, and no more than there are images"
    for images in reversed(sizes):
        needed = held(images)
        if needed <= SHARE * memory:
            break
    account = f"its step holds {needed / GB:.1f} of the device's {memory / GB:.1f} GB"
    return images, f"{account}, says the compiler"


def memory_of(mesh: Mesh) -> float | None:
    """Bytes of one of the accelerators; None on a CPU, and where it does not say."""
    device = mesh.local_devices[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return stats.get("bytes_limit") if stats else None


def choose_steps(config: Config, source: Source) -> Choices:
    """So many epochs: those asked for, or else a usual number, with a floor and a ceiling."""
    train, (least, most) = config.train, STEPS
    if train.epochs is None and not is_open(config, "train.steps"):
        return {}
    epochs = train.epochs or (EPOCHS if train.pretrained else EPOCHS_FROM_NOTHING)
    steps = max(1, round(epochs * len(source) / train.batch))
    reason = f"{epochs:g} epochs of {len(source)} images at batch size {train.batch}"
    if train.epochs is None and not least <= steps <= most:
        reason += f"; at least {least}" if steps < least else f"; at most {most}"
        steps = min(max(steps, least), most)
    return {"train.steps": Choice(steps, reason)}
