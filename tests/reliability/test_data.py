"""The batches are the same for any number of workers and hosts, and wherever they are resumed."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import faults
import numpy as np
import pytest
from synthetic import write_squares

from deeplab_jax import Config, DataConfig, MachineConfig, ModelConfig, TrainConfig
from deeplab_jax.data.batches import train_batches
from deeplab_jax.data.settle import open_split

pytestmark = pytest.mark.reliability

BATCHES, SIZE = 200, 8


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 30})
    return Config(
        model=ModelConfig(num_classes=3),
        data=DataConfig(source="folder", crop_size=(33, 49), max_scale=1.5),
        train=TrainConfig(batch_size=SIZE, seed=5),
        machine=MachineConfig(root=str(root)),
    )


def hashes(config: Config, workers: int, hosts: int, start: int, stop: int) -> Iterator[str]:
    """A digest of each global batch, put together from what the hosts read."""
    config = faults.change(config, "machine", workers=workers)
    source = open_split(config, "train")
    readers = [
        train_batches(source, config, start_step=start, host=host, hosts=hosts)
        for host in range(hosts)
    ]
    for parts in islice(zip(*readers, strict=True), stop - start):
        digest = hashlib.blake2b(digest_size=16)
        for position in range(SIZE):
            host, row = divmod(position, SIZE // hosts)
            part = parts[host]
            for name in ("image", "label", "record"):
                digest.update(np.ascontiguousarray(part[name][row]).tobytes())
        yield digest.hexdigest()


@pytest.fixture(scope="module")
def expected(config: Config) -> list[str]:
    found = list(hashes(config, workers=0, hosts=1, start=0, stop=BATCHES))
    assert len(set(found)) == BATCHES
    return found


@pytest.mark.parametrize(("workers", "hosts"), [(1, 1), (3, 1), (0, 2), (0, 4), (1, 2)])
def test_r15_workers_and_hosts_change_nothing(
    config: Config, expected: list[str], workers: int, hosts: int
) -> None:
    assert list(hashes(config, workers, hosts, 0, BATCHES)) == expected


@pytest.mark.parametrize(("workers", "hosts"), [(0, 1), (3, 1), (0, 4)])
def test_r15_resumed_in_between_they_go_on_alike(
    config: Config, expected: list[str], workers: int, hosts: int
) -> None:
    assert list(hashes(config, workers, hosts, 7, BATCHES)) == expected[7:]


def test_the_hash_does_not_hang_on_the_folder(config: Config, expected: list[str]) -> None:
    root = Path(config.machine.root)
    moved = root.rename(root.with_name("moved"))
    there = faults.change(config, "machine", root=str(moved))
    assert list(hashes(there, 0, 1, 0, 3)) == expected[:3]
    moved.rename(root)
