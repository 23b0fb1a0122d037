"""Weights: official TF variable names <-> our tree, files on disk, folded BatchNorm."""

from deeplab_jax.weights.tf_names import from_tf_variables as from_tf_variables
