"""The pure functions of training and evaluation: one step, one prediction.

`jit` them with any sharding.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from deeplab_jax.config import Config, TrainConfig
from deeplab_jax.data.augment import augment
from deeplab_jax.losses import hard_pixel_loss, hard_pixel_share, mean_loss, pixel_losses
from deeplab_jax.metrics import confusion_matrix
from deeplab_jax.models import Network, build_model
from deeplab_jax.models.layers import (
    height_width,
    join_rows,
    resize_bilinear,
    row_blocks,
    upsample_rows,
)
from deeplab_jax.optim import poly_schedule, sgd, slow_start, step_schedule
from deeplab_jax.sharding import over_batch, replicated
from deeplab_jax.state import TrainState, init_state

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
    loss_fn = partial(loss_and_stats, model=model, train=config.train, ignore_label=ignore_label)
    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params, state.batch_stats, image, label, dropout_key, state.step
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "loss": loss,
        "learning_rate": schedule(state.step),
        "gradient_norm": gradient_norm(grads),
    }
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def gradient_norm(grads: Any) -> Array:
    """L2 norm over all leaves.

    On CUDA over all of them joined: a sum over each leaf is a kernel or two, and keeps XLA from
    making one kernel of the leaf's gradient and its update.
    """

    def joined(grads: Any) -> Array:
        return jnp.linalg.norm(ravel_pytree(grads)[0])

    return cast(Array, jax.lax.platform_dependent(grads, cuda=joined, default=optax.tree.norm))


def output_size(image: Array, model: Network) -> tuple[int, int]:
    """Height and width of a prediction: the image's, or a classifier's one pixel."""
    return (1, 1) if model.config.head == "classifier" else height_width(image)


def predict_labels(variables: Any, image: Array, *, model: Network) -> Array:
    """image u8 [b h w 3] -> the most likely class of each pixel, u8 [b h w]; classifier: u16.

    A block of rows at a time, so that the upsampled logits are never whole in memory.
    """
    logits = cast(Array, model.apply(variables, image.astype(jnp.float32), train=False))
    height, width = output_size(image, model)
    dtype = jnp.uint16 if model.config.head == "classifier" else jnp.uint8

    def block(matrix: Array) -> Array:
        return jnp.argmax(upsample_rows(logits, matrix, width), axis=-1).astype(dtype)

    return join_rows(jax.lax.map(block, row_blocks(logits.shape[1], height)), height)


def predict_probabilities(variables: Any, image: Array, *, model: Network) -> Array:
    """image u8 [b h w 3] -> class probabilities f32 [b h w c]; classifier: [b 1 1 c]."""
    logits = cast(Array, model.apply(variables, image.astype(jnp.float32), train=False))
    return jax.nn.softmax(resize_bilinear(logits, output_size(image, model)), axis=-1)


def to_original(prediction: Array, scaled: Array, size: Array, out_size: tuple[int, int]) -> Array:
    """Nearest resample of the `scaled` (h, w) corner of predictions [b h w] to `size`, in out_size.

    Both sizes are int32 [b, 2]; out_size is static, the canvas of the labels.
    """

    def one(p: Array, source: Array, target: Array) -> Array:
        def nearest(axis: int) -> Array:  # PIL's NEAREST: floor of the pixel's centre, in integers
            i = jnp.arange(out_size[axis])
            i = (2 * i + 1) * source[axis] // (2 * target[axis])
            return jnp.minimum(i, source[axis] - 1)

        return p[nearest(0)[:, None], nearest(1)[None, :]]

    return jax.vmap(one)(prediction, scaled, size)


def eval_step(
    variables: Any, batch: Batch, *, model: Network, num_classes: int, ignore_label: int
) -> tuple[Array, Array]:
    """A batch of `eval_batches` -> (confusion int32 [c c], predictions at the labels' size)."""
    labels = predict_labels(variables, batch["image"], model=model)
    labels = to_original(labels, batch["scaled"], batch["size"], height_width(batch["label"]))
    truth = batch["label"].astype(jnp.int32)
    counts = confusion_matrix(truth, labels.astype(jnp.int32), num_classes, ignore_label)
    return counts, labels


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
    """The state at step 0 of a run that starts from `variables`, replicated over the mesh."""
    optimizer, _ = make_optimizer(config, variables["params"])
    return jax.device_put(init_state(variables, optimizer), replicated(mesh))


def compile_train_step(
    config: Config, params: Any, mesh: Mesh, ignore_label: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`train_step` jitted over the mesh: batch split, state replicated and donated."""
    optimizer, schedule = make_optimizer(config, params)
    step = partial(
        train_step,
        model=build_model(config.model),
        optimizer=optimizer,
        schedule=schedule,
        config=config,
        ignore_label=ignore_label,
    )
    whole, split = replicated(mesh), over_batch(mesh)
    return jax.jit(
        step, in_shardings=(whole, split), out_shardings=(whole, whole), donate_argnums=0
    )


def compile_eval_step(
    config: Config, mesh: Mesh, ignore_label: int
) -> Callable[[Any, Batch], tuple[Array, Array]]:
    """`eval_step` jitted over the mesh: batch and predictions split, counts summed over devices."""
    step = partial(
        eval_step,
        model=build_model(config.model),
        num_classes=config.model.num_classes,
        ignore_label=ignore_label,
    )
    whole, split = replicated(mesh), over_batch(mesh)
    return jax.jit(step, in_shardings=(whole, split), out_shardings=(whole, split))
