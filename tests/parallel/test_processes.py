"""How a process finds out that it is one of several; tests/reliability runs two of them."""

import pytest

from deeplab_jax import UserError
from deeplab_jax.parallel.processes import find_cluster, join_cluster, read_address


def test_a_cluster_is_seen_by_what_started_it() -> None:
    assert find_cluster({"JAX_PLATFORMS": "cpu"}) is None
    assert find_cluster({"SLURM_NTASKS": "1", "JAX_PLATFORMS": "cpu"}) is None
    assert find_cluster({"SLURM_NTASKS": "4"}) == "SLURM"
    assert find_cluster({"OMPI_COMM_WORLD_SIZE": "2"}) == "Open MPI"
    assert find_cluster({"JAX_COORDINATOR_ADDRESS": "a:1"}) == "JAX_COORDINATOR_ADDRESS"


def test_an_address_is_given_whole_or_not_at_all() -> None:
    whole = {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
    }
    assert read_address(whole) == ("a:1", 2, 1)
    assert read_address({}) == (None, None, None)
    with pytest.raises(UserError, match="without JAX_PROCESS_ID"):
        read_address({k: v for k, v in whole.items() if k != "JAX_PROCESS_ID"})


def test_numbers_of_the_environment_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"SLURM_NTASKS = '2\(x2\)' in the environment"):
        find_cluster({"SLURM_NTASKS": "2(x2)"})
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        whole = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
        with pytest.raises(UserError, match=f"{name} = 'two' .* --distributed=no"):
            read_address({**whole, name: "two"})
    monkeypatch.setenv("SLURM_NTASKS", "2(x2)")
    join_cluster("no")
