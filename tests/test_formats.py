"""A run and a folder of weights from before model.json load, resume, evaluate and predict."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deeplab_jax
from deeplab_jax import AugmentConfig, UserError
from deeplab_jax.config import Config, load_json, save_json, to_dict
from deeplab_jax.config.formats import FORMAT, present

OLD = Path(__file__).parent / "fixtures" / "format_0"
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, stopped at step 30 of 60, in the folder it was made in."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "old"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which has one device."""
    command = [sys.executable, "-m", "deeplab_jax", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        command, cwd=folder.parent, env=environment, capture_output=True, text=True
    )


def metrics(folder: Path) -> dict[tuple[int, str], float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {(line["step"], k): v for line in lines for k, v in line.items()}


def test_an_old_run_resumes(old: Path) -> None:
    """With other intervals, evaluation batch and number of images shown: these are free."""
    changes = ("--train.log_every=1", "--eval.batch_size=1", "--machine.hang_seconds=0")
    done = run(old, "train", "--config=old/run/config.json", "--eval.pictures=1", *changes)
    assert done.returncode == 0, done.stderr
    found = metrics(old / "run")
    for line in EXPECTED["metrics"]:
        for name, value in line.items():
            assert found[line["step"], name] == pytest.approx(value, rel=0.05), (line, name)
    first = next(line for line in EXPECTED["metrics"] if line["step"] == 35)
    assert found[35, "loss"] == pytest.approx(first["loss"], rel=1e-3)
    assert (old / "run" / "best" / "model.json").is_file()


def test_an_old_run_is_held_to_its_recipe(old: Path) -> None:
    done = run(old, "train", "--config=old/run/config.json", "--optim.learning_rate=0.2")
    assert done.returncode == 2
    assert "optim.learning_rate: there 0.1, now 0.2" in done.stderr


def test_old_weights_predict(old: Path) -> None:
    network = deeplab_jax.load(old / "run")
    assert network.task.eval_size == (49, 65) and network.class_names == ("floor", "box", "ball")
    image = np.asarray(Image.open(old / "data" / "images" / "val" / "0.png"))
    counts = np.bincount(network.predict(image).ravel(), minlength=3)
    assert np.abs(counts - EXPECTED["predicted"]["labels"]).max() <= 2
    shares = network.predict(image, probabilities=True).mean((0, 1))
    np.testing.assert_allclose(shares, EXPECTED["predicted"]["probabilities"], atol=1e-4)


def test_old_weights_are_evaluated(old: Path) -> None:
    wanted = EXPECTED["metrics"][0]
    done = run(old, "evaluate", "--weights", "old/run")
    assert wanted["step"] == 30 and f"mIoU {100 * wanted['eval/miou']:.2f} %" in done.stdout


def test_a_configuration_comes_back(tmp_path: Path) -> None:
    config = load_json(OLD / "run" / "config.json")
    save_json(config, tmp_path / "config.json")
    assert load_json(tmp_path / "config.json") == config
    assert json.loads((tmp_path / "config.json").read_text())["format"] == FORMAT


def test_an_old_classifier_is_evaluated_at_the_size_of_its_crops() -> None:
    """Where format 0 had None; so its run resumes, and its folder of weights predicts as before."""
    old = {"model.head": "classifier", "data.source": "imagenet2012", "data.eval_size": None}
    assert present({**old, "data.crop_size": [299, 299]})["task.eval_size"] == [299, 299]
    kept = present({**old, "data.crop_size": [299, 299], "data.eval_size": [224, 224]})
    assert kept["task.eval_size"] == [224, 224]
    assert present({**old, "model.head": "unet"})["task.eval_size"] is None


def test_what_was_augmented_by_the_data_section_is_by_its_own(tmp_path: Path) -> None:
    values = {"format": 1, "data": {"flip": False, "photometric": 0.25, "min_scale": 0.75}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = load_json(tmp_path / "config.json")
    assert (config.augment, config.data.min_scale) == (AugmentConfig(False, photometric=0.25), 0.75)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    values = {"format": FORMAT + 1, **to_dict(Config())}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"format = 2: .*update deeplab_jax"):
        load_json(tmp_path / "config.json")
