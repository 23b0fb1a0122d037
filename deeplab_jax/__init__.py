"""DeepLab v3+ (Chen et al. 2018, arXiv 1802.02611) in JAX and Flax.

The names below are imported when they are first used: JAX and all that needs it take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deeplab_jax.errors import UserError as UserError
from deeplab_jax.version import VERSION as __version__  # noqa: F401

if TYPE_CHECKING:
    from deeplab_jax.config import Config as Config
    from deeplab_jax.config import DataConfig as DataConfig
    from deeplab_jax.config import EvalConfig as EvalConfig
    from deeplab_jax.config import MachineConfig as MachineConfig
    from deeplab_jax.config import MeshConfig as MeshConfig
    from deeplab_jax.config import ModelConfig as ModelConfig
    from deeplab_jax.config import OptimConfig as OptimConfig
    from deeplab_jax.config import TaskConfig as TaskConfig
    from deeplab_jax.config import TrainConfig as TrainConfig
    from deeplab_jax.inference.predict import load as load
    from deeplab_jax.models import build_model as build_model

MODULES = {
    "Config": "config",
    "DataConfig": "config",
    "EvalConfig": "config",
    "MachineConfig": "config",
    "MeshConfig": "config",
    "ModelConfig": "config",
    "OptimConfig": "config",
    "TaskConfig": "config",
    "TrainConfig": "config",
    "build_model": "models",
    "load": "inference.predict",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
