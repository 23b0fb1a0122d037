"""Where blocks run: a folder with data, photos and a trained network, all tiny."""

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic import COLORS, square_image, write_squares

from deeplab_jax import Config, ModelConfig
from deeplab_jax.__main__ import main

TINY = ModelConfig(backbone="unet", head="unet", num_classes=3, width=0.06)
LOOP = "deeplab_jax.training.loop.fit"


def shrink(config: Config) -> Config:
    """The same experiment with a network and a length that take a second."""
    short = {"steps": 2, "batch_size": 8}
    seldom = {"log_every": 1, "eval_every": 2, "hang_seconds": 0}
    return dataclasses.replace(
        config,
        model=TINY,
        data=dataclasses.replace(config.data, crop_size=(33, 49)),
        train=dataclasses.replace(config.train, **short),
        machine=dataclasses.replace(config.machine, **seldom),
    )


def shrink_training(patch: pytest.MonkeyPatch) -> None:
    """Let `fit` take any configuration, as it was written, and train the tiny one."""
    from deeplab_jax.training import loop

    whole: Callable[[Config], Any] = loop.fit
    patch.setattr(LOOP, lambda config: whole(shrink(config)))


def make(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Fill a folder: my_data, photos, masks in colours, and runs/my_data from a training."""
    write_squares(folder / "my_data", {"train": 8, "val": 2})
    for name in ("photos", "colored"):
        (folder / name).mkdir()
    for i, name in enumerate("ab"):
        image, label = square_image(100 + i)
        Image.fromarray(image).save(folder / "photos" / f"{name}.png")
        colors = np.where((label == 255)[..., None], 255, COLORS[label % 255])
        Image.fromarray(colors.astype(np.uint8)).save(folder / "colored" / f"{name}.png")
    patch.chdir(folder)
    run("deeplab train my_data", patch)


def run(line: str, patch: pytest.MonkeyPatch) -> None:
    """Run a line of a shell: `deeplab` in this process, which has JAX already, others in bash.

    A command that ends with an exit code other than 0 is a failure.
    """
    words = shlex.split(line, comments=True)
    if words[:1] != ["deeplab"]:
        subprocess.run(["bash", "-e", "-c", line], check=True)
        return
    with patch.context() as inside:
        inside.setattr(sys, "argv", words)
        try:
            main()
        except SystemExit as end:
            assert not end.code, f"{line}: exit code {end.code}"


def commands(text: str) -> list[str]:
    """The lines of a block, each with the lines that it goes on in."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
