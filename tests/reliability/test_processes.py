"""R2 for two processes of two devices: told to leave, they go on as one process of four."""

import signal
import socket
import subprocess
import time
from pathlib import Path

import faults
import numpy as np
import pytest
from conftest import with_workdir

from deeplab_jax import Config
from deeplab_jax.config import save_json
from deeplab_jax.errors import INTERRUPTED
from deeplab_jax.reporting.metrics_file import read_metrics

pytestmark = pytest.mark.reliability


def begin(config: Config, processes: int, devices: int) -> list["subprocess.Popen[bytes]"]:
    """`train.py` in so many processes of so many devices each."""
    workdir = Path(config.machine.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    save_json(config, workdir.with_suffix(".json"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    arguments = ["train.py", f"--config={workdir.with_suffix('.json')}"]
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    return [
        faults.start(
            arguments,
            workdir.with_name(f"{workdir.name}-{process}.txt"),
            devices=devices,
            environment={**cluster, "JAX_PROCESS_ID": str(process)} if processes > 1 else None,
        )
        for process in range(processes)
    ]


def said(config: Config) -> str:
    workdir = Path(config.machine.workdir)
    return "\n".join(p.read_text() for p in workdir.parent.glob(f"{workdir.name}-*.txt"))


def test_two_processes_are_interrupted_and_go_on_as_one(
    tiny_config: Config, tmp_path: Path
) -> None:
    config = faults.change(tiny_config, "train", steps=12)
    config = faults.change(config, "machine", eval_every=6, checkpoint_every=4)
    alone = with_workdir(config, tmp_path / "alone")
    two = with_workdir(alone, tmp_path / "two")
    (process,) = begin(alone, 1, 4)
    assert process.wait() == 0, said(alone)
    processes, log = begin(two, 2, 2), tmp_path / "two" / "metrics.jsonl"
    while processes[0].poll() is None and (not log.exists() or len(read_metrics(log)) < 3):
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)  # one is told, all leave after the same step
    assert [p.wait(120) for p in processes] == [INTERRUPTED] * 2, said(two)
    steps = [row["step"] for row in read_metrics(log)]
    saved = [int(p.name) for p in (tmp_path / "two" / "checkpoints").iterdir()]
    assert 3 <= max(saved) == max(steps) < 12
    (process,) = begin(two, 1, 4)
    assert process.wait() == 0, said(two)
    ours, theirs = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("two", "alone"))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for key in ("loss", "eval/miou", "eval/pixel_accuracy"):
        np.testing.assert_allclose(
            [row[key] for row in ours if key in row],
            [row[key] for row in theirs if key in row],
            rtol=1e-5,
        )
