"""DeepLab v3+ (Chen et al. 2018, arXiv 1802.02611) in JAX and Flax."""

from deeplab_jax.config import Config as Config
from deeplab_jax.config import DataConfig as DataConfig
from deeplab_jax.config import EvalConfig as EvalConfig
from deeplab_jax.config import MeshConfig as MeshConfig
from deeplab_jax.config import ModelConfig as ModelConfig
from deeplab_jax.config import OptimConfig as OptimConfig
from deeplab_jax.config import TrainConfig as TrainConfig
from deeplab_jax.errors import UserError as UserError
from deeplab_jax.models import build_model as build_model
from deeplab_jax.predict import load as load
from deeplab_jax.version import VERSION as __version__  # noqa: F401
