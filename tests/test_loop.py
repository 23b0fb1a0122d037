"""A whole run: what it leaves behind, and that killing it changes nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import with_workdir
from PIL import Image
from synthetic import square_picture

import deeplab_jax
from deeplab_jax import Config, UserError
from deeplab_jax.config import save_json
from deeplab_jax.loop import Log, fit
from deeplab_jax.report import read_metrics
from deeplab_jax.weights.files import load_weights

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def unbroken(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("unbroken")
    run(with_workdir(tiny_config, workdir)).wait()
    return workdir


def run(config: Config) -> "subprocess.Popen[bytes]":
    """`train.py` in a process of its own, on one device."""
    Path(config.workdir).mkdir(parents=True, exist_ok=True)
    file = Path(config.workdir).with_suffix(".json")
    save_json(config, file)
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, str(ROOT / "train.py"), f"--config={file}"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def history(workdir: Path) -> list[dict[str, Any]]:
    rows = read_metrics(workdir / "metrics.jsonl")
    timings = ("images_per_second", "data_wait")
    return [{k: v for k, v in row.items() if k not in timings} for row in rows]


def test_a_run_leaves_its_weights_numbers_and_pictures(unbroken: Path, tiny_config: Config) -> None:
    steps = [row["step"] for row in history(unbroken) if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in history(unbroken) if "eval/miou" in row] == [3, 6]
    with Image.open(unbroken / "evaluation" / "predictions.png") as picture:
        assert picture.size[0] > 100
    page = (unbroken / "report.html").read_text()
    assert page.count("data:image/") == 4 * tiny_config.eval.pictures
    table = (unbroken / "evaluation" / "per_class.txt").read_text()
    assert "red" in table and "mean" in table
    numbers = json.loads((unbroken / "evaluation" / "evaluation.json").read_text())
    best = max(row["eval/miou"] for row in history(unbroken) if "eval/miou" in row)
    assert numbers["eval/miou"] == best
    image, _ = square_picture(0)
    assert deeplab_jax.load(unbroken).predict(image).shape == image.shape[:2]


@pytest.mark.parametrize("lines", [1, 4, 7])
def test_a_killed_run_ends_with_the_same_numbers(
    unbroken: Path, tiny_config: Config, tmp_path: Path, lines: int
) -> None:
    """kill -9 once that many lines are logged: between checkpoints, and around an evaluation."""
    config = with_workdir(tiny_config, tmp_path / "killed")
    process, log = run(config), tmp_path / "killed" / "metrics.jsonl"
    while (
        process.poll() is None and len(log.read_text().splitlines() if log.exists() else []) < lines
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(config).wait() == 0
    assert history(tmp_path / "killed") == history(unbroken)
    ours, theirs = (load_weights(d).variables for d in (tmp_path / "killed", unbroken))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_tensorboard_has_the_numbers_where_it_is_installed(
    tiny_config: Config, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboardX")
    with Log(tmp_path / "metrics.jsonl", 0, tiny_config) as log:
        log.train(1, {"loss": 2.0})
        log.flush()
    events = b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())
    assert b"loss" in events and b"images_per_second" in events


def test_a_folder_of_another_experiment_is_refused(unbroken: Path, tiny_config: Config) -> None:
    optim = dataclasses.replace(tiny_config.optim, learning_rate=0.5)
    other = dataclasses.replace(with_workdir(tiny_config, unbroken), optim=optim)
    with pytest.raises(UserError, match=r"optim.learning_rate: there 0.05, now 0.5"):
        fit(other)


def test_a_batch_that_the_devices_cannot_share_is_refused(tiny_config: Config) -> None:
    train = dataclasses.replace(tiny_config.train, batch_size=6)
    with pytest.raises(UserError, match=r"train.batch_size = 6 .* 8 devices"):
        fit(dataclasses.replace(tiny_config, train=train))


def test_pretrained_weights_of_another_class_count(unbroken: Path, tiny_config: Config) -> None:
    from deeplab_jax.loop import initial_variables

    model = dataclasses.replace(tiny_config.model, num_classes=4)
    config = dataclasses.replace(tiny_config, model=model, pretrained=str(unbroken))
    with pytest.raises(UserError, match="--pretrained_logits=False"):
        initial_variables(config, None, fresh=True)  # type: ignore[arg-type]
    variables = initial_variables(
        dataclasses.replace(config, pretrained_logits=False),
        None,
        fresh=True,  # type: ignore[arg-type]
    )
    theirs = load_weights(unbroken).variables
    assert variables["params"]["logits"]["bias"].shape == (4,)
    jax.tree.map(
        np.testing.assert_array_equal,
        variables["params"]["backbone"],
        theirs["params"]["backbone"],
    )
