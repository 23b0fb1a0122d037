"""Re-estimated BatchNorm: another start for training, the same function."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from conftest import TINY_MODEL
from synthetic import random_variables

from deeplab_jax import build_model
from deeplab_jax.weights.batch_norm import reestimate_batch_norm


def test_the_function_stays_and_the_statistics_become_true() -> None:
    model = build_model(dataclasses.replace(TINY_MODEL, output_stride=32))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (2, 65, 65, 3), dtype=np.uint8) for _ in range(3)]
    folded = random_variables(TINY_MODEL)
    fresh = reestimate_batch_norm(folded, model, images)
    x = images[0].astype(np.float32)

    @jax.jit
    def forward(v: Any) -> Any:
        return model.apply(v, x, train=False)

    before = forward(folded)
    np.testing.assert_allclose(forward(fresh), before, atol=2e-5 * np.abs(before).max())
    stem = fresh["batch_stats"]["backbone"]["Conv"]["norm"]
    assert np.abs(stem["mean"]).max() > 1e-3 and np.abs(stem["var"] - 1).max() > 1e-2

    @partial(jax.jit, static_argnums=1)
    def outputs(v: Any, train: bool) -> Any:
        return model.apply(
            v,
            x,
            train=train,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        )[1]["intermediates"]["backbone"]["Conv"]["__call__"][0]

    trained, inferred = outputs(fresh, True), outputs(fresh, False)
    assert np.abs(trained - inferred).max() < 0.2 * np.abs(inferred).max()
