"""Opening the data that a configuration names, and what the configuration leaves to the data."""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab_jax.config import PAPER_CROP, Config, TaskConfig
from deeplab_jax.config.checks import one_of
from deeplab_jax.config.flags import flag_of, given
from deeplab_jax.config.presets import PRESETS, choose_preset
from deeplab_jax.data.classes import other_names
from deeplab_jax.data.codes import to_label_map
from deeplab_jax.data.folder import Folder
from deeplab_jax.data.images import find_channels_and_range
from deeplab_jax.data.sizes import crop_size, fit_box, input_size
from deeplab_jax.data.source import UNREADABLE, Source, evenly_spread, open_source
from deeplab_jax.data.tiles import READERS
from deeplab_jax.data.walk import walk_images
from deeplab_jax.errors import UserError

LENGTHS = ("train.steps", "train.epochs", "train.time")  # a run has one of them
MOST_MASKS = 500  # whose pixels are counted for the classes' weights
MOST_WEIGHT = 10.0  # of a class: a few hundred pixels among millions must not rule the gradient


def open_split(config: Config, split: str) -> Source:
    """The source of one split, checked to have the model's kind and number of classes.

    Raises:
      UserError: what is missing or does not fit, named.
    """
    source, wanted = open_data(config, split), config.model.num_classes
    names = source.class_names
    if wanted is not None and len(names) != wanted:
        raise UserError(
            f"model.num_classes = {wanted}, but the data set has {len(names)} classes"
            f" ({', '.join(names[:4])}, ...): set --model.num_classes={len(names)}"
        )
    return source


def open_data(config: Config, split: str) -> Source:
    """The source of one split for a model of the same kind, whatever its number of classes.

    Raises:
      UserError: what is missing or does not fit, named.
    """
    data, model = config.data, config.model
    if data.one_label != (model.head == "classifier"):
        raise UserError(
            f"model.head = {model.head!r} does not fit data.source = {data.source!r}: classifier is"
            " for imagenet2012, the other heads are for segmentation"
        )
    return open_source(config, split)


class Choice(NamedTuple):
    """What becomes of a setting that was left open, and why; "": nobody need be told."""

    value: Any
    reason: str


Choices = dict[str, Choice]  # by the setting, such as data.crop_size


def settle(config: Config, train_source: Source) -> Config:
    """The configuration with everything filled in that it leaves to the data; what it says stays.

    Raises:
      UserError: the configuration names classes that are not those of the data.
    """
    return with_choices(config, choose(config, train_source))


def with_choices(config: Config, choices: Mapping[str, Choice]) -> Config:
    """`config` with the values of the choices."""
    return with_values(config, {name: choice.value for name, choice in choices.items()})


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with the values of settings, such as train.steps."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, field = name.partition(".")
        sections.setdefault(section, {})[field] = value
    return replace(
        config, **{name: replace(getattr(config, name), **new) for name, new in sections.items()}
    )


def value_of(config: Config, name: str) -> Any:
    """The value of a setting, such as train.steps."""
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field)


def is_open(config: Config, name: str) -> bool:
    """Whether a setting is left to the data or to the device."""
    return value_of(config, name) in (None, "auto")


def choose(config: Config, source: Source) -> Choices:
    """What the data say of all that `config` leaves to them, in the order in which it is told.

    Classes and their colours are the source's; sizes, channels and range suit the images; the
    weights of classes suit the masks. A classifier is evaluated at the size of its training crops.

    Raises:
      UserError: the configuration names classes that are not those of the data.
    """
    task, names = config.task, source.class_names
    chosen = {"model.num_classes": Choice(len(names), "")}
    if task.classes:
        check_classes(task.classes, names)
    else:
        chosen["task.classes"] = Choice(names, "those of the data")
    if not task.colors:
        chosen["task.colors"] = Choice(source.colors, "")
    if label_map := _label_map(source):
        chosen["data.label_map"] = Choice(label_map, "")
        chosen["task.values"] = Choice(_mask_values(source), "")
    chosen |= choose_channels(config, source)
    sizes = choose_sizes(config, source)
    chosen |= {name: choice for name, choice in sizes.items() if is_open(config, name)}
    if is_open(config, "train.class_weights"):
        chosen["train.class_weights"] = weigh_classes(source)
    return chosen


def _label_map(source: Source) -> tuple[str, ...]:
    """What a folder's masks hold, so that a resumed run and an evaluation read them alike."""
    if not isinstance(source.records, Folder) or source.code is None:
        return ()
    return to_label_map(source.code, source.class_names)


def _mask_values(source: Source) -> tuple[int, ...]:
    """The lowest value in masks of each class; () where these are the class ids, or colours."""
    if not isinstance(source.records, Folder) or source.code is None or source.code.by_color:
        return ()
    lowest = {class_id: value for value, class_id in sorted(source.code.table, reverse=True)}
    values = tuple(lowest.get(i, i) for i in range(len(source.class_names)))
    return () if values == tuple(range(len(values))) else values


def settings_for(base: Config, root: Path, *, named: bool) -> Config:
    """`base` on the data in a folder; unless a configuration was `named`, in runs/NAME of it."""
    machine = replace(base.machine, root=str(root))
    if not named:
        machine = replace(machine, workdir=f"runs/{root.expanduser().resolve().name or 'data'}")
    return replace(base, machine=machine)


