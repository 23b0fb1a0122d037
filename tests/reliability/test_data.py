"""The batches are the same for any number of workers and hosts, and wherever they are resumed."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from synthetic import write_squares

from deeplab_jax import DataConfig, ModelConfig
from deeplab_jax.data.batches import train_batches
from deeplab_jax.data.settle import open_split

pytestmark = pytest.mark.reliability

BATCHES, SIZE = 200, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 30})
    return DataConfig(source="folder", root=str(root), crop_size=(33, 49), max_scale=1.5)


def hashes(data: DataConfig, workers: int, hosts: int, start: int, stop: int) -> Iterator[str]:
    """A digest of each global batch, put together from what the hosts read."""
    source = open_split(data, "train", ModelConfig(num_classes=3))
    data = DataConfig(**{**vars(data), "workers": workers})
    readers = [
        train_batches(
            source, data, batch_size=SIZE, seed=5, start_step=start, host=host, hosts=hosts
        )
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
def expected(data: DataConfig) -> list[str]:
    found = list(hashes(data, workers=0, hosts=1, start=0, stop=BATCHES))
    assert len(set(found)) == BATCHES
    return found


@pytest.mark.parametrize(("workers", "hosts"), [(1, 1), (3, 1), (0, 2), (0, 4), (1, 2)])
def test_r15_workers_and_hosts_change_nothing(
    data: DataConfig, expected: list[str], workers: int, hosts: int
) -> None:
    assert list(hashes(data, workers, hosts, 0, BATCHES)) == expected


@pytest.mark.parametrize(("workers", "hosts"), [(0, 1), (3, 1), (0, 4)])
def test_r15_resumed_in_between_they_go_on_alike(
    data: DataConfig, expected: list[str], workers: int, hosts: int
) -> None:
    assert list(hashes(data, workers, hosts, 7, BATCHES)) == expected[7:]


def test_the_hash_does_not_hang_on_the_folder(data: DataConfig, expected: list[str]) -> None:
    moved = Path(machine.root).with_name("moved")
    Path(machine.root).rename(moved)
    there = DataConfig(**{**vars(data), "root": str(moved)})
    assert list(hashes(there, 0, 1, 0, 3)) == expected[:3]
    moved.rename(machine.root)
