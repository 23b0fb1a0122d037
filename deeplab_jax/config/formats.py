"""Formats of config.json and of the flags: what older versions wrote is still read.

Format 0 had no number, and sections by topic. Its names are also taken on the command line.
"""

from collections.abc import Mapping
from typing import Any

from deeplab_jax.config.values import flatten, unflatten
from deeplab_jax.errors import UserError

FORMAT = 1
WHITE = "task.white"  # before there was task.range: the value that is white; 0 was black
# Where the fields of format 0 stand now.
MOVED = {
    **{name: f"machine.{name}" for name in ("workdir", "distributed", "accept_changes")},
    **{
        name: f"train.{name}"
        for name in ("pretrained", "pretrained_logits", "reestimate_batch_norm")
    },
    **{
        f"data.{name}": f"machine.{name}"
        for name in ("root", "prepared_dir", "workers", "max_bad_records")
    },
    **{f"data.{name}": f"task.{name}" for name in ("eval_size", "resize", "range")},
    "data.white": WHITE,
    "task.ignore_label": "data.ignore_label",
    **{
        f"train.{name}": f"machine.{name}"
        for name in (
            *("log_every", "eval_every", "checkpoint_every", "keep_every"),
            *("max_bad_steps", "rollback", "hang_seconds"),
        )
    },
    "eval.pictures": "eval.images",
    # Of format 1, before there was a section for it.
    **{f"data.{name}": f"augment.{name}" for name in ("flip", "photometric")},
}

# Settings that are no longer needed: what they said is found by looking.
GONE = ("data.palette_masks",)

# Settings that are common enough for one word on the command line.
SHORT = {
    "steps": "train.steps",
    "epochs": "train.epochs",
    "time": "train.time",
    "batch_size": "train.batch_size",
    "crop_size": "data.crop_size",
    "learning_rate": "optim.learning_rate",
    "seed": "train.seed",
}


def present(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A flat configuration of an older version under the names of today."""
    values = {MOVED.get(name, name): value for name, value in flat.items() if name not in GONE}
    if WHITE in values:  # written when all images were RGB
        values |= {"task.range": as_range(values.pop(WHITE)), "model.channels": 3}
    if values.get("data.source", "scenes") != "folder":  # took no notice of it
        values.pop("data.ignore_label", None)
    # Defaults of before, in whose place it is found by looking.
    for name, before in (("image_dir", "images"), ("mask_dir", "masks"), ("holdout", 0.0)):
        if values.get(f"data.{name}") == before:
            del values[f"data.{name}"]
    if values.get("model.head") == "classifier" and values.get("task.eval_size") is None:
        values["task.eval_size"] = values.get("data.crop_size")  # None stood for it
    return values


def current(values: Any) -> Any:
    """What a config.json or model.json of any format holds, as today's.

    Raises:
      UserError: a later version wrote it.
    """
    if not isinstance(values, dict):
        return values
    number = values.get("format", 0)
    if number not in range(FORMAT + 1):
        raise UserError(
            f"format = {number!r:.80}: this version reads the formats 0 to {FORMAT}; a later one"
            " wrote it: update deeplab_jax"
        )
    sections = {name: value for name, value in values.items() if name != "format"}
    empty = {name: value for name, value in sections.items() if value == {}}
    return empty | unflatten(present(flatten(sections)))


def as_range(white: Any) -> Any:
    """What `task.range` is where `white` was the largest value."""
    return None if white is None else [0, white]


def today(name: str) -> str:
    """The name of a setting as it is now; one word will do for some, such as steps."""
    return "task.range" if is_white(name) else MOVED.get(name, SHORT.get(name, name))


def is_white(name: str) -> bool:
    """Whether a setting is the older form of `task.range`, one value."""
    return MOVED.get(name, name) == WHITE
