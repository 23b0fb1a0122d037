"""Thousands of damaged checkpoints: the same arrays, or the checkpoint before, never others."""

import shutil
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from mutate import damage
from training.test_checkpoint import EXPERIMENT, saved, state_at

from deeplab_jax.training.checkpoint import Checkpoints

pytestmark = [
    pytest.mark.reliability,
    # Where a restore fails, what Orbax was still reading finds its event loop closed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

INPUTS = 2000


def test_damaged_checkpoints(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole")
    files = [p.relative_to(whole) for p in (whole / "20").rglob("*") if p.is_file()]
    outcomes: Counter[str] = Counter()
    worst = 0.0
    for seed in range(INPUTS):
        rng = np.random.default_rng(seed)
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        for file in rng.choice(np.array(files, object), size=int(rng.integers(1, 3))):
            (folder / file).write_bytes(damage((folder / file).read_bytes(), rng))
        start = time.perf_counter()
        with Checkpoints(folder, EXPERIMENT) as checkpoints:
            found = checkpoints.restore_newest(state_at(0))
        worst = max(worst, time.perf_counter() - start)
        assert found is not None, f"seed {seed}"
        step, state = found
        aside = (folder / "20.damaged").exists()
        assert step == (10 if aside else 20), f"seed {seed}"
        jax.tree.map(np.testing.assert_array_equal, state, state_at(step))
        outcomes["the one before" if aside else "the same arrays"] += 1
    print(f"\n{INPUTS} damaged checkpoints: {dict(outcomes)}, slowest {worst:.2f} s")
