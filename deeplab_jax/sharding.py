"""Where arrays live: one mesh axis, `data`, over all devices.

The batch is split, the rest replicated. This is all that data parallelism takes: `jit` compiles the
step for the mesh, sums gradients over it and makes BatchNorm's statistics those of the global
batch. (What `pmap` and `pjit` did is now this.)
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from deeplab_jax.errors import UserError


def data_mesh(devices: list[Any] | None = None) -> Mesh:
    """A mesh of all devices (or the given ones) along `data`.

    Auto axes: the partitioner decides inside the step; under the default, Explicit,
    Flax's Dropout fails.
    """
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device: state, metrics."""
    return NamedSharding(mesh, P())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices: batches."""
    return NamedSharding(mesh, P("data"))


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """This host's part of a global batch, onto its devices."""
    sharding = over_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def check_batch_size(name: str, batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raise UserError unless the devices share the batch, or each of its parts, evenly."""
    n = mesh.size * parts
    if batch_size % n:
        in_parts = f" in {parts} parts (train.accumulate)" if parts > 1 else ""
        raise UserError(
            f"{name} = {batch_size} cannot be split over {mesh.size} devices{in_parts}: make it a"
            f" multiple of {n}, such as {-(-batch_size // n) * n}"
        )
