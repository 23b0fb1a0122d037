"""How a process finds out that it is one of several; tests/reliability runs two of them."""

import pytest

from deeplab_jax import UserError
from deeplab_jax.parallel.processes import addressed, detected, join_cluster


def test_a_cluster_is_seen_by_what_started_it() -> None:
    assert detected({"JAX_PLATFORMS": "cpu"}) is None
    assert detected({"SLURM_NTASKS": "1", "JAX_PLATFORMS": "cpu"}) is None
    assert detected({"SLURM_NTASKS": "4"}) == "SLURM"
    assert detected({"OMPI_COMM_WORLD_SIZE": "2"}) == "Open MPI"
    assert detected({"JAX_COORDINATOR_ADDRESS": "a:1"}) == "JAX_COORDINATOR_ADDRESS"


def test_an_address_is_given_whole_or_not_at_all() -> None:
    whole = {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
    }
    assert addressed(whole) == {
        "coordinator_address": "a:1",
        "num_processes": 2,
        "process_id": 1,
    }
    assert addressed({}) == {}
    with pytest.raises(UserError, match="without JAX_PROCESS_ID"):
        addressed({k: v for k, v in whole.items() if k != "JAX_PROCESS_ID"})


def test_numbers_of_the_environment_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"SLURM_NTASKS = '2\(x2\)' in the environment"):
        detected({"SLURM_NTASKS": "2(x2)"})
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        whole = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
        with pytest.raises(UserError, match=f"{name} = 'two' .* --distributed=no"):
            addressed({**whole, name: "two"})
    monkeypatch.setenv("SLURM_NTASKS", "2(x2)")
    join_cluster("no")
