"""Signals to a run and its worker processes, killed workers, two runs at once.

A terminal's Ctrl-C and a cluster's SIGTERM go to every process of a run, also to those that decode.
"""

import os
import random
import signal
import time
from pathlib import Path

import faults
import pytest
from conftest import with_workdir
from test_survival import Moment, assert_same_run, begin, config, history, said, unbroken

from deeplab_jax import Config
from deeplab_jax.errors import INTERRUPTED

__all__ = ["config", "unbroken"]  # fixtures

pytestmark = pytest.mark.reliability

MOMENTS = ["start-up", "step", "save", "evaluate"] * 5


def with_workers(config: Config, folder: Path, workers: int) -> Config:
    return with_workdir(faults.change(config, "machine", workers=workers), folder)


def members(session: int) -> list[int]:
    """The processes of a session, but for zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, theirs = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(theirs) == session and state != "Z":
            found.append(int(entry.name))
    return found


def decoders(session: int) -> list[int]:
    """The worker processes of a run."""
    found = []
    for process in members(session):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.append(process)
    return found


def ended(session: int) -> bool:
    """Whether every process of a run is gone, soon after its first."""
    for _ in range(300):
        if not members(session):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_signals_to_all_processes_of_a_run(
    config: Config, unbroken: Path, tmp_path: Path, workers: int
) -> None:
    """Ten moments each: no step lost, no process left, the same numbers."""
    rng, folder = random.Random(workers), tmp_path / "interrupted"
    config = with_workers(config, folder, workers)
    for i, phase in enumerate(rng.sample(MOMENTS, len(MOMENTS) // 2)):
        number = (signal.SIGINT, signal.SIGTERM)[i % 2]
        process = begin(config)
        assert faults.wait_for(process, Moment(phase, folder, rng), 300), (phase, said(config))
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(process.pid, number)
        code = process.wait(120)
        too_early = phase == "start-up" and code == -number  # for Python to listen
        assert code == INTERRUPTED or too_early, (phase, number, said(config)[-2000:])
        assert ended(process.pid)
        saved = [int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
        logged = [row["step"] for row in history(folder)]
        assert max(saved, default=0) == max(logged, default=0), (phase, number)
    assert begin(config).wait() == 0
    print(f"\n{workers} workers: {i + 1} signals to all processes, no step lost, equal")
    assert_same_run(folder, unbroken)


def test_a_killed_worker_costs_no_step(config: Config, unbroken: Path, tmp_path: Path) -> None:
    """As the system does when memory is short: one message, what there is is saved."""
    folder = tmp_path / "killed"
    config = with_workers(config, folder, 2)
    for phase in ("step", "evaluate", "save"):
        process, rng = begin(config), random.Random(phase)
        assert faults.wait_for(process, Moment(phase, folder, rng), 300), said(config)
        os.kill(rng.choice(decoders(process.pid)), signal.SIGKILL)
        assert process.wait(120) == 1, said(config)[-2000:]
        assert ended(process.pid)
        saved = [int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
        assert max(saved) == max(row["step"] for row in history(folder))
    text = said(config)
    assert text.count("reading the data failed") == 3 and "Traceback" not in text
    assert begin(config).wait() == 0
    assert_same_run(folder, unbroken)


def test_a_killed_run_leaves_no_worker(config: Config, tmp_path: Path) -> None:
    config = with_workers(config, tmp_path / "killed", 2)
    process = begin(config)
    assert faults.wait_for(process, lambda: len(history(tmp_path / "killed")) > 2, 300)
    assert decoders(process.pid)
    assert faults.end(process, signal.SIGKILL) == -signal.SIGKILL
    assert ended(process.pid)


def test_two_runs_in_one_folder(config: Config, unbroken: Path, tmp_path: Path) -> None:
    """The second is refused at once, the first does not notice; a killed one is in nobody's way."""
    folder = tmp_path / "shared"
    config = with_workdir(config, folder)
    first = begin(config)
    assert faults.wait_for(first, lambda: len(history(folder)) > 2, 300), said(config)
    for _ in range(3):
        assert begin(config).wait(60) == 2
    assert said(config).count(f"process {first.pid} on ") == 3
    assert faults.end(first, signal.SIGKILL) == -signal.SIGKILL
    assert begin(config).wait() == 0
    assert "Traceback" not in said(config)
    assert_same_run(folder, unbroken)