def with_preset(base: Config, name: str | None, changes: Sequence[str]) -> Config:
    """`base` with the recipe of a preset, by default the one for its images; said in a line.

    `changes` of the length of a run go before the preset's.
    """
    why = "--preset"
    if name is None:
        root = Path(base.machine.root).expanduser()
        count = len(walk_images(root).images) if root.is_dir() else 0
        name, why = choose_preset(count), f"for {count} image files, --preset"
    one_of("--preset", name, tuple(PRESETS))
    words, fields = PRESETS[name]
    if any(given(changes, length) is not None for length in LENGTHS):
        fields = {field: value for field, value in fields.items() if field not in LENGTHS}
    print(f"recipe {name} ({why}): {words}", file=sys.stderr)
    return with_values(base, fields)


def check_classes(names: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    """Raise UserError unless the configuration's classes are the data's."""
    if len(names) != len(theirs) or (other := other_names(names, theirs)):
        differ = other if len(names) == len(theirs) else f"{len(names)} for {', '.join(theirs[:4])}"
        raise UserError(
            f"task.classes are not those of the data ({differ}): leave them to the data, or correct"
            " its list of classes"
        )


def choose_channels(config: Config, source: Source) -> Choices:
    """How many channels images have, and which of their values are black and white."""
    channels, limits = find_channels_and_range(config, source)
    few = "" if channels == 3 else "what most of the images have"
    chosen = {
        "model.channels": Choice(channels, few),
        "task.range": Choice(limits, "" if limits is None else "the images' values"),
    }
    return {name: choice for name, choice in chosen.items() if is_open(config, name)}


def choose_sizes(config: Config, source: Source) -> Choices:
    """The crop of training, and the size into which images far above it are scaled."""
    model, task, crop = config.model, config.task, config.data.crop_size
    if model.head == "classifier":
        crop = crop or input_size((1, 1), model, task)
        why = "what the network usually sees"
        return {"data.crop_size": Choice(crop, why), "task.eval_size": Choice(crop, "the crop's")}
    if crop is not None and task.resize != "auto":
        return {}
    sizes = [size for size in source.sizes() if size is not None]
    median = " x ".join(f"{n:.0f}" for n in np.median(sizes, axis=0)) if sizes else "unknown"
    chosen: Choices = {}
    if task.resize == "auto":
        box = fit_box(sizes, crop or PAPER_CROP, model) if not task.eval_size else None
        why = f"the median image, {median}, is above twice the crop"
        chosen["task.resize"] = Choice("fit", why) if box else Choice("keep", "")
        if box:
            chosen["task.eval_size"] = Choice(box, "images are scaled to fit into twice the crop")
            task = TaskConfig(resize="fit", eval_size=box)
    fitted = ", scaled so" if task.resize == "fit" else ""
    why = f"the median image, {median}{fitted}; at most {PAPER_CROP[0]}"
    value = crop_size(sizes, model, task) if sizes else PAPER_CROP
    return chosen | {"data.crop_size": Choice(value, why)}


def weigh_classes(source: Source) -> Choice:
    """Weights of the classes in the loss, so that rare ones are learnt in short runs."""

    def count(index: int) -> np.ndarray:
        try:
            label = source[index]["label"]
        except UNREADABLE:  # which training refuses or counts, and check-data names
            return np.zeros(len(source.class_names), int)
        valid = label[label != source.ignore_label]
        return np.bincount(valid, minlength=len(source.class_names))

    masks = evenly_spread(len(source), MOST_MASKS)
    with ThreadPoolExecutor(READERS) as pool:
        pixels = np.array([*pool.map(count, masks)])
    if not pixels.any():
        return Choice((), "no mask shows a class")
    weights = tuple(float(f"{weight:.3g}") for weight in class_weights(pixels))
    return Choice(weights, f"1 / sqrt(share of the pixels where shown) in {len(masks)} masks")


def class_weights(pixels: np.ndarray) -> np.ndarray:
    """Weights f64[classes] from pixels i64[masks, classes], of mean 1 over all of the pixels.

    1 / sqrt(share of the pixels of the masks that show the class), the frequency of Eigen & Fergus
    2015: a class is rare for being small where it is, not for being in few images, where a large
    weight on many pixels would make that image's step rule. At most `MOST_WEIGHT`; a class that
    never occurs has weight 1.
    """
    of_class, of_mask = pixels.sum(0), pixels.sum(1)
    shares = of_class / np.maximum(of_mask @ (pixels > 0), 1)
    weights = np.divide(1, np.sqrt(shares), out=np.zeros_like(shares), where=shares > 0)
    weights *= of_class.sum() / (weights @ of_class)
    return np.where(of_class > 0, np.minimum(weights, MOST_WEIGHT), 1)


def format_choices(choices: Mapping[str, Choice]) -> str:
    """A line for each choice that has a reason: setting, value, reason, and the flag that decides.

    As in `steps  1009  22 epochs of 367 images at batch size 8  --steps`.
    """
    rows = [
        (name.partition(".")[2].replace("_", " "), _shown(name, value), reason, flag_of(name))
        for name, (value, reason) in choices.items()
        if reason
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _shown(name: str, value: Any) -> str:
    """A value in a few words."""
    if not isinstance(value, tuple):
        return str(value)
    if name == "task.range":
        return f"{value[0]:g} to {value[1]:g}"
    if name.endswith("_size"):
        return f"{value[0]} x {value[1]}"
    first = ", ".join(map(str, value[:4]))
    return f"{first}, ... ({len(value)})" if len(value) > 4 else first or "none"
