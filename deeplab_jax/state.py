"""What training carries from step to step: arrays, no functions."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """step int32 [] counts finished updates; the rest are trees of arrays."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(variables: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    params = variables["params"]
    return TrainState(
        jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params)
    )
