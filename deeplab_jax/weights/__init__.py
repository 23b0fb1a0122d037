"""Weights: TF variable names and PyTorch's <-> our tree, files on disk, folded BatchNorm."""

from deeplab_jax.weights.official import official_config as official_config
from deeplab_jax.weights.tf_names import from_tf_variables as from_tf_variables
from deeplab_jax.weights.tf_names import to_tf_variables as to_tf_variables
from deeplab_jax.weights.torch_names import from_torch_variables as from_torch_variables
