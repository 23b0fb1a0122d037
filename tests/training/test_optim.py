"""The optimiser against its formulas, step by step."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplab_jax.config import OptimConfig
from deeplab_jax.training.optim import make_optimizer, make_schedule, moving_average

PARAMS = {
    "backbone": {
        "unit_depthwise": {"kernel": jnp.full((3, 3, 1, 2), 2.0), "norm": {"scale": jnp.ones(2)}},
        "unit_pointwise": {"kernel": jnp.full((1, 1, 2, 2), 2.0)},
    },
    "logits": {"kernel": jnp.full((1, 1, 2, 2), 2.0), "bias": jnp.full(2, 2.0)},
}


def one_update(config: OptimConfig, freeze_backbone: bool = False) -> dict:
    rate = optax.constant_schedule(1.0)
    tx = make_optimizer(config, rate, PARAMS, freeze_backbone=freeze_backbone)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
    return jax.tree.map(lambda u: float(-u.ravel()[0]), updates)


def test_decay_is_on_plain_kernels_only() -> None:
    update = one_update(OptimConfig(weight_decay=0.1))
    assert update == {
        "backbone": {
            "unit_depthwise": {"kernel": 0.0, "norm": {"scale": 0.0}},
            "unit_pointwise": {"kernel": np.float32(0.2)},
        },
        "logits": {"kernel": np.float32(0.2), "bias": 0.0},
    }


def test_new_layers_are_scaled_and_a_frozen_backbone_stays() -> None:
    config = OptimConfig(weight_decay=0.1, new_layers_multiplier=10.0)
    update = one_update(config, freeze_backbone=True)
    assert update["backbone"]["unit_pointwise"]["kernel"] == 0
    np.testing.assert_allclose(update["logits"]["kernel"], 2.0, rtol=1e-6)


def test_biases_learn_twice_as_fast() -> None:
    tx = make_optimizer(OptimConfig(weight_decay=0.0), optax.constant_schedule(1.0), PARAMS)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, PARAMS), tx.init(PARAMS), PARAMS)
    assert float(updates["logits"]["bias"][0]) == -2.0
    assert float(updates["logits"]["kernel"].ravel()[0]) == -1.0


def test_momentum_keeps_the_rate_outside_its_buffer() -> None:
    """v <- m v + g; w <- w - lr v: with a changing rate this differs from rate inside."""
    rates = jnp.array([1.0, 0.1, 0.01])
    params = {"backbone": {"a": {"kernel": jnp.ones(1)}}}
    tx = make_optimizer(OptimConfig(weight_decay=0.0), lambda t: rates[t], params)
    state, w, v = tx.init(params), 1.0, 0.0
    for t, g in enumerate((0.5, -1.0, 2.0)):
        grads = jax.tree.map(lambda x, g=g: jnp.full_like(x, g), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        v = 0.9 * v + g
        w -= float(rates[t]) * v
    np.testing.assert_allclose(params["backbone"]["a"]["kernel"][0], w, rtol=1e-6)


def test_nesterov_looks_ahead() -> None:
    """TF1's use_nesterov: v <- m v + g; w <- w - lr (g + m v)."""
    params = {"backbone": {"a": {"kernel": jnp.ones(1)}}}
    config = OptimConfig(nesterov=True, weight_decay=0.0)
    tx = make_optimizer(config, optax.constant_schedule(0.1), params)
    state, w, v = tx.init(params), 1.0, 0.0
    for g in (0.5, -1.0, 2.0):
        grads = jax.tree.map(lambda x, g=g: jnp.full_like(x, g), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        v = 0.9 * v + g
        w -= 0.1 * (g + 0.9 * v)
    np.testing.assert_allclose(params["backbone"]["a"]["kernel"][0], w, rtol=1e-6)


def test_step_schedule_with_slow_start() -> None:
    config = OptimConfig(
        learning_rate=0.05, schedule="step", decay_steps=20, decay_rate=0.94, slow_start_steps=10
    )
    rate = make_schedule(config, 3000)
    values = [float(rate(jnp.asarray(t))) for t in (0, 9, 10, 29, 30, 2010)]
    expected = [1e-4, 1e-4, 0.05, 0.05, 0.05 * 0.94, 0.05 * 0.94**100]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_poly_schedule_with_slow_start() -> None:
    config = OptimConfig(learning_rate=0.1, end_learning_rate=0.01, slow_start_steps=10)
    rate = make_schedule(config, 110)
    values = [float(rate(jnp.asarray(t))) for t in (0, 9, 10, 60, 110, 500)]
    middle = 0.09 * 0.5**0.9 + 0.01
    np.testing.assert_allclose(values, [1e-4, 1e-4, 0.1, middle, 0.01, 0.01], rtol=1e-5)


def test_cosine_schedule_after_a_linear_warm_up() -> None:
    config = OptimConfig(
        learning_rate=0.1,
        schedule="cosine",
        end_learning_rate=0.01,
        slow_start_steps=10,
        slow_start="linear",
        slow_start_learning_rate=0.0,
    )
    rate = make_schedule(config, 110)
    values = [float(rate(jnp.asarray(t))) for t in (0, 5, 10, 35, 60, 110, 500)]
    early = 0.09 * (1 + np.cos(np.pi / 4)) / 2 + 0.01
    np.testing.assert_allclose(values, [0.0, 0.05, 0.1, early, 0.055, 0.01, 0.01], rtol=1e-5)


def test_a_constant_schedule_stays() -> None:
    rate = make_schedule(OptimConfig(learning_rate=0.1, schedule="constant"), 100)
    np.testing.assert_allclose([float(rate(jnp.asarray(t))) for t in (0, 99)], 0.1)


def toy(optimizer: optax.GradientTransformation) -> Any:
    """The parameters after some steps down |w^2 - 1|^2, each with a gradient of its own."""

    def loss(params: Any) -> Any:
        return sum(jnp.sum((x**2 - 1) ** 2) for x in jax.tree.leaves(params))

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(5):
        params, state = step(params, state)
    return params


RATE = optax.linear_schedule(0.01, 0.001, 5)
KERNELS = {  # that decay
    "backbone": {
        "unit_depthwise": {"kernel": False, "norm": {"scale": False}},
        "unit_pointwise": {"kernel": True},
    },
    "logits": {"kernel": True, "bias": False},
}


@pytest.mark.parametrize("nesterov", [False, True])
def test_adamw_is_that_of_optax(nesterov: bool) -> None:
    """Norms and biases do not decay, and biases are not twice as fast."""
    config = OptimConfig(optimizer="adamw", momentum=0.8, weight_decay=0.1, nesterov=nesterov)
    theirs = optax.adamw(RATE, 0.8, weight_decay=0.1, mask=KERNELS, nesterov=nesterov)
    ours = toy(make_optimizer(config, RATE, PARAMS))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), ours, toy(theirs))


