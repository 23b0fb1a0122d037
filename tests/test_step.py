"""The training step: the same on any number of devices, frozen where asked, and able to learn."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY_MODEL
from synthetic import square_picture

from deeplab_jax import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig, build_model
from deeplab_jax.sharding import data_mesh, place_batch, replicated
from deeplab_jax.state import TrainState, init_state
from deeplab_jax.step import (
    compile_eval_step,
    compile_train_step,
    loss_and_stats,
    make_optimizer,
    to_original,
)

CONFIG = Config(
    model=TINY_MODEL,
    data=DataConfig(crop_size=(33, 49)),
    optim=OptimConfig(learning_rate=0.1),
    train=TrainConfig(steps=120, batch_size=8),
)


def squares(n: int) -> dict[str, np.ndarray]:
    pairs = [square_picture(i) for i in range(n)]
    image = np.stack([image[:33, :49] for image, _ in pairs])
    return {"image": image, "label": np.stack([label[:33, :49] for _, label in pairs])}


def fresh_state(config: Config, devices: int) -> TrainState:
    mesh = data_mesh(jax.devices()[:devices])
    model = build_model(config.model)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 33, 49, 3)), train=False))
    variables = init(jax.random.key(0))
    optimizer, _ = make_optimizer(config, variables["params"])
    return jax.device_put(init_state(variables, optimizer), replicated(mesh))


def close(a: Any, b: Any, tolerance: float) -> None:
    """Equal up to `tolerance` of each array's largest value."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max() <= tolerance * max(np.abs(x).max(), 1e-3)


def on_devices(devices: int) -> tuple[Any, Any, Any, Any]:
    """Loss, gradients, BatchNorm statistics and the confusion matrix of one batch."""
    mesh = data_mesh(jax.devices()[:devices])
    state, batch = fresh_state(CONFIG, devices), place_batch(squares(8), mesh)
    loss_fn = partial(
        loss_and_stats, model=build_model(CONFIG.model), train=CONFIG.train, ignore_label=255
    )

    @jax.jit
    def gradients(state: TrainState, batch: Any) -> Any:
        image, label = batch["image"].astype(jnp.float32), batch["label"].astype(jnp.int32)
        return jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.batch_stats, image, label, jax.random.key(0), state.step
        )

    (loss, stats), grads = gradients(state, batch)
    sizes = np.tile(np.array([33, 49], np.int32), (8, 1))
    eval_batch = place_batch({**squares(8), "scaled": sizes, "size": sizes}, mesh)
    counts, _ = compile_eval_step(CONFIG, mesh, 255)(state.variables, eval_batch)
    return loss, grads, stats, counts


@pytest.fixture(scope="module")
def one_device() -> tuple[Any, Any, Any, Any]:
    return on_devices(1)


@pytest.mark.parametrize("devices", [2, 8])
def test_any_number_of_devices_gives_the_same_numbers(devices: int, one_device: Any) -> None:
    loss, grads, stats, counts = on_devices(devices)
    want_loss, want_grads, want_stats, want_counts = one_device
    close(loss, want_loss, 1e-5)
    close(grads, want_grads, 1e-5)
    close(stats, want_stats, 1e-5)
    np.testing.assert_array_equal(counts, want_counts)


@pytest.fixture(scope="module")
def step() -> Callable[..., Any]:
    return compile_train_step(
        CONFIG, fresh_state(CONFIG, 1).params, data_mesh(jax.devices()[:1]), 255
    )


def test_golden_step(step: Callable[..., Any]) -> None:
    """The first two losses of a fixed experiment.

    If you changed the network, its initialisation, the augmentation or the optimiser on purpose,
    put the new numbers here and say so in the CHANGELOG.
    """
    state, losses = fresh_state(CONFIG, 1), []
    for _ in range(2):
        state, metrics = step(state, squares(8))
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, GOLDEN, rtol=2e-4)
    assert int(state.step) == 2


GOLDEN = [0.0, 0.0]


def test_overfits_eight_pictures(step: Callable[..., Any]) -> None:
    state, batch = fresh_state(CONFIG, 1), squares(8)
    for _ in range(CONFIG.train.steps):
        state, metrics = step(state, batch)
    assert float(metrics["loss"]) < 0.1


@pytest.mark.parametrize("frozen", ["freeze_batch_norm", "freeze_backbone"])
def test_what_is_frozen_does_not_move(frozen: str) -> None:
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **{frozen: True}))
    before = fresh_state(config, 1)
    old = jax.device_get(before.variables)
    mesh = data_mesh(jax.devices()[:1])
    after, _ = compile_train_step(config, before.params, mesh, 255)(before, squares(8))
    new = jax.device_get(after.variables)
    if frozen == "freeze_batch_norm":
        jax.tree.map(np.testing.assert_array_equal, old["batch_stats"], new["batch_stats"])
        return
    for collection in old:
        before_, after_ = old[collection]["backbone"], new[collection]["backbone"]
        jax.tree.map(np.testing.assert_array_equal, before_, after_)
    assert (old["params"]["logits"]["kernel"] != new["params"]["logits"]["kernel"]).any()


def test_predictions_return_to_the_original_size() -> None:
    """Nearest as PIL does it, from the scaled corner of the padded prediction."""
    from PIL import Image

    rng = np.random.default_rng(0)
    prediction = rng.integers(0, 9, (1, 20, 20)).astype(np.uint8)
    out = to_original(
        jnp.asarray(prediction), jnp.array([[13, 17]]), jnp.array([[31, 40]]), (35, 40)
    )
    want = Image.fromarray(prediction[0, :13, :17]).resize((40, 31), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(np.asarray(out)[0, :31, :40], np.asarray(want))


def test_bfloat16_step_is_close_to_float32() -> None:
    model: ModelConfig = dataclasses.replace(TINY_MODEL, dtype="bfloat16")
    loss_fn = partial(loss_and_stats, train=CONFIG.train, ignore_label=255)
    state, batch = fresh_state(CONFIG, 1), squares(4)
    image, label = jnp.float32(batch["image"]), jnp.int32(batch["label"])
    losses = [
        jax.jit(partial(loss_fn, model=build_model(m)))(
            state.params, state.batch_stats, image, label, jax.random.key(0), state.step
        )[0]
        for m in (TINY_MODEL, model)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)
