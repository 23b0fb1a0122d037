"""R17: 5,000 tiny steps, a save and an evaluation every 100: memory and open files stay flat."""

import os
import time
from pathlib import Path

import faults
import pytest
from conftest import with_workdir

from deeplab_jax import Config
from deeplab_jax.config import save_json
from deeplab_jax.reporting.metrics_file import read_metrics

pytestmark = pytest.mark.reliability

STEPS, EVERY = 5000, 100
TOLERANCE = 0.05


def memory_and_files(process: int) -> tuple[int, int]:
    """Resident bytes and open descriptors of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{process}/fd"))


def test_r17_memory_and_open_files_stay_flat(tiny_config: Config, tmp_path: Path) -> None:
    every = {"eval_every": EVERY, "checkpoint_every": EVERY, "log_every": EVERY}
    config = faults.change(tiny_config, "train", steps=STEPS, ema_decay=0.99)
    config = with_workdir(faults.change(config, "machine", **every), tmp_path / "run")
    save_json(config, tmp_path / "run.json")
    start, log = time.monotonic(), tmp_path / "run" / "metrics.jsonl"
    process = faults.start(["train.py", f"--config={tmp_path / 'run.json'}"], tmp_path / "run.txt")
    readings: list[tuple[int, int, int]] = []
    while process.poll() is None:
        time.sleep(1)
        rows = read_metrics(log) if log.exists() else []
        if rows and STEPS // 5 <= rows[-1]["step"] < STEPS and process.poll() is None:
            readings.append((rows[-1]["step"], *memory_and_files(process.pid)))
    assert process.returncode == 0, (tmp_path / "run.txt").read_text()[-2000:]
    half = len(readings) // 2
    for what, column, slack in (("memory", 1, 0), ("open files", 2, 8)):
        first, last = (
            sum(r[column] for r in part) / len(part) for part in (readings[:half], readings[half:])
        )
        print(f"\nR17: {what} {first:,.0f} -> {last:,.0f} in {time.monotonic() - start:.0f} s")
        assert last <= first * (1 + TOLERANCE) + slack
