"""Un-folding BatchNorm: usable statistics for weights that have it folded into the convolutions.

A folded network is right at inference, but a wrong start for training: its BatchNorm says mean 0
and variance 1, which the activations have not. Here the real moments are measured on images, and
scale and bias changed so that the network computes what it did before.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from deeplab_jax.models import Network
from deeplab_jax.models.build import backbone_options


def reestimate_batch_norm(variables: Any, model: Network, images: Iterable[np.ndarray]) -> Any:
    """The same function with the backbone's true BatchNorm statistics over batches u8[b, h, w, 3].

    With y = a x + c before, the new BatchNorm has mean m, variance v, scale a sqrt(v + eps) and
    bias c + a m, which is y = a x + c again.
    """

    @jax.jit
    def measure(variables: Any, image: Array) -> Any:
        x = image.astype(jnp.float32)
        _, found = model.apply(variables, x, train=False, mutable=["moments"])
        return found["moments"]["backbone"]

    moments = [flatten_dict(jax.device_get(measure(variables, image))) for image in images]
    flat = flatten_dict(variables)
    epsilon = backbone_options(model.config).epsilon
    for path in moments[0]:  # (..., "norm", "mean_var")
        means = np.stack([m[path][0][0] for m in moments])
        squares = np.stack([m[path][0][1] for m in moments]) + np.square(means)
        mean = means.mean(0)
        var = np.maximum(squares.mean(0) - np.square(mean), 0.0)
        param, stat = ("params", "backbone", *path[:-1]), ("batch_stats", "backbone", *path[:-1])
        gain = flat[*param, "scale"] / np.sqrt(flat[*stat, "var"] + epsilon)
        offset = flat[*param, "bias"] - flat[*stat, "mean"] * gain
        flat[*param, "scale"] = gain * np.sqrt(var + epsilon)
        flat[*param, "bias"] = offset + gain * mean
        flat[*stat, "mean"], flat[*stat, "var"] = mean, var
    return unflatten_dict(flat)
