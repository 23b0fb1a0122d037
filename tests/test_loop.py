"""A whole run: what it leaves behind, and that killing it changes nothing."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import with_workdir
from PIL import Image
from synthetic import square_picture

import deeplab_jax
from deeplab_jax import Config, UserError, loop, step
from deeplab_jax.config import save_json
from deeplab_jax.data.pipeline import open_split
from deeplab_jax.errors import INTERRUPTED
from deeplab_jax.log import Log, NumbersGoneBad
from deeplab_jax.loop import fit
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


@pytest.mark.parametrize(
    ("number", "lines"),
    [(signal.SIGKILL, 4), (signal.SIGTERM, 1)],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_an_ended_run_resumes_to_the_same_numbers(
    unbroken: Path, tiny_config: Config, tmp_path: Path, number: signal.Signals, lines: int
) -> None:
    """Ended once that many lines are logged: between checkpoints, and around an evaluation."""
    config = with_workdir(tiny_config, tmp_path / "ended")
    process, log = run(config), tmp_path / "ended" / "metrics.jsonl"
    while (
        process.poll() is None and len(log.read_text().splitlines() if log.exists() else []) < lines
    ):
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait() in (-signal.SIGKILL, INTERRUPTED)
    if number == signal.SIGTERM:  # no step is lost
        saved = max(int(p.name) for p in (tmp_path / "ended" / "checkpoints").iterdir())
        assert saved == history(tmp_path / "ended")[-1]["step"]
    assert run(config).wait() == 0
    assert history(tmp_path / "ended") == history(unbroken)
    ours, theirs = (load_weights(d).variables for d in (tmp_path / "ended", unbroken))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_tensorboard_has_the_numbers_where_it_is_installed(
    tiny_config: Config, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboardX")
    source = open_split(tiny_config.data, "train", tiny_config.model)
    with Log(tmp_path / "metrics.jsonl", 0, tiny_config, source) as log:
        log.train(1, {"loss": 2.0, "skipped_in_a_row": 0}, np.arange(8))
        log.flush()
    events = b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())
    assert b"loss" in events and b"images_per_second" in events


def test_a_folder_of_another_experiment_is_refused(unbroken: Path, tiny_config: Config) -> None:
    optim = dataclasses.replace(tiny_config.optim, learning_rate=0.5)
    other = dataclasses.replace(with_workdir(tiny_config, unbroken), optim=optim)
    with pytest.raises(UserError, match=r"optim.learning_rate: there 0.05, now 0.5"):
        fit(other)


def test_a_changed_field_or_data_set_is_accepted_on_request(
    unbroken: Path, tiny_config: Config, tmp_path: Path
) -> None:
    shutil.copytree(unbroken, tmp_path / "copy")
    config = with_workdir(tiny_config, tmp_path / "copy")
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, eval_split="train"))
    with pytest.raises(UserError, match=r"evaluation set: there '5 pairs .*, now '12 pairs"):
        fit(other)
    assert int(fit(dataclasses.replace(other, accept_changes=True)).step) == 6


def poison(monkeypatch: pytest.MonkeyPatch, positions: range) -> None:
    """Make the loss of the batches at these positions a NaN."""
    batches, augment = loop.train_batches, step.augment

    def blackened(*args: Any, start_step: int = 0, **kwargs: Any) -> Any:
        for i, batch in enumerate(batches(*args, start_step=start_step, **kwargs), start_step):
            yield batch | ({"image": np.zeros_like(batch["image"])} if i in positions else {})

    def spoiled(key: Any, image: Any, label: Any, **kwargs: Any) -> Any:
        out, label = augment(key, image, label, **kwargs)
        return jnp.where(image.max() == 0, jnp.nan, out), label

    monkeypatch.setattr(loop, "train_batches", blackened)
    monkeypatch.setattr(step, "augment", spoiled)


def test_numbers_gone_bad_are_skipped_then_stop_the_run(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = dataclasses.replace(tiny_config.train, max_bad_steps=2)
    config = dataclasses.replace(with_workdir(tiny_config, tmp_path / "run"), train=train)
    poison(monkeypatch, range(2, 3))
    state = fit(config)
    assert (int(state.step), int(state.skipped)) == (6, 1)
    (skipped,) = [row for row in history(tmp_path / "run") if "skipped" in row]
    assert skipped["step"] == 3 and len(skipped["skipped"]) == 8
    assert all(Path(name).is_file() for name in skipped["skipped"])
    poison(monkeypatch, range(1, 100))
    with pytest.raises(NumbersGoneBad, match=r"step 3: .* last 2 steps"):
        fit(with_workdir(config, tmp_path / "stopped"))


def test_going_back_passes_over_the_data_that_spoils_the_numbers(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = dataclasses.replace(tiny_config.train, max_bad_steps=2, rollback=True)
    config = dataclasses.replace(with_workdir(tiny_config, tmp_path / "run"), train=train)
    poison(monkeypatch, range(2, 4))  # of steps 3 and 4: back to step 2, on with batch 4
    state = fit(config)
    assert (int(state.step), int(state.skipped), int(state.data_offset)) == (6, 0, 2)
    assert [row["step"] for row in history(tmp_path / "run") if "loss" in row] == [*range(1, 7)]


def test_unreadable_pictures_are_ignored_and_named(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_config.data.root, root)
    for name in ("train/p01.png", "train/p05.png", "val/p03.png"):
        file = root / "images" / name
        file.write_bytes(file.read_bytes()[:200])  # the header is left
    data = dataclasses.replace(tiny_config.data, root=str(root), max_bad_records=2)
    config = dataclasses.replace(with_workdir(tiny_config, tmp_path / "run"), data=data)
    with pytest.raises(UserError, match=r"p01\.png"):  # found before the first step
        fit(config)
    monkeypatch.setattr(loop, "check_source", lambda source: None)  # as if not among the samples
    fit(config)
    numbers = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert numbers["unreadable"] == [str(root / "images" / "val" / "p03.png")]


def test_a_batch_that_the_devices_cannot_share_is_refused(tiny_config: Config) -> None:
    train = dataclasses.replace(tiny_config.train, batch_size=6)
    with pytest.raises(UserError, match=r"train.batch_size = 6 .* 8 devices"):
        fit(dataclasses.replace(tiny_config, train=train))


def test_pretrained_weights_of_another_class_count(unbroken: Path, tiny_config: Config) -> None:
    from deeplab_jax.loop import initial_variables

    model = dataclasses.replace(tiny_config.model, num_classes=4)
    config = dataclasses.replace(tiny_config, model=model, pretrained=str(unbroken))
    with pytest.raises(UserError, match="--pretrained_logits=False"):
        initial_variables(config, None)  # type: ignore[arg-type]
    config = dataclasses.replace(config, pretrained_logits=False)
    variables = initial_variables(config, None)  # type: ignore[arg-type]
    theirs = load_weights(unbroken).variables
    assert variables["params"]["logits"]["bias"].shape == (4,)
    jax.tree.map(
        np.testing.assert_array_equal,
        variables["params"]["backbone"],
        theirs["params"]["backbone"],
    )
