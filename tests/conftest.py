"""Strict flags for every test, eight simulated devices, and a tiny experiment that tests share."""

import dataclasses
import gc
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import get_args

ROOT = Path(__file__).resolve().parents[1]

# Compiling is most of the suite's time: compile without most optimisations, each program once, and
# let the garbage collector look less often. The fusion emitters, half of the time that is left, can
# be left out of jaxlib 0.10, later ones end at the flag; a program's code made in one piece takes
# a seventh less than in many.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest

from deeplab_jax import (
    Config,
    DataConfig,
    EvalConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from deeplab_jax.config.recipe import LossName

jax.config.update("jax_num_cpu_devices", 8)
gc.set_threshold(100_000, 50, 50)


TINY_MODEL = ModelConfig(
    backbone="mobilenet_v2",
    num_classes=3,
    width=0.1,
    aspp_channels=8,
    decoder_low_level_channels=4,
    decoder_channels=8,
    batch_norm_decay=0.9,
)
# Compiles in a third of the time: for DeepLab's head behind some backbone, whichever it is.
TINY_RESNET = dataclasses.replace(TINY_MODEL, backbone="resnet_v1_18_beta", width=0.07)
# Compiles in a fifth of the time: for what goes on around a network, whichever it is.
TINY_UNET = ModelConfig(
    backbone="unet", head="unet", num_classes=3, width=0.06, output_stride=16, batch_norm_decay=0.9
)

EVERY_LOSS = tuple((name, 0.5) for name in get_args(LossName))


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small network on a folder of coloured squares."""
    from synthetic import write_squares

    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 12, "val": 5})
    return Config(
        model=TINY_UNET,
        data=DataConfig(source="folder", eval_split="val", crop_size=(33, 49), max_scale=1.5),
        optim=OptimConfig(learning_rate=0.05),
        train=TrainConfig(steps=6, batch_size=8, seed=1),
        eval=EvalConfig(batch_size=8, images=2),
        machine=MachineConfig(
            workdir=str(root / "run"), root=str(root), log_every=1, eval_every=3, checkpoint_every=2
        ),
    )


def with_workdir(config: Config, workdir: Path) -> Config:
    machine = dataclasses.replace(config.machine, workdir=str(workdir))
    return dataclasses.replace(config, machine=machine)


@pytest.fixture
def smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace ReLU by a smooth function: at its kink, rounding alone flips parts of a gradient."""
    for module in ("xception", "resnet", "heads", "unet"):
        monkeypatch.setattr(f"deeplab_jax.models.{module}.relu", jax.nn.silu)
    monkeypatch.setattr("deeplab_jax.models.mobilenet.relu6", jax.nn.silu)


@pytest.fixture(scope="session")
def docs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which blocks of docs/ and the notebook run, made once."""
    from place import make, shrink_training

    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        shrink_training(patch)
        make(folder, patch)
    return folder


@pytest.fixture
def place(docs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its own for each test, which is then the current folder."""
    shutil.copytree(docs_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
