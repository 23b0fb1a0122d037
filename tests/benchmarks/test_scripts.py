"""What the benchmarks ask of the package is there: their imports and their configurations."""

import importlib
from pathlib import Path

import pytest

from benchmarks import growth, networks, peers
from deeplab_jax.config import load_config_file

SCRIPTS = sorted(p.stem for p in Path(growth.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_be_imported(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def test_configurations_can_be_made() -> None:
    config = growth.config_of(growth.BASE._replace(devices=4, space=4))
    assert (config.train.batch_size, config.mesh.space) == (16, 4)
    assert len({peers.model_config(name) for name in peers.NETWORKS}) == len(peers.NETWORKS)
    assert len(networks.networks(load_config_file("scenes").model)) == 5
