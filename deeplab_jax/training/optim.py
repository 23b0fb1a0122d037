"""The official optimiser and schedules: SGD with momentum in TF1's form, L2 in the gradient."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import path_aware_map
from jax import Array

from deeplab_jax.config import OptimConfig

Path = tuple[Any, ...]  # of names, to a parameter


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """The learning rate of each of so many steps, as the official `get_model_learning_rate`.

    poly: (base - end) * (1 - t / T)^power + end; step: base * decay_rate^floor(t / decay_steps).
    After a slow start of a constant rate, whose steps count neither in t nor in T.
    """
    start = config.slow_start_steps
    if config.schedule == "poly":
        schedule = optax.polynomial_schedule(
            config.learning_rate, config.end_learning_rate, config.power, steps - start
        )
    else:
        schedule = optax.exponential_decay(
            config.learning_rate, config.decay_steps, config.decay_rate, staircase=True
        )
    slow = optax.constant_schedule(config.slow_start_learning_rate)
    return optax.join_schedules([slow, schedule], [start])


def make_optimizer(
    config: OptimConfig, schedule: optax.Schedule, params: Any, *, freeze_backbone: bool = False
) -> optax.GradientTransformation:
    """v <- momentum * v + m * g; w <- w - rate * v, with g the gradient of loss + decay/2 |w|^2.

    With `nesterov`, w <- w - rate * (m * g + momentum * v). The rate stays outside of v. m is the
    parameter's `gradient_multiplier`, and only some kernels decay: `is_decayed`.
    """
    decayed = path_aware_map(is_decayed, params)
    multiplier = partial(
        gradient_multiplier,
        new_layers=config.new_layers_multiplier,
        freeze_backbone=freeze_backbone,
    )
    multipliers = path_aware_map(multiplier, params)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.stateless(lambda grads, _: jax.tree.map(jnp.multiply, grads, multipliers)),
        optax.trace(config.momentum, config.nesterov),
        optax.scale_by_learning_rate(schedule),
    )


def is_decayed(path: Path, _: Array) -> bool:
    """L2 applies to plain and pointwise kernels; not to depthwise ones, BatchNorm or biases."""
    return path[-1] == "kernel" and not path[-2].endswith("depthwise")


def gradient_multiplier(path: Path, _: Array, *, new_layers: float, freeze_backbone: bool) -> float:
    """Factor on a parameter's gradient and decay (official `get_model_gradient_multipliers`)."""
    # A bias that is not BatchNorm's; U-Net is no official network.
    bias = 2.0 if path[-1] == "bias" and path[-2] != "norm" and path[0] != "expanding_path" else 1.0
    if path[0] == "backbone":
        return 0.0 if freeze_backbone else bias
    return new_layers * bias


def moving_average(average: Any, variables: Any, decay: float, step: Array) -> Any:
    """d * average + (1 - d) * variables, with d = min(decay, (1 + step) / (10 + step)).

    As TensorFlow's `ExponentialMovingAverage` with `num_updates`: the start is soon forgotten.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(variables, average, 1.0 - d)
