"""DeepLab v3+ (Chen et al. 2018, arXiv 1802.02611) in JAX and Flax.

The names below are imported when they are first used: JAX and all that needs it take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deeplab_jax.errors import UserError as UserError
from deeplab_jax.version import VERSION as __version__  # noqa: F401

if TYPE_CHECKING:
    from deeplab_jax.config import AugmentConfig as AugmentConfig
    from deeplab_jax.config import Config as Config
    from deeplab_jax.config import DataConfig as DataConfig
    from deeplab_jax.config import EvalConfig as EvalConfig
    from deeplab_jax.config import MachineConfig as MachineConfig
    from deeplab_jax.config import MeshConfig as MeshConfig
    from deeplab_jax.config import ModelConfig as ModelConfig
    from deeplab_jax.config import OptimConfig as OptimConfig
    from deeplab_jax.config import TaskConfig as TaskConfig
    from deeplab_jax.config import TrainConfig as TrainConfig
    from deeplab_jax.inference.predict import load as from_pretrained  # noqa: F401
    from deeplab_jax.inference.predict import load as load
    from deeplab_jax.models import build_model as build_model
    from deeplab_jax.training.loop import fit as train  # noqa: F401

SECTIONS = ("Model", "Task", "Data", "Augment", "Optim", "Train", "Eval", "Mesh", "Machine", "")
PLACES = {  # of each name: its module, and what it is called there
    **{f"{section}Config": ("config", f"{section}Config") for section in SECTIONS},
    "build_model": ("models", "build_model"),
    "from_pretrained": ("inference.predict", "load"),
    "load": ("inference.predict", "load"),
    "train": ("training.loop", "fit"),
}
__all__ = [*PLACES, "UserError"]


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, name_there = PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), name_there)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
