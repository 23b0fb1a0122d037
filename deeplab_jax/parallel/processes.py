"""Several processes, one run: how they find each other, and who writes.

All of it is JAX's own: `jax.distributed` connects the processes, after which `jax.devices()` are
those of all of them, and one `jit` over their mesh is one program on all.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from deeplab_jax.errors import UserError, first_line

TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")  # a TPU VM's first chip, by generation
SECONDS = 300  # to wait for the other processes
ADDRESS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
Address = tuple[str | None, int | None, int | None]


def join_cluster(distributed: str) -> None:
    """Connect to the other processes of this run; before JAX computes anything.

    yes: as JAX finds out from the machine (TPU VM, SLURM, Open MPI, Kubernetes), or as
    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID say. auto: the same
    where `find_cluster` says that there may be others. no: this process is alone.

    Raises:
      UserError: they cannot be found, or do not all answer within five minutes.
    """
    if distributed == "no":
        return
    cluster = find_cluster(os.environ)
    if distributed == "auto" and cluster is None:
        return
    try:
        jax.distributed.initialize(*read_address(os.environ), initialization_timeout=SECONDS)
    except (RuntimeError, ValueError, LookupError, OSError) as error:
        raise UserError(
            f"the processes of {cluster or 'this cluster'} could not be connected in {SECONDS} s"
            f" ({first_line(error)}). Start the same command on every machine, or set"
            f" {', '.join(ADDRESS)}; --distributed=no runs this one alone"
        ) from error


def find_cluster(environment: Mapping[str, str]) -> str | None:
    """What starts several processes here, None if nothing is seen to."""
    if ADDRESS[0] in environment:
        return ADDRESS[0]
    for name, variable in (("SLURM", "SLURM_NTASKS"), ("Open MPI", "OMPI_COMM_WORLD_SIZE")):
        if variable in environment and read_number(environment, variable) > 1:
            return name
    if "JOBSET_NAME" in environment:
        return "a Kubernetes JobSet"
    on_tpu = any(Path(device).exists() for device in TPU_DEVICES)
    wanted = environment.get("JAX_PLATFORMS", "tpu").startswith("tpu")
    return "a TPU VM" if on_tpu and wanted else None


def read_address(environment: Mapping[str, str]) -> Address:
    """Coordinator, number of processes and which this is; None each where JAX finds them itself."""
    given = [name for name in ADDRESS if name in environment]
    if given in ([], [ADDRESS[0]]):
        return None, None, None
    if missing := [name for name in ADDRESS if name not in given]:
        raise UserError(f"{', '.join(given)} without {', '.join(missing)}")
    number, process = (read_number(environment, name) for name in ADDRESS[1:])
    return environment[ADDRESS[0]], number, process


def read_number(environment: Mapping[str, str], name: str) -> int:
    """A variable of the environment as a number; UserError names it where it is none."""
    try:
        return int(environment[name])
    except ValueError:
        found = f"{name} = {environment[name]!r} in the environment is no whole number"
        raise UserError(f"{found}; where this process is alone: --distributed=no") from None


def writes() -> bool:
    """Whether this process is the one that writes the log, the weights and the images."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Go on when every process has come here: what one writes before, all can read after."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
