"""Orbax checkpoints of the training state: background saves, committed by a rename, newest kept."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from deeplab_jax.state import TrainState

KEPT = 2  # the newest and the one before it


class Checkpoints:
    """The checkpoints under a run's folder."""

    def __init__(self, directory: Path) -> None:
        policy = ocp.checkpoint_managers.LatestN(KEPT)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def newest_step(self) -> int | None:
        """The step of the newest complete checkpoint, None without any."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, step: int, state: TrainState) -> None:
        """Start saving; only the copy to the host is waited for, so `state` may be donated next."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(as_tree(state)))

    def restore(self, step: int, like: TrainState, sharding: Sharding) -> TrainState:
        """The state of a step, placed as `sharding` says; `like` gives shapes."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), as_tree(like)
        )
        tree = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return TrainState(**tree)

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def as_tree(state: TrainState) -> dict[str, Any]:
    """The state as plain containers: what Orbax stores does not depend on our class."""
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": state.opt_state,
    }
