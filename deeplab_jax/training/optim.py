"""The official optimiser and schedules: SGD with momentum in TF1's form, L2 in the gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array


def poly_schedule(
    base: float, steps: int, *, power: float = 0.9, end: float = 0.0
) -> optax.Schedule:
    """(base - end) * (1 - t / steps)^power + end."""

    def rate(step: Array) -> Array:
        return (base - end) * (1.0 - jnp.clip(step, 0, steps) / steps) ** power + end

    return rate


def step_schedule(base: float, decay_steps: int, decay_rate: float) -> optax.Schedule:
    """base * decay_rate^floor(t / decay_steps)."""
    return lambda step: base * decay_rate ** (step // decay_steps)


def slow_start(schedule: optax.Schedule, steps: int, constant: float) -> optax.Schedule:
    """A constant rate for `steps` steps, then the schedule, whose t counts from their end.

    As the official `get_model_learning_rate`.
    """
    return lambda step: jnp.where(step < steps, constant, schedule(jnp.maximum(step - steps, 0)))


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
    nesterov: bool = False,
    weight_decay: float = 4e-5,
    new_layers_multiplier: float = 1.0,
    freeze_backbone: bool = False,
) -> optax.GradientTransformation:
    """v <- momentum * v + g; w <- w - lr * v, with g the gradient of loss + wd * 1/2 |w|^2.

    With `nesterov`, w <- w - lr * (g + momentum * v).
    """
    decayed = jax.tree_util.tree_map_with_path(lambda path, _: is_decayed(path), params)
    multipliers = jax.tree_util.tree_map_with_path(
        lambda path, _: gradient_multiplier(path, new_layers_multiplier, freeze_backbone), params
    )
    scale = optax.stateless(lambda grads, _: jax.tree.map(lambda g, m: g * m, grads, multipliers))
    return optax.chain(
        optax.add_decayed_weights(weight_decay, decayed),
        scale,
        optax.trace(momentum, nesterov),
        optax.scale_by_learning_rate(schedule),
    )


def moving_average(average: Any, variables: Any, decay: float, step: Array) -> Any:
    """average + (1 - d) * (variables - average), with d = min(decay, (1 + step) / (10 + step)).

    As TensorFlow's `ExponentialMovingAverage` with `num_updates`: the start is soon forgotten.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, v: a + (1 - d) * (v - a), average, variables)
