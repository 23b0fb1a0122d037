"""Workers end with their iterator, are deaf to signals, and what goes wrong in them is said."""

import dataclasses
import multiprocessing
import os
import signal
from typing import Any

import pytest

from deeplab_jax import Config
from deeplab_jax.data import batches as data_batches
from deeplab_jax.data.batches import train_batches
from deeplab_jax.data.settle import open_split
from deeplab_jax.data.source import Source
from deeplab_jax.data.workers import ReaderFailed


@pytest.fixture(scope="module")
def train_source(tiny_config: Config) -> Source:
    return open_split(tiny_config, "train")


def test_workers_end_with_the_iterator_and_a_killed_one_is_said(
    tiny_config: Config, train_source: Source
) -> None:
    machine = dataclasses.replace(tiny_config.machine, workers=1)
    config = dataclasses.replace(tiny_config, machine=machine)
    batches = train_batches(train_source, config)
    next(batches)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGTERM, signal.SIGINT):  # not for it to answer
        os.kill(worker.pid, number)
    next(batches)
    assert worker.is_alive()
    batches.close()
    assert not worker.is_alive()
    batches = train_batches(train_source, config)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(ReaderFailed, match=r"reading the data failed .*terminated unexpectedly"):
        for _ in range(100):
            next(batches)


def test_what_the_reader_raises_is_a_line_and_an_exit_code(
    tiny_config: Config, train_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a bug\nat length")

    monkeypatch.setattr(data_batches, "train_example", failing)
    with pytest.raises(ReaderFailed) as raised:
        next(train_batches(train_source, tiny_config))
    assert str(raised.value).startswith("error: reading the data failed (RuntimeError: a bug). ")
    assert isinstance(raised.value, SystemExit)  # with a text: exit code 1
