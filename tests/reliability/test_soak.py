"""R17: 5,000 tiny steps, a save and an evaluation every 100: memory and open files stay flat."""

import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest

from deeplab_jax import Config
from deeplab_jax.loop import fit
from deeplab_jax.report import read_metrics

pytestmark = pytest.mark.reliability

STEPS, EVERY = 5000, 100
TOLERANCE = 0.05


def memory_and_files() -> tuple[int, int]:
    """Resident bytes and open descriptors of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


def test_r17_memory_and_open_files_stay_flat(tiny_config: Config, tmp_path: Path) -> None:
    train = dataclasses.replace(
        tiny_config.train,
        steps=STEPS,
        eval_every=EVERY,
        checkpoint_every=EVERY,
        log_every=EVERY,
        ema_decay=0.99,
    )
    config = dataclasses.replace(tiny_config, workdir=str(tmp_path), train=train)
    readings: list[tuple[int, int, int]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            log = tmp_path / "metrics.jsonl"
            rows = read_metrics(log) if log.exists() else []
            readings.append((rows[-1]["step"] if rows else 0, *memory_and_files()))

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.monotonic()
    try:
        fit(config)
    finally:
        done.set()
        thread.join()
    settled = [r for r in readings if STEPS // 5 <= r[0] < STEPS]
    half = len(settled) // 2
    for what, column, slack in (("memory", 1, 0.0), ("open files", 2, 8.0)):
        first, last = (
            sum(r[column] for r in part) / len(part) for part in (settled[:half], settled[half:])
        )
        print(f"\nR17: {what} {first:,.0f} -> {last:,.0f} in {time.monotonic() - start:.0f} s")
        assert last <= first * (1 + TOLERANCE) + slack
