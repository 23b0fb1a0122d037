"""The official optimiser: SGD with momentum in TF1's form, poly schedule, L2 in the gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array


def poly_schedule(
    base: float,
    steps: int,
    *,
    power: float = 0.9,
    end: float = 0.0,
    slow_start_steps: int = 0,
    slow_start: float = 1e-4,
) -> optax.Schedule:
    """(base - end) * (1 - t / D)^power + end after a slow start at a constant rate.

    Official `get_model_learning_rate`: t counts from the slow start's end,
    D = steps - slow_start_steps.
    """

    def rate(step: Array) -> Array:
        t = jnp.clip(step - slow_start_steps, 0, steps - slow_start_steps)
        poly = (base - end) * (1.0 - t / (steps - slow_start_steps)) ** power + end
        return jnp.where(step < slow_start_steps, slow_start, poly)

    return rate


def path_names(path: tuple[Any, ...]) -> list[str]:
    return [entry.key for entry in path]


def is_decayed(path: tuple[Any, ...]) -> bool:
    """L2 applies to plain and pointwise kernels; not to depthwise ones, BatchNorm or biases."""
    names = path_names(path)
    return names[-1] == "kernel" and not names[-2].endswith("depthwise")


def gradient_multiplier(path: tuple[Any, ...], new_layers: float, freeze_backbone: bool) -> float:
    """Factor on a parameter's gradient and decay (official `get_model_gradient_multipliers`)."""
    names = path_names(path)
    if names[0] == "backbone":
        return 0.0 if freeze_backbone else 1.0
    bias = 2.0 if names == ["logits", "bias"] else 1.0
    return new_layers * bias


def sgd(
    params: Any,
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 4e-5,
    new_layers_multiplier: float = 1.0,
    freeze_backbone: bool = False,
) -> optax.GradientTransformation:
    """v <- momentum * v + g; w <- w - lr * v, with g the gradient of loss + wd * 1/2 |w|^2."""
    decayed = jax.tree_util.tree_map_with_path(lambda path, _: is_decayed(path), params)
    multipliers = jax.tree_util.tree_map_with_path(
        lambda path, _: gradient_multiplier(path, new_layers_multiplier, freeze_backbone), params
    )
    scale = optax.stateless(lambda grads, _: jax.tree.map(lambda g, m: g * m, grads, multipliers))
    return optax.chain(
        optax.add_decayed_weights(weight_decay, decayed),
        scale,
        optax.trace(momentum),
        optax.scale_by_learning_rate(schedule),
    )
