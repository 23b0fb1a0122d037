"""Recipes by name, for a folder of images: what `deeplab train DATA` does where nothing is said.

A preset is a few fields of the recipe. The network, the machine and all that is left to the data
stand in configs/folder.py, and what a flag says goes before both. What led to them:
docs/results.md.
"""

from typing import Any, NamedTuple

MOST_IMAGES = 5000  # files; beyond, the paper's recipe has time to learn


class Preset(NamedTuple):
    """A recipe: in words, and as fields."""

    words: str
    fields: dict[str, Any]


# What hundreds of images and an hour want, by parts: `deeplab study recipe` leaves out each.
PARTS: dict[str, dict[str, Any]] = {
    "AdamW": {
        "optim.optimizer": "adamw",
        "optim.learning_rate": 0.0005,
        "optim.weight_decay": 0.05,
    },
    "new layers learn five times as fast": {"optim.new_layers_multiplier": 5.0},
    "quick BatchNorm": {"model.batch_norm_decay": 0.95},
    "class weights": {"train.class_weights": None},
    "half of them taken back": {"train.logit_adjustment": 0.5},
    "mild scales, colours": {"data.min_scale": 0.75, "augment.photometric": 0.2},
}
SMALL = {name: value for part in PARTS.values() for name, value in part.items()}
PRESETS = {
    "small": Preset("for hundreds of images: " + ", ".join(PARTS), SMALL),
    "paper": Preset("the paper's: SGD, cross entropy, scales of 0.5 to 2, flips", {}),
    "fast": Preset(
        "small, on crops of 257, for ten minutes",
        {**SMALL, "train.time": "10min", "data.crop_size": (257, 257)},
    ),
}


def choose_preset(images: int) -> str:
    """The preset for so many image files."""
    return "small" if images <= MOST_IMAGES else "paper"
