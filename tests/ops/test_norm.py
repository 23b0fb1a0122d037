"""Batch normalisation's own backward pass."""

import chex
import jax
import jax.numpy as jnp
import pytest

from deeplab_jax.ops.norm import batch_norm


@pytest.mark.gpu
def test_batch_norms_own_gradient_is_autodiffs() -> None:
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 6, 4))
    scale, bias = jnp.array([1.0, 2.0, -0.5, 0.1]), jnp.arange(4.0)
    dy = jax.random.normal(jax.random.key(1), x.shape)

    def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return jnp.sum(dy * ((x - mean) / jnp.sqrt(var + 1e-3) * scale + bias))

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.sum(dy * batch_norm(x, scale, bias, 1e-3)[0])

    want = jax.jit(jax.grad(plain, (0, 1, 2)))(x, scale, bias)
    chex.assert_trees_all_close(jax.jit(jax.grad(ours, (0, 1, 2)))(x, scale, bias), want, atol=1e-4)
