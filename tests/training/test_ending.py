"""Where a run ends before its last step, and what it says of that."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from conftest import with_workdir

from deeplab_jax import Config, MachineConfig, OptimConfig, TrainConfig
from deeplab_jax.reporting.metrics_file import read_metrics
from deeplab_jax.training.ending import early_end
from deeplab_jax.training.loop import fit


@pytest.mark.parametrize(
    ("scores", "patience", "ends"),
    [
        ({}, 1, False),
        ({10: 0.5}, 1, False),
        ({10: 0.5, 20: 0.4}, 1, True),
        ({20: 0.5, 10: 0.5}, 1, True),  # equal is no gain, and order is that of the steps
        ({10: 0.5, 20: 0.4, 30: 0.6}, 1, False),
        ({10: 0.5, 20: 0.4, 30: 0.3}, 3, False),
        ({10: 0.5, 20: float("-inf"), 30: 0.5}, 2, True),
        ({10: 0.5, 20: 0.4, 30: 0.3}, 0, False),
        ({90: 0.5, 100: 0.4}, 1, False),  # the last step is no early end
    ],
)
def test_a_run_ends_after_evaluations_without_gain(
    scores: dict[int, float], patience: int, ends: bool
) -> None:
    config = Config(
        machine=MachineConfig(patience=patience),
        train=TrainConfig(steps=100),
        optim=OptimConfig(learning_rate=0.1, power=1.0),
    )
    said = early_end(config, scores, max(scores, default=0))
    assert bool(said) == ends
    if scores.keys() == {10, 20} and ends:
        assert "step 20 of 100: 1 evaluations after that of step 10" in said
        assert "80 steps" in said and "from 0.08 to 0.001" in said


def test_what_was_cut_stands_in_the_report_until_the_run_goes_on(
    tiny_config: Config, tmp_path: Path
) -> None:
    def run(patience: int) -> list[dict[str, Any]]:
        machine = with_workdir(tiny_config, tmp_path / "run").machine
        machine = dataclasses.replace(machine, patience=patience, eval_every=1)
        # Nothing that changes the network, and so no gain.
        train = dataclasses.replace(tiny_config.train, freeze_batch_norm=True)
        optim = dataclasses.replace(tiny_config.optim, learning_rate=1e-12)
        fit(dataclasses.replace(tiny_config, machine=machine, train=train, optim=optim))
        return read_metrics(tmp_path / "run" / "metrics.jsonl")

    for _ in range(2):  # the same command again ends at once
        rows = run(patience=2)
        assert [row["step"] for row in rows if "eval/miou" in row] == [1, 2, 3]
        assert [row["step"] for row in rows if "ended" in row] == [3]
        assert "ended at step 3 of 6" in (tmp_path / "run" / "report.html").read_text()
    assert [row["step"] for row in run(patience=0) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert "ended at step" not in (tmp_path / "run" / "report.html").read_text()
