"""The optimiser against its formulas, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

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


def test_the_moving_average_forgets_its_start_and_then_decays_slowly() -> None:
    params, average = {"w": jnp.ones(())}, {"w": jnp.zeros(())}
    first = moving_average(average, params, 0.99, jnp.int32(0))
    late = moving_average(average, params, 0.99, jnp.int32(10_000))
    np.testing.assert_allclose([first["w"], late["w"]], [0.9, 0.01], rtol=1e-4)
