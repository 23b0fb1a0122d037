"""As many steps as fit into a time: measured once, and kept."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from conftest import with_workdir

from deeplab_jax import Config, UserError
from deeplab_jax.config import load_json
from deeplab_jax.config.recipe import to_seconds
from deeplab_jax.data.settle import open_split
from deeplab_jax.data.workers import ReaderFailed
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.training import budget, loop
from deeplab_jax.training.budget import choose_by_time, measure_evaluation, measure_steps
from deeplab_jax.training.loop import fit
from deeplab_jax.weights.files import load_weights


@pytest.fixture
def timed(tiny_config: Config, tmp_path: Path) -> Config:
    """The tiny experiment for 60 seconds, with an evaluation every third step."""
    train = dataclasses.replace(tiny_config.train, time="1min", steps=None)
    return dataclasses.replace(with_workdir(tiny_config, tmp_path / "run"), train=train)


def set_clock(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Measures that take no time: 10 s to compile, so much a step, 6 s an evaluation."""
    monkeypatch.setattr(budget, "measure_steps", lambda *_: (10.0, step))
    monkeypatch.setattr(budget, "measure_evaluation", lambda *_: 6.0)
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.mark.parametrize(
    ("time", "seconds"), [("2h", 7200), ("90min", 5400), ("1h30m", 5400), ("0.5h10s", 1810)]
)
def test_how_a_time_is_written(time: str, seconds: float) -> None:
    assert to_seconds(time) == seconds


@pytest.mark.parametrize("time", ["2", "h", "2 h", "-1h", "1.5.2h", "1s2h", "0s"])
def test_how_a_time_is_not_written(time: str, tiny_config: Config) -> None:
    with pytest.raises(UserError, match=rf"train.time = '{time}' .* such as 2h"):
        dataclasses.replace(tiny_config.train, time=time)


def test_steps_and_their_evaluations_fill_the_time(
    timed: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, mesh = open_split(timed, "train"), device_mesh()
    set_clock(monkeypatch, 2.0)
    (choice,) = choose_by_time(timed, source, source, mesh).values()
    assert choice.value == (60 - 10 - 2 * 6) // (2 + 6 / 3)
    assert choice.reason == "1min: 2 s a step, 6 s an evaluation, 10 s to compile"
    set_clock(monkeypatch, 100.0)
    with pytest.raises(UserError, match=r"train.time = 1min is too short for a step: 100 s a step"):
        choose_by_time(timed, source, source, mesh)


def test_what_is_measured_takes_time(timed: Config) -> None:
    source, mesh = open_split(timed, "train"), device_mesh((1, 1, 1), jax.devices()[:1])
    compiling, step = measure_steps(timed, source, mesh)
    assert compiling > step > 0
    assert measure_evaluation(timed, source, mesh) > 0


def test_a_run_that_was_ended_goes_on_with_the_steps_that_it_chose(
    timed: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the machine is another now: before its first checkpoint too, and bit for bit."""
    set_clock(monkeypatch, 4.0)
    unbroken = with_workdir(timed, tmp_path / "unbroken")
    fit(unbroken)
    batches, left = loop.train_batches, [1, 3, 100]

    def ending(*args: Any, **kwargs: Any) -> Iterator[Any]:
        read = batches(*args, **kwargs)
        for _ in range(left.pop(0)):
            yield next(read)
        raise ReaderFailed("error: a worker is gone")

    monkeypatch.setattr(loop, "train_batches", ending)
    monkeypatch.setattr(loop, "save_what_there_is", lambda *_: None)  # as where it is killed
    for step in (4.0, 1.0):
        set_clock(monkeypatch, step)
        with pytest.raises(ReaderFailed):
            fit(timed)
    set_clock(monkeypatch, 0.5)
    fit(timed)
    ours, theirs = (load_json(tmp_path / name / "config.json") for name in ("run", "unbroken"))
    assert ours.train == theirs.train and ours.train.steps == 6
    weights = (load_weights(tmp_path / name).variables for name in ("run", "unbroken"))
    jax.tree.map(np.testing.assert_array_equal, *weights)
