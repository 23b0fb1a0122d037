"""One training step as a pure function, and its compilation for a mesh of devices.

Parameters, optimiser, BatchNorm's statistics and the loss are float32; what flows through the
network has `model.dtype`. Convolutions and products of float32 numbers are as precise as JAX's
default on the device: float32 on a CPU, TF32 on recent NVIDIA GPUs, bfloat16 on a TPU, with sums in
float32. JAX_DEFAULT_MATMUL_PRECISION=highest makes them float32 everywhere, at several times the
cost. A run prints at its start what it has, where that is not float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from deeplab_jax.config import Config, TrainConfig
from deeplab_jax.data.augment import augment, step_keys
from deeplab_jax.models import Network, build_model, mean_pixel
from deeplab_jax.ops.partition import split_rows
from deeplab_jax.parallel.mesh import (
    batch_sharding,
    bind_mesh,
    fsdp_shardings,
    gather_parameters,
    replicated,
)
from deeplab_jax.training.accumulation import accumulate
from deeplab_jax.training.losses import (
    cross_entropy,
    focal_loss,
    hard_pixel_loss,
    hard_pixel_share,
    mean_loss,
    pixel_losses,
)
from deeplab_jax.training.optim import make_optimizer, make_schedule, moving_average
from deeplab_jax.training.region_losses import lovasz_loss, tversky_loss
from deeplab_jax.training.state import TrainState

Batch = Mapping[str, Array]
Metrics = dict[str, Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Network,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Config,
    ignore_label: int,
) -> tuple[TrainState, Metrics]:
    """One update from a batch {image u8 [b h w 3], label u8 [b h w]}; classifier: u16 [b 1 1].

    A loss or gradient that is no finite number changes nothing but the counters. All randomness
    follows from (seed, step), so there is no key to carry or to save.
    """
    train = config.train
    augment_key, dropout_key = step_keys(train.seed, state.step)
    image, label = augment(
        augment_key,
        batch["image"],
        batch["label"],
        config.augment,
        fill=mean_pixel(model.config),
        ignore_label=ignore_label,
    )
    loss_fn = partial(loss_and_stats, model=model, train=train, ignore_label=ignore_label)
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if train.accumulate > 1:
        gradient = accumulate(gradient, train.accumulate, model.config.classes, ignore_label)
    whole = gather_parameters(state.variables)
    (loss, batch_stats), grads = gradient(
        whole["params"], whole["batch_stats"], image, split_rows(label), dropout_key, state.step
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = replace(state, params=params, batch_stats=batch_stats, opt_state=opt_state)
    if state.ema is not None:
        average = moving_average(state.ema, new.variables, train.ema_decay, state.step)
        new = replace(new, ema=average)
    norm = optax.tree.norm(grads)
    new = count_step(new, state, jnp.isfinite(loss) & jnp.isfinite(norm))
    return new, {
        "loss": loss,
        "learning_rate": schedule(state.step - state.skipped),  # the optimiser counts its own
        "gradient_norm": norm,
        "skipped_in_a_row": new.skipped_in_a_row,
    }


def loss_and_stats(
    params: Any,
    batch_stats: Any,
    image: Array,
    label: Array,
    key: Array,
    step: Array,
    *,
    model: Network,
    train: TrainConfig,
    ignore_label: int,
) -> tuple[Array, Any]:
    """Loss of a batch (image f32 [b h w 3], label int32 [b h w]) and new BatchNorm statistics."""
    if train.freeze_backbone:
        params = {**params, "backbone": jax.lax.stop_gradient(params["backbone"])}
    logits, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        image,
        train=True,
        freeze_batch_norm=train.freeze_batch_norm,
        freeze_backbone=train.freeze_backbone,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    loss = weighted_loss(logits, label, step, train=train, ignore_label=ignore_label)
    return loss, updates["batch_stats"]


def weighted_loss(
    logits: Array, label: Array, step: Array, *, train: TrainConfig, ignore_label: int
) -> Array:
    """The sum of the losses that `train.loss` names, each times its weight."""
    of_pixels = {
        "cross_entropy": partial(cross_entropy, smoothing=train.label_smoothing),
        "focal": partial(focal_loss, gamma=train.focal_gamma),
    }
    of_regions: dict[str, Callable[..., Array]] = {
        "dice": partial(tversky_loss, beta=0.5),
        "tversky": partial(tversky_loss, beta=train.tversky_beta),
        "lovasz": lovasz_loss,
    }
    arguments, per_batch = (logits, label, ignore_label), train.loss_per == "batch"
    total, maps = [], []
    for name, weight in train.loss:
        if name in of_regions:
            total.append(weight * of_regions[name](*arguments, per_batch=per_batch))
        else:
            weights, most = train.class_weights or (), train.logit_adjustment
            adjustment = most * step / train.length if most else None
            losses, valid = pixel_losses(*arguments, weights, of_pixels[name], adjustment)
            maps.append(weight * losses)
    if maps:
        losses = reduce(jnp.add, maps)
        share = hard_pixel_share(step, train.hard_pixels, train.hard_pixels_ramp)
        hard = train.hard_pixels < 1.0
        total.append(hard_pixel_loss(losses, share) if hard else mean_loss(losses, valid))
    return reduce(jnp.add, total)


def count_step(new: TrainState, old: TrainState, finite: Array) -> TrainState:
    """`new` where the step's numbers were finite, else `old`; a step on, and skipped ones counted.

    All or nothing: BatchNorm and the average would carry a NaN on as the parameters would. The step
    counts either way, so that the data goes on.
    """
    return replace(
        jax.tree.map(partial(jnp.where, finite), new, old),
        step=old.step + 1,
        skipped=old.skipped + jnp.where(finite, 0, 1),
        skipped_in_a_row=jnp.where(finite, 0, old.skipped_in_a_row + 1),
    )


def compile_train_step(
    config: Config, state: TrainState, mesh: Mesh, ignore_label: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`train_step` jitted over the mesh: batch and state split as it says, the state donated.

    Of `state` only the shapes are used.
    """
    schedule = make_schedule(config.optim, config.train.length)
    freeze = config.train.freeze_backbone
    step = partial(
        train_step,
        model=build_model(config.model),
        optimizer=make_optimizer(config.optim, schedule, state.params, freeze_backbone=freeze),
        schedule=schedule,
        config=config,
        ignore_label=ignore_label,
    )
    places = fsdp_shardings(state, mesh)
    return jax.jit(
        bind_mesh(step, mesh),
        in_shardings=(places, batch_sharding(mesh)),
        out_shardings=(places, replicated(mesh)),
        donate_argnums=0,
    )
