"""Several processes, one run: how they find each other, and who writes.

All of it is JAX's own: `jax.distributed` connects the processes, after which `jax.devices()` are
those of all of them, and one `jit` over their mesh is one program on all.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from deeplab_jax.errors import UserError

TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")  # a TPU VM's first chip, by generation
SECONDS = 300  # to wait for the other processes


def join_cluster(distributed: str) -> None:
    """Connect to the other processes of this run; before JAX computes anything.

    yes: as JAX finds out from the machine (TPU VM, SLURM, Open MPI, Kubernetes), or as
    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID say. auto: the same
    where `detected` says that there may be others. no: this process is alone.

    Raises:
      UserError: they cannot be found, or do not all answer within five minutes.
    """
    if distributed == "no":
        return
    cluster = detected(os.environ)
    if distributed == "auto" and cluster is None:
        return
    try:
        jax.distributed.initialize(**addressed(os.environ), initialization_timeout=SECONDS)
    except (RuntimeError, ValueError, LookupError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the processes of {cluster or 'this cluster'} could not be connected in {SECONDS} s"
            f" ({reason}). Start the same command on every machine; or set"
            " JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID; or run this"
            " one alone by --distributed=no"
        ) from error


def detected(environment: Mapping[str, str]) -> str | None:
    """What starts several processes here, None if nothing is seen to."""
    if "JAX_COORDINATOR_ADDRESS" in environment:
        return "JAX_COORDINATOR_ADDRESS"
    for name, variable in (("SLURM", "SLURM_NTASKS"), ("Open MPI", "OMPI_COMM_WORLD_SIZE")):
        if whole_number(environment, variable, "1") > 1:
            return name
    if "JOBSET_NAME" in environment:
        return "a Kubernetes JobSet"
    on_tpu = any(Path(device).exists() for device in TPU_DEVICES)
    if on_tpu and environment.get("JAX_PLATFORMS", "tpu").startswith("tpu"):
        return "a TPU VM"
    return None


def addressed(environment: Mapping[str, str]) -> dict[str, Any]:
    """`jax.distributed.initialize`'s arguments, where the environment has them; {}: JAX's own."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if name in environment]
    if not given or given == ["JAX_COORDINATOR_ADDRESS"]:
        return {}
    if len(given) < len(names):
        missing = [name for name in names if name not in given]
        raise UserError(f"{', '.join(given)} without {', '.join(missing)}")
    return {
        "coordinator_address": environment[names[0]],
        "num_processes": whole_number(environment, names[1]),
        "process_id": whole_number(environment, names[2]),
    }


def whole_number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    """A variable of the environment as a number; UserError names it where it is none."""
    value = environment.get(name, default)
    try:
        return int(value)
    except ValueError:
        raise UserError(
            f"{name} = {value!r} in the environment is not possible: a whole number is needed; or"
            " --distributed=no, where this process is alone"
        ) from None


def writes() -> bool:
    """Whether this process is the one that writes the log, the weights and the images."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Go on when every process has come here: what one writes before, all can read after."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
