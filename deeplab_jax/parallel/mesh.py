"""Where arrays live: a mesh of devices with three axes, each of which may be 1.

data   the batch is split: each device has images of its own.
fsdp   the batch is split here too; and so are parameters, optimiser and moving average, each along
       its longest axis. A device gathers the parameters for a step and updates its own part.
space  the height of every image is split, for images that are too large for one device.

This is all that parallelism takes: `jit` compiles the step for the mesh, and XLA's partitioner
writes the communication. It sums gradients over all devices, makes BatchNorm's statistics those of
the global batch, and lets neighbours along `space` exchange the rows that a convolution's window
reaches over to. A height that does not divide gives the last devices fewer rows: the partitioner
masks what they lack, out of every sum. (What `pmap` and `pjit` did is now this.)
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from deeplab_jax.errors import UserError
from deeplab_jax.ops.partition import BATCH, ROWS, constrain

AXES = (*BATCH, ROWS)  # in this order, devices that share an image are neighbours
Shape = tuple[int | None, int, int]


def device_mesh(shape: Shape = (None, 1, 1), devices: list[Any] | None = None) -> Mesh:
    """A mesh of all devices, or the given ones; `data` None: as many as the other axes leave.

    Auto axes: the partitioner decides inside the step; under the default, Explicit,
    Flax's Dropout fails.

    Raises:
      UserError: the axes do not multiply to the number of devices, or those are of several slices.
    """
    devices = devices or jax.devices()
    sizes = abstract_mesh(shape, len(devices)).axis_sizes
    # Of TPUs alone: hosts of GPUs may be called slices too.
    slices = {getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}
    if len(slices) > 1:
        raise UserError(f"a run takes the chips of one TPU slice; these are of {len(slices)}")
    # jax.make_mesh refuses what would split an axis of the torus: space 4 on 8x8 chips of a v6e.
    grid = create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(shape: Shape, devices: int) -> AbstractMesh:
    """The mesh of so many devices, without the devices.

    Raises:
      UserError: the axes do not multiply to their number.
    """
    data, fsdp, space = shape
    data = devices // (fsdp * space) if data is None else data
    if data * fsdp * space != devices:
        raise UserError(
            f"mesh.data x mesh.fsdp x mesh.space = {data} x {fsdp} x {space} cannot be made of"
            f" {devices} devices: their product must be {devices}"
        )
    return AbstractMesh((data, fsdp, space), AXES)


# ---- where what comes into a step and leaves it lies


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The whole array on every device: metrics, counters."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices, but for those that share its images.

    A batch comes so: as bytes, whole images are small beside what is computed from a part.
    """
    return NamedSharding(mesh, P(BATCH))


def fsdp_shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A sharding for each array of a state or of variables: a kernel's longest axis over `fsdp`.

    A kernel without an axis that divides, and what is no kernel and small, is whole on every
    device.
    """

    def where(x: Any) -> NamedSharding:
        n = mesh.shape["fsdp"]
        axes = [axis for axis, size in enumerate(x.shape) if size % n == 0]
        if n == 1 or x.ndim < 2 or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, P(*[None] * longest, "fsdp"))

    return jax.tree.map(where, tree)


def place(tree: Any, mesh: Mesh) -> Any:
    """A state or variables, onto the devices as `fsdp_shardings` says."""
    return jax.device_put(tree, fsdp_shardings(tree, mesh))


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """This host's part of a global batch, onto its devices."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def check_batch_size(name: str, batch_size: int, mesh: Mesh | AbstractMesh, parts: int = 1) -> None:
    """Raise UserError unless the devices share the batch, or each of its parts, evenly."""
    shares = batch_shares(mesh)
    n = shares * parts
    if batch_size % n:
        in_parts = f" in {parts} parts (train.accumulate)" if parts > 1 else ""
        space = mesh.shape["space"]
        together = f", {space} to an image (mesh.space)" if space > 1 else ""
        raise UserError(
            f"{name} = {batch_size} cannot be split over {mesh.size} devices{together}{in_parts}:"
            f" make it a multiple of {n}, such as {-(-batch_size // n) * n}"
        )


def batch_shares(mesh: Mesh | AbstractMesh) -> int:
    """Parts that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def host_share(mesh: Mesh) -> tuple[int, int]:
    """(i, n): of n equal parts of a batch this process's devices take part i.

    Processes whose devices share images take the same part.

    Raises:
      UserError: its devices have no part that is one of n.
    """
    shares = batch_shares(mesh)
    places = batch_sharding(mesh).addressable_devices_indices_map((shares,)).values()
    rows = sorted({place[0].indices(shares)[0] for place in places if place is not None})
    first, count = rows[0], len(rows)
    if rows != list(range(first, first + count)) or first % count or shares % count:
        raise UserError(
            f"mesh.space = {mesh.shape['space']} spreads images unevenly over the processes: make"
            " it a divisor or a multiple of the devices of each"
        )
    return first // count, shares // count


def fetch_whole(tree: Any) -> Any:
    """The arrays of a state or of variables, whole, as NumPy's; every process must call it."""

    def whole(x: Any) -> np.ndarray:
        if isinstance(x, Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return np.asarray(x)

    return jax.tree.map(whole, tree)


# ---- inside a step


def bind_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function`, traced so that those below know the mesh."""

    @wraps(function)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def gather_parameters(tree: Any) -> Any:
    """Parameters, whole on each device."""
    return jax.tree.map(lambda x: constrain(x, "fsdp", P()), tree)
