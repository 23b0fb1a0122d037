"""The pure functions of training: one step.

`jit` them with any sharding.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import AbstractMesh, Mesh

from deeplab_jax.config import Config, TrainConfig
from deeplab_jax.data.augment import augment
from deeplab_jax.models import Network, build_model
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.ops.labels import valid_pixels
from deeplab_jax.parallel.mesh import (
    gather_parameters,
    on_mesh,
    over_batch,
    over_fsdp,
    place,
    platform_dependent,
    replicated,
    split_rows,
)
from deeplab_jax.training.losses import (
    hard_pixel_loss,
    hard_pixel_share,
    mean_loss,
    pixel_losses,
)
from deeplab_jax.training.optim import moving_average, poly_schedule, sgd, slow_start, step_schedule
from deeplab_jax.training.state import TrainState, init_state

Batch = Mapping[str, Array]
Metrics = dict[str, Array]


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
    losses, valid = pixel_losses(logits, label, ignore_label, train.class_weights)
    if train.hard_pixels < 1.0:
        share = hard_pixel_share(step, train.hard_pixels, train.hard_pixels_ramp)
        return hard_pixel_loss(losses, share), updates["batch_stats"]
    return mean_loss(losses, valid), updates["batch_stats"]


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

    A loss or gradient that is no finite number changes nothing but the counters.

    All randomness follows from (seed, step), so there is no key to carry or to save.
    """
    key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
    augment_key, dropout_key = jax.random.split(key)
    image, label = augment(
        augment_key,
        batch["image"],
        batch["label"],
        flip=config.data.flip,
        photometric=config.data.photometric,
    )
    label = split_rows(label)
    loss_fn = partial(loss_and_stats, model=model, train=config.train, ignore_label=ignore_label)
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if config.train.accumulate > 1:
        counts = partial(valid_pixels, num_classes=model.config.classes, ignore_label=ignore_label)
        gradient = accumulated(gradient, config.train.accumulate, counts)
    whole = gather_parameters(state.variables)
    (loss, batch_stats), grads = gradient(
        whole["params"], whole["batch_stats"], image, label, dropout_key, state.step
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        variables = {"params": params, "batch_stats": batch_stats}
        ema = moving_average(ema, variables, config.train.ema_decay, state.step)
    norm = gradient_norm(grads)
    new = dataclasses.replace(
        state, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema
    )
    new = counted(jnp.isfinite(loss) & jnp.isfinite(norm), new, state)
    metrics = {
        "loss": loss,
        "learning_rate": schedule(state.step - state.skipped),  # the optimiser counts its own
        "gradient_norm": norm,
        "skipped_in_a_row": new.skipped_in_a_row,
    }
    return new, metrics


def accumulated(
    gradient: Callable[..., Any], parts: int, counts: Callable[[Array], Array]
) -> Callable[..., Any]:
    """`gradient` of a batch, computed part by part, with the memory of one part.

    Loss and gradient are the batch's: each part weighs as its pixels that count, as they do in the
    mean. BatchNorm normalises each part by its own statistics and moves its averages once
    a part, as if each were a batch; with `freeze_batch_norm` nothing differs from the whole batch
    but the order of sums (and dropout's draws). Hard pixels are chosen within each part.
    """

    def split(x: Array) -> Array:
        # Every parts-th row: each part has rows of every device, whose rows stand together.
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    def whole(
        params: Any, batch_stats: Any, image: Array, label: Array, key: Array, step: Array
    ) -> Any:
        pixels = jnp.maximum(jnp.sum(counts(label)), 1)

        def part(carry: Any, batch: tuple[Array, Array, Array]) -> tuple[Any, None]:
            (loss, batch_stats), grads = carry
            image, label, key = batch
            (own_loss, batch_stats), own = gradient(params, batch_stats, image, label, key, step)
            share = jnp.sum(counts(label)) / pixels
            grads = jax.tree.map(lambda total, x: total + share * x, grads, own)
            return ((loss + share * own_loss, batch_stats), grads), None

        start = ((jnp.zeros(()), batch_stats), jax.tree.map(jnp.zeros_like, params))
        keys = jax.random.split(key, parts)
        return jax.lax.scan(part, start, (split(image), split(label), keys))[0]

    return whole


def counted(finite: Array, new: TrainState, old: TrainState) -> TrainState:
    """`new` where the step's numbers were finite, else `old`; a step on, and skipped ones counted.

    All or nothing: BatchNorm and the average would carry a NaN on as the parameters would. The step
    counts either way, so that the data goes on.
    """
    kept = jax.tree.map(partial(jnp.where, finite), new, old)
    return dataclasses.replace(
        kept,
        step=old.step + 1,
        skipped=old.skipped + jnp.where(finite, 0, 1),
        skipped_in_a_row=jnp.where(finite, 0, old.skipped_in_a_row + 1),
    )


def gradient_norm(grads: Any) -> Array:
    """L2 norm over all leaves.

    On CUDA over all of them joined: a sum over each leaf is a kernel or two, and keeps XLA from
    making one kernel of the leaf's gradient and its update.
    """

    def joined(grads: Any) -> Array:
        return jnp.linalg.norm(ravel_pytree(grads)[0])

    return cast(Array, platform_dependent(grads, cuda=joined, default=optax.tree.norm))


def make_optimizer(config: Config, params: Any) -> tuple[optax.GradientTransformation, Any]:
    """The optimiser and its schedule, as the configuration says."""
    o = config.optim
    if o.schedule == "poly":
        steps = config.train.steps - o.slow_start_steps
        schedule = poly_schedule(o.learning_rate, steps, power=o.power, end=o.end_learning_rate)
    else:
        schedule = step_schedule(o.learning_rate, o.decay_steps, o.decay_rate)
    schedule = slow_start(schedule, o.slow_start_steps, o.slow_start_learning_rate)
    optimizer = sgd(
        params,
        schedule,
        momentum=o.momentum,
        nesterov=o.nesterov,
        weight_decay=o.weight_decay,
        new_layers_multiplier=o.new_layers_multiplier,
        freeze_backbone=config.train.freeze_backbone,
    )
    return optimizer, schedule


def fresh_state(config: Config, variables: Any, mesh: Mesh) -> TrainState:
    """The state at step 0 of a run that starts from `variables`, on the mesh's devices."""
    optimizer, _ = make_optimizer(config, variables["params"])
    return place(init_state(variables, optimizer, ema=config.train.ema_decay > 0), mesh)


def abstract_state(config: Config, mesh: Mesh | AbstractMesh) -> TrainState:
    """`fresh_state` as shapes, types and places: nothing is computed or allocated."""
    variables = abstract_variables(config.model)
    optimizer, _ = make_optimizer(config, variables["params"])
    init = partial(init_state, optimizer=optimizer, ema=config.train.ema_decay > 0)
    state: TrainState = jax.eval_shape(init, variables)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        state,
        over_fsdp(state, mesh),
    )


def compile_train_step(
    config: Config, state: TrainState, mesh: Mesh, ignore_label: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`train_step` jitted over the mesh: batch and state split as it says, the state donated.

    Of `state` only the shapes are used.
    """
    optimizer, schedule = make_optimizer(config, state.params)
    step = partial(
        train_step,
        model=build_model(config.model),
        optimizer=optimizer,
        schedule=schedule,
        config=config,
        ignore_label=ignore_label,
    )
    places = over_fsdp(state, mesh)
    return jax.jit(
        on_mesh(step, mesh),
        in_shardings=(places, over_batch(mesh)),
        out_shardings=(places, replicated(mesh)),
        donate_argnums=0,
    )
