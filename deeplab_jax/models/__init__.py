"""The networks: layers, backbones, heads, and `build_model`, which puts them together."""

from deeplab_jax.models.build import SegmentationModel as SegmentationModel
from deeplab_jax.models.build import build_model as build_model
