"""Weights for RGB images made weights for images of other channels, by timm's rule."""

from dataclasses import replace
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from deeplab_jax.config import ModelConfig
from deeplab_jax.errors import UserError
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.weights.files import Weights


def adapt_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel [k k 3 n] of RGB as [k k channels n].

    As `adapt_input_conv` of timm: for one channel the sum, so that gray images give what they gave
    as RGB; for others red, green and blue in turn, times 3 / channels.
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % 3] * np.float32(3 / channels)


def adapt_channels(weights: Weights, channels: int) -> tuple[Weights, str]:
    """The weights with their first convolution for so many channels, and the words for it; or ''.

    Raises:
      UserError: the weights are for neither that number nor RGB.
    """
    theirs = weights.model.image_channels
    if theirs == channels:
        return weights, ""
    if theirs != 3:
        raise UserError(
            f"the weights are for images of {theirs} channels, these have {channels}: only those of"
            " RGB can be made others"
        )
    model = replace(weights.model, channels=channels)
    variables = flatten_dict(weights.variables)
    adapted = [path for path in variables if path in set(_first_kernels(weights.model, model))]
    for path in adapted:
        variables[path] = adapt_kernel(np.asarray(variables[path]), channels)
    how = "summed" if channels == 1 else f"repeated and scaled by 3/{channels}"
    name = "/".join(path for path in adapted[0][1:]) if adapted else "none"
    words = f"{name}: kernels of red, green and blue {how} for {channels} channels"
    return weights._replace(model=model, variables=unflatten_dict(variables)), words


def _first_kernels(one: ModelConfig, other: ModelConfig) -> list[tuple[Any, ...]]:
    """The leaves whose shape depends on the channels: the first convolution's kernel."""
    ours, theirs = (flatten_dict(abstract_variables(model)) for model in (one, other))
    return [path for path, leaf in ours.items() if leaf.shape != theirs[path].shape]
