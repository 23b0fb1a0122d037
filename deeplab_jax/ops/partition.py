"""Where the devices that share images meet: constraints on JAX's ambient mesh, if there is one.

`parallel/mesh.py: bind_mesh` sets it. Without a mesh, or where an axis is 1, nothing here does
anything.
"""

import jax
from jax import Array
from jax.sharding import PartitionSpec as P

BATCH = ("data", "fsdp")  # the mesh's axes that the batch is split over
ROWS = "space"  # the axis that the height of images is split over


def is_split(axis: str) -> bool:
    """Whether the ambient mesh has more than one device along `axis`."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1) > 1


def constrain(x: Array, axis: str, spec: P) -> Array:
    return jax.lax.with_sharding_constraint(x, spec) if is_split(axis) else x


def split_rows(x: Array) -> Array:
    """x [b, h, ...], each device with its rows: where an image enters the network."""
    return constrain(x, ROWS, P(BATCH, ROWS))


def gather_rows(x: Array) -> Array:
    """x [b, h, ...], each device with all rows: what a resize reads, while it is small.

    The first constraint keeps it from being gathered earlier, where it might be larger.
    """
    return constrain(split_rows(x), ROWS, P(BATCH))
