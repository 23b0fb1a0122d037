"""BatchNorm and what is built of it."""

import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.models.layers import BatchNorm, ConvBN, hard_sigmoid, hard_swish


def test_batch_norm_normalises_in_training_and_uses_averages_otherwise() -> None:
    norm = BatchNorm(features=5, decay=0.9, epsilon=1e-5)
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 6, 6, 5))
    variables = norm.init(jax.random.key(1), x, train=False)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.apply(variables, x, train=False), x, atol=1e-3)


def test_batch_norm_survives_one_pixel() -> None:
    """A batch of one pooled image: variance 0, and no division by it."""
    layer = ConvBN(4)
    x = jnp.ones((1, 1, 1, 3))
    variables = layer.init(jax.random.key(0), x, train=False)
    y, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    assert np.isfinite(y).all()


def test_gates_have_the_official_factor_and_h_swish_has_a_sixth() -> None:
    x = jnp.array([-4.0, 0.0, 1.5, 4.0])
    np.testing.assert_allclose(hard_sigmoid(x), [0, 0.50001, 0.750015, 1.00002], rtol=1e-6)
    np.testing.assert_allclose(hard_swish(x), [0, 0, 1.125, 4], rtol=1e-6)
