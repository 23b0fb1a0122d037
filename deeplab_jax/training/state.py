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
    """step int32 [] counts finished updates, skipped ones too; the next four are trees of arrays.

    ema is the moving average of the variables, None without one: of BatchNorm's statistics too, as
    those of the raw parameters would not fit the averaged ones. skipped, skipped_in_a_row int32 []:
    steps whose loss or gradient was not finite, in all and just now. data_offset int32 []: steps'
    worth of data passed over by going back, so that step k trains on batch k + data_offset.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    skipped: Array
    skipped_in_a_row: Array
    data_offset: Array

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes in training."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def averaged(self) -> dict[str, Any]:
        """What is evaluated and kept: the moving average where there is one."""
        return self.variables if self.ema is None else self.ema


def init_state(
    variables: Any, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """The state before the first step."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    average = {"params": params, "batch_stats": batch_stats}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A copy: the step donates its state, and no buffer can be donated twice.
        ema=jax.tree.map(jnp.copy, average) if ema else None,
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        data_offset=jnp.zeros((), jnp.int32),
    )
