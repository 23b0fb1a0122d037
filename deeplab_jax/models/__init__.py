"""The networks: layers, backbones, heads, and `build_model`, which puts them together."""

from deeplab_jax.models.build import Network as Network
from deeplab_jax.models.build import build_model as build_model
from deeplab_jax.models.build import mean_pixel as mean_pixel
