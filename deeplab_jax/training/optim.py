"""The optimiser and its schedule: by default the official ones, SGD in TF1's form, and poly."""

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

    poly: (base - end) * (1 - t / T)^power + end; step: base * decay_rate^floor(t / decay_steps);
    cosine: (base - end) * (1 + cos(pi t / T)) / 2 + end. Before it is a slow start of a constant
    rate, or of one that rises to base, whose steps count neither in t nor in T.
    """
    start, base, end = config.slow_start_steps, config.learning_rate, config.end_learning_rate
    schedules = {
        "poly": optax.polynomial_schedule(base, end, config.power, steps - start),
        "step": optax.exponential_decay(
            base, config.decay_steps, config.decay_rate, staircase=True
        ),
        "cosine": optax.cosine_decay_schedule(base, steps - start, end / base),
        "constant": optax.constant_schedule(base),
    }
    first = config.slow_start_learning_rate
    last = base if config.slow_start == "linear" else first
    slow = optax.linear_schedule(first, last, max(start, 1))
    return optax.join_schedules([slow, schedules[config.schedule]], [start])


def make_optimizer(
    config: OptimConfig, schedule: optax.Schedule, params: Any, *, freeze_backbone: bool = False
) -> optax.GradientTransformation:
    """What turns gradients g into updates of the weights w, with m the parameter's multiplier.

    sgd: v <- momentum * v + m * (g + decay * w); w <- w - rate * v, the official form.
    decoupled_sgd: v <- momentum * v + g; w <- w - m * (rate * v + rate / base * decay * w), which
    is MosaicML's DecoupledSGDW. adamw: w <- w - m * rate * (adam(g) + decay * w) (Loshchilov and
    Hutter 2019, arXiv 1711.05101). m is `gradient_multiplier`; only some kernels decay:
    `is_decayed`. With `nesterov`, g + momentum * v takes the place of v.
    """
    official = config.optimizer == "sgd"
    multiplier = partial(
        gradient_multiplier,
        new_layers=config.new_layers_multiplier,
        freeze_backbone=freeze_backbone,
        bias=2.0 if official else 1.0,
    )
    multipliers = path_aware_map(multiplier, params)
    multiply = optax.stateless(lambda grads, _: jax.tree.map(jnp.multiply, grads, multipliers))
    momentum = optax.trace(config.momentum, config.nesterov)
    adam = optax.scale_by_adam(config.momentum, nesterov=config.nesterov)
    # The rate multiplies what is added: divided by base, only its course is left.
    base = config.learning_rate if config.optimizer == "decoupled_sgd" else 1.0
    decayed = path_aware_map(is_decayed, params)
    decay = optax.add_decayed_weights(config.weight_decay / base, decayed)
    directions = {
        "sgd": [decay, multiply, momentum],
        "decoupled_sgd": [momentum, decay, multiply],
        "adamw": [adam, decay, multiply],
    }
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    rate = optax.scale_by_learning_rate(schedule)
    return optax.chain(*clip, *directions[config.optimizer], rate)


def is_decayed(path: Path, _: Array) -> bool:
    """L2 applies to plain and pointwise kernels; not to depthwise ones, BatchNorm or biases."""
    return path[-1] == "kernel" and not path[-2].endswith("depthwise")


def gradient_multiplier(
    path: Path, _: Array, *, new_layers: float, freeze_backbone: bool, bias: float
) -> float:
    """Factor on a parameter's gradient and decay (official `get_model_gradient_multipliers`)."""
    # A bias that is not BatchNorm's; U-Net is no official network.
    is_bias = path[-1] == "bias" and path[-2] != "norm" and path[0] != "expanding_path"
    factor = bias if is_bias else 1.0
    if path[0] == "backbone":
        return 0.0 if freeze_backbone else factor
    return new_layers * factor


def moving_average(average: Any, variables: Any, decay: float, step: Array) -> Any:
    """d * average + (1 - d) * variables, with d = min(decay, (1 + step) / (10 + step)).

    As TensorFlow's `ExponentialMovingAverage` with `num_updates`: the start is soon forgotten.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(variables, average, 1.0 - d)
