"""What is varied at random in training images, beyond their scale and crop (`data`)."""

import re
from dataclasses import dataclass
from typing import Any

from deeplab_jax.config.checks import check_fields, limited
from deeplab_jax.config.model import SEGMENTATION

HOOK = re.compile(r"(.+\.py):([A-Za-z_]\w*)")


def up_to(most: float, *sources: str) -> Any:
    """A field from 0, where nothing is done, to `most`."""
    return limited(0.0, f"0 to {most:g}", lambda x: 0 <= x <= most, sources)


@dataclass(frozen=True)
class AugmentConfig:
    """What is varied at random in each training image, its label map moved with it; 0: nothing.

    All but rare_crops is drawn on the device, from train.seed and the step.
    """

    flip: bool = True
    """Mirror left and right with probability 1/2 (official flip_dim)."""
    vertical_flip: bool = False
    """Mirror top and bottom with probability 1/2."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees; square crops only."""
    rotate: float = up_to(180)
    """Degrees up to which an image is turned about its centre, either way."""
    shear: float = up_to(45)
    """Degrees up to which its vertical lines lean, either way."""
    aspect: float = up_to(1)
    """Share by which width over height varies at most, the area kept; 0.33: 3/4 to 4/3."""
    photometric: float = up_to(1)
    """Strength of random brightness, contrast and, in RGB, saturation; 0.3: usual."""
    hue: float = up_to(0.5)
    """Share of a whole turn by which colours are turned at most, either way; RGB only."""
    gamma: float = up_to(1)
    """Strength s of a random gamma, from 1 / (1 + s) to 1 + s."""
    blur: float = up_to(4)
    """Largest sigma of a Gaussian blur, in pixels."""
    noise: float = up_to(255)
    """Largest standard deviation of added noise, in grey levels of 255."""
    cutmix: float = up_to(1, *SEGMENTATION)
    """Probability that a rectangle of the next image in the batch, and of its label map, is pasted
    over an image (Yun et al. 2019)."""
    rare_crops: float = up_to(1, *SEGMENTATION)
    """Share of the crops that are placed to show a class drawn evenly from the image's classes.

    Drawn where crops are cut, on the host, from train.seed and the example's position in the run.
    """
    hook: str = limited("", "FILE.py:FUNCTION", lambda text: not text or bool(HOOK.fullmatch(text)))
    """FILE.py:FUNCTION of your own, applied last: (key, image f32 [b h w c] of 0 to 255, label
    int32 [b h w]) -> the same, in JAX."""

    def __post_init__(self) -> None:
        check_fields(self, "augment")
