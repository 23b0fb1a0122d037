"""What training carries from step to step: arrays, no functions."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, Mesh

from deeplab_jax.config import Config
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.parallel.mesh import fsdp_shardings, place
from deeplab_jax.training.optim import make_optimizer, make_schedule


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


def init_state(config: Config, variables: Any) -> TrainState:
    """The state before the first step of a run that starts from `variables`."""
    schedule = make_schedule(config.optim, config.train.length)
    optimizer = make_optimizer(config.optim, schedule, variables["params"])
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        # A copy: the step donates its state, and no buffer can be donated twice.
        ema=jax.tree.map(jnp.copy, variables) if config.train.ema_decay > 0 else None,
        skipped=jnp.int32(0),
        skipped_in_a_row=jnp.int32(0),
        data_offset=jnp.int32(0),
    )


def fresh_state(config: Config, variables: Any, mesh: Mesh) -> TrainState:
    """`init_state`, on the mesh's devices."""
    return place(init_state(config, variables), mesh)


def abstract_state(config: Config, mesh: Mesh | AbstractMesh) -> TrainState:
    """`fresh_state` as shapes, types and places: nothing is computed or allocated."""
    variables = abstract_variables(config.model)
    state: TrainState = jax.eval_shape(partial(init_state, config), variables)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        state,
        fsdp_shardings(state, mesh),
    )