def test_decoupled_sgd_decays_beside_the_rate() -> None:
    """optax's SGD with what MosaicML's DecoupledSGDW adds: w <- (1 - rate / base * decay) w."""
    config = OptimConfig(optimizer="decoupled_sgd", learning_rate=0.01, weight_decay=0.1)

    def shrink(updates: Any, state: Any, params: Any) -> Any:
        share = RATE(state) / 0.01 * 0.1
        shrunk = jax.tree.map(lambda u, w, k: u - share * w * k, updates, params, KERNELS)
        return shrunk, state + 1

    decay = optax.GradientTransformation(lambda _: jnp.int32(0), shrink)
    theirs = optax.chain(optax.sgd(RATE, 0.9), decay)
    ours = toy(make_optimizer(config, RATE, PARAMS))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), ours, toy(theirs))


@pytest.mark.parametrize("optimizer", ["sgd", "decoupled_sgd", "adamw"])
def test_every_optimizer_has_rates_of_groups(optimizer: Any) -> None:
    """New layers faster; a frozen backbone stays, and does not decay."""
    config = OptimConfig(optimizer=optimizer, weight_decay=0.1, new_layers_multiplier=10.0)
    once = OptimConfig(optimizer=optimizer, weight_decay=0.1)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    slow, fast = (
        tx.update(grads, tx.init(PARAMS), PARAMS)[0]
        for tx in (
            make_optimizer(c, RATE, PARAMS, freeze_backbone=c == config) for c in (once, config)
        )
    )
    assert all((x == 0).all() for x in jax.tree.leaves(fast["backbone"]))
    np.testing.assert_allclose(fast["logits"]["kernel"], 10 * slow["logits"]["kernel"], rtol=1e-6)


def test_gradients_are_clipped_by_the_norm_of_all() -> None:
    config = OptimConfig(weight_decay=0.0, momentum=0.0, clip_norm=1.0)
    tx = make_optimizer(config, optax.constant_schedule(1.0), PARAMS)
    for size, norm in ((0.01, 0.01), (1e6, 1.0)):
        grads = jax.tree.map(jnp.zeros_like, PARAMS)
        grads["backbone"]["unit_pointwise"]["kernel"] += size / 2  # of four numbers
        updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
        np.testing.assert_allclose(optax.tree.norm(updates), norm, rtol=1e-5)


def test_the_moving_average_forgets_its_start_and_then_decays_slowly() -> None:
    params, average = {"w": jnp.ones(())}, {"w": jnp.zeros(())}
    first = moving_average(average, params, 0.99, jnp.int32(0))
    late = moving_average(average, params, 0.99, jnp.int32(10_000))
    np.testing.assert_allclose([first["w"], late["w"]], [0.9, 0.01], rtol=1e-4)
