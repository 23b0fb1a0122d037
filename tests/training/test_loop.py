"""A whole run: what it leaves behind, and that killing it changes nothing."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import with_workdir
from PIL import Image
from synthetic import square_image

import deeplab_jax
from deeplab_jax import Config, UserError
from deeplab_jax.config import from_dict, save_json
from deeplab_jax.data.settle import open_split
from deeplab_jax.data.workers import ReaderFailed
from deeplab_jax.errors import INTERRUPTED
from deeplab_jax.reporting.metrics_file import read_metrics
from deeplab_jax.training import loop, step
from deeplab_jax.training.interruption import Interrupted, Interruption
from deeplab_jax.training.log import NumbersGoneBad
from deeplab_jax.training.loop import fit, lock_folder
from deeplab_jax.training.start import initial_variables
from deeplab_jax.weights.files import load_weights, read_note, save_weights

ROOT = Path(__file__).resolve().parents[2]


def change(config: Config, section: str, **changes: Any) -> Config:
    """The configuration with fields of one section changed."""
    part = dataclasses.replace(getattr(config, section), **changes)
    return dataclasses.replace(config, **{section: part})


@pytest.fixture(scope="module")
def unbroken(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("unbroken")
    run(with_workdir(tiny_config, workdir)).wait()
    return workdir


def run(config: Config) -> "subprocess.Popen[bytes]":
    """`train.py` in a process of its own, on one device."""
    Path(config.machine.workdir).mkdir(parents=True, exist_ok=True)
    file = Path(config.machine.workdir).with_suffix(".json")
    save_json(config, file)
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, str(ROOT / "train.py"), f"--config={file}"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )


def history(workdir: Path) -> list[dict[str, Any]]:
    rows = read_metrics(workdir / "metrics.jsonl")
    timings = ("images_per_second", "data_wait")
    return [{k: v for k, v in row.items() if k not in timings} for row in rows]


def test_a_run_leaves_its_weights_numbers_and_images(unbroken: Path, tiny_config: Config) -> None:
    steps = [row["step"] for row in history(unbroken) if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in history(unbroken) if "eval/miou" in row] == [3, 6]
    with Image.open(unbroken / "evaluation" / "predictions.png") as drawn:
        assert drawn.size[0] > 100
    page = (unbroken / "report.html").read_text()
    assert page.count("data:image/") == 4 * tiny_config.eval.images
    table = (unbroken / "evaluation" / "per_class.txt").read_text()
    assert "red" in table and "mean" in table
    numbers = json.loads((unbroken / "evaluation" / "evaluation.json").read_text())
    best = max(row["eval/miou"] for row in history(unbroken) if "eval/miou" in row)
    assert numbers["eval/miou"] == best
    image, _ = square_image(0)
    assert deeplab_jax.load(unbroken).predict(image).shape == image.shape[:2]


@pytest.mark.parametrize(
    ("number", "lines", "workers"),
    [
        pytest.param(signal.SIGKILL, 4, 0, marks=pytest.mark.gpu),
        (signal.SIGTERM, 1, 0),
        (signal.SIGINT, 1, 1),
    ],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_an_ended_run_resumes_to_the_same_numbers(
    unbroken: Path,
    tiny_config: Config,
    tmp_path: Path,
    number: signal.Signals,
    lines: int,
    workers: int,
) -> None:
    """Ended once that many lines are logged: between checkpoints, and around an evaluation.

    All of its processes hear the signal, as those of a terminal hear Ctrl-C.
    """
    config = with_workdir(change(tiny_config, "machine", workers=workers), tmp_path / "ended")
    process, log = run(config), tmp_path / "ended" / "metrics.jsonl"
    while (
        process.poll() is None and len(log.read_text().splitlines() if log.exists() else []) < lines
    ):
        time.sleep(0.005)
    os.killpg(process.pid, number)
    assert process.wait() == (-number if number == signal.SIGKILL else INTERRUPTED)
    if number != signal.SIGKILL:  # no step is lost
        saved = max(int(p.name) for p in (tmp_path / "ended" / "checkpoints").iterdir())
        assert saved == history(tmp_path / "ended")[-1]["step"]
    assert run(config).wait() == 0
    assert history(tmp_path / "ended") == history(unbroken)
    ours, theirs = (load_weights(d).variables for d in (tmp_path / "ended", unbroken))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_run_that_is_ended_while_it_compiles_leaves_as_always(
    tiny_config: Config, tmp_path: Path
) -> None:
    config = with_workdir(tiny_config, tmp_path / "run")
    process, log = run(config), tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not log.exists():
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == INTERRUPTED


def test_what_ends_the_reader_costs_no_step(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_workdir(tiny_config, tmp_path / "run")
    batches, left = loop.train_batches, [3, 1]

    def ending(*args: Any, **kwargs: Any) -> Any:
        yield from islice(batches(*args, **kwargs), left.pop(0))
        if not left:  # as where a signal reaches all that read the data too
            monkeypatch.setattr(Interruption, "received", True)
        raise ReaderFailed("error: a worker is gone")

    monkeypatch.setattr(loop, "train_batches", ending)
    with pytest.raises(ReaderFailed, match="a worker is gone"):
        fit(config)
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["2", "3"]
    with pytest.raises(Interrupted):
        fit(config)
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["3", "4"]


def test_a_second_run_in_one_folder_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    config = with_workdir(tiny_config, tmp_path / "run")
    with (
        lock_folder(tmp_path / "run"),
        pytest.raises(UserError, match=f"process {os.getpid()} on .* trains there"),
    ):
        fit(config)
    assert not (tmp_path / "run" / "checkpoints").exists()
    with lock_folder(tmp_path / "run"):  # free again
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"workdir = .*file: that is a file"):
        fit(with_workdir(config, tmp_path / "file"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its lock."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.parametrize("learning_rate", [0.05, 0.5])
@pytest.mark.parametrize("noted", [True, False])
def test_results_without_a_checkpoint_are_not_replaced(
    unbroken: Path, tiny_config: Config, tmp_path: Path, learning_rate: float, noted: bool
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(unbroken, folder)
    shutil.rmtree(folder / "checkpoints")
    if not noted:  # by a run of an earlier version
        (folder / "experiment.json").unlink()
    before = contents(folder)
    config = change(with_workdir(tiny_config, folder), "optim", learning_rate=learning_rate)
    for accept in (False, True):
        with pytest.raises(UserError, match=r"results \(best, .*\) but no checkpoint"):
            fit(change(config, "machine", accept_changes=accept))
    assert contents(folder) == before


def test_a_run_killed_before_its_first_checkpoint_begins_again(
    unbroken: Path, tiny_config: Config, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(unbroken, folder)
    shutil.rmtree(folder / "checkpoints")
    noted = json.loads((folder / "experiment.json").read_text())
    assert noted["checkpoint"] is True
    (folder / "experiment.json").write_text(json.dumps(noted | {"checkpoint": False}))
    before = contents(folder)
    with pytest.raises(UserError, match=r"optim.learning_rate: there 0.05, now 0.5"):
        fit(change(with_workdir(tiny_config, folder), "optim", learning_rate=0.5))
    assert contents(folder) == before
    fit(with_workdir(tiny_config, folder))
    assert [row["step"] for row in history(folder) if "loss" in row] == [*range(1, 7)]
    assert json.loads((folder / "experiment.json").read_text())["checkpoint"] is True


def test_a_broken_line_of_the_log_costs_that_line_alone(
    unbroken: Path, tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(unbroken, folder)
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[1] = b'{"step": 2, "loss"\n\xff\xfe\n[1]\n{"loss": 1}\n{"step": "2"}\n'
    (folder / "metrics.jsonl").write_bytes(b"".join(lines))
    broken = (folder / "metrics.jsonl").read_bytes()
    for _ in range(2):  # said and kept once
        fit(with_workdir(tiny_config, folder))
        whole = history(unbroken)
        assert history(folder) == [whole[0], *whole[2:]]
    assert capsys.readouterr().err.count("5 broken lines are left out") == 1
    assert (folder / "metrics.jsonl.broken").read_bytes() == broken
    assert not (folder / "metrics.jsonl.broken1").exists()


@pytest.mark.parametrize("lost", ["best", "best/model.json", "best/model.safetensors"])
def test_a_finished_run_without_its_best_weights_ends_again(
    unbroken: Path, tiny_config: Config, tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(unbroken, folder)
    rows = history(folder)
    (shutil.rmtree if lost == "best" else os.remove)(folder / lost)
    assert int(fit(with_workdir(tiny_config, folder)).step) == 6
    assert history(folder) == rows
    load_weights(folder)


def test_the_best_weights_carry_their_score(
    unbroken: Path, tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Worse ones do not replace them, whatever the log says; another protocol scores them anew."""
    folder = tmp_path / "copy"
    shutil.copytree(unbroken, folder)
    note, weights = read_note(folder / "best"), load_weights(folder / "best")
    assert note["value"] == max(row.get("eval/miou", 0) for row in history(folder))
    save_weights(folder / "best", weights, note | {"value": 0.99, "step": 1})
    kept = (folder / "best" / "model.safetensors").read_bytes()
    rows = [row for row in history(folder) if row["step"] < 6 or "loss" in row]
    text = "".join(json.dumps(row) + "\n" for row in rows if "eval/miou" not in row)
    (folder / "metrics.jsonl").write_text(text)  # the last evaluation is made again
    config = with_workdir(tiny_config, folder)
    fit(config)
    assert (folder / "best" / "model.safetensors").read_bytes() == kept
    assert "once more" not in capsys.readouterr().err
    fit(change(config, "eval", flip=True))
    assert "once more" in capsys.readouterr().err
    anew = read_note(folder / "best")
    assert anew["by"]["flip"] is True and anew["value"] < 0.99 and anew["step"] == 1
    jax.tree.map(
        np.testing.assert_array_equal, load_weights(folder / "best").variables, weights.variables
    )


FREE: dict[str, dict[str, Any]] = {
    "machine": {
        "workers": 1,
        "log_every": 2,
        "eval_every": 4,
        "checkpoint_every": 3,
        "keep_every": 2,
        "max_bad_records": 3,
        "max_bad_steps": 3,
        "rollback": True,
        "hang_seconds": 0,
    },
    "eval": {"batch_size": 16, "images": 1},
    "mesh": {"fsdp": 2},
}


def test_a_run_resumes_on_another_machine(
    unbroken: Path, tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other intervals, limits, paths, mesh, evaluation batch and images shown: no question."""
    shutil.copytree(unbroken, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoints" / "6")
    shutil.copytree(tiny_config.machine.root, tmp_path / "data")
    config = with_workdir(tiny_config, tmp_path / "copy")
    for section, changes in FREE.items():
        config = change(config, section, **changes)
    assert int(fit(change(config, "machine", root=str(tmp_path / "data"))).step) == 6
    assert (
        "from step 4" in (text := capsys.readouterr().err) and "another configuration" not in text
    )


def reverse_classes(root: Path) -> None:
    lines = (root / "classes.txt").read_text().splitlines(keepends=True)
    (root / "classes.txt").write_text("".join(reversed(lines)))


def edit_a_mask(root: Path) -> None:
    with Image.open(root / "masks" / "train" / "p00.png") as mask:
        pixels = np.array(mask)
    pixels[0, 0] = 1
    Image.fromarray(pixels).save(root / "masks" / "train" / "p00.png")


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("optim", {"learning_rate": 0.5}, "optim.learning_rate: there 0.05, now 0.5"),
        ("data", {"crop_size": (33, 33)}, "data.crop_size: there .33, 49., now .33, 33."),
        ("train", {"seed": 2}, "train.seed: there 1, now 2"),
        ("model", {"width": 0.1}, "model.width: there 0.06, now 0.1"),
        ("task", {"resize": "fit", "eval_size": (49, 65)}, "task.resize: there 'keep', now 'fit'"),
        (reverse_classes, {}, "task.classes: there .'grey', 'red', 'blue'., now .'blue', 'red', "),
        (edit_a_mask, {}, "data set: there '12 pairs .*, now '12 pairs"),
    ],
    ids=lambda x: getattr(x, "__name__", x if isinstance(x, str) and "." not in x else ""),
)
def test_another_recipe_or_other_data_are_refused(
    unbroken: Path,
    tiny_config: Config,
    tmp_path: Path,
    section: str | Callable[[Path], None],
    changes: dict[str, Any],
    message: str,
) -> None:
    config = with_workdir(tiny_config, unbroken)
    if callable(section):
        shutil.copytree(tiny_config.machine.root, tmp_path / "data")
        section(tmp_path / "data")
        config = change(config, "machine", root=str(tmp_path / "data"))
    else:
        config = change(config, section, **changes)
    with pytest.raises(UserError, match=message):
        fit(config)


def test_a_changed_field_or_data_set_is_accepted_on_request(
    unbroken: Path, tiny_config: Config, tmp_path: Path
) -> None:
    shutil.copytree(unbroken, tmp_path / "copy")
    config = with_workdir(tiny_config, tmp_path / "copy")
    other = change(config, "data", eval_split="train")
    with pytest.raises(UserError, match=r"evaluation set: there '5 pairs .*, now '12 pairs"):
        fit(other)
    assert int(fit(change(other, "machine", accept_changes=True)).step) == 6


def poison(monkeypatch: pytest.MonkeyPatch, positions: range) -> None:
    """Make the loss of the batches at these positions a NaN."""
    batches, augment = loop.train_batches, step.augment

    def blackened(*args: Any, start_step: int = 0, **kwargs: Any) -> Any:
        for i, batch in enumerate(batches(*args, start_step=start_step, **kwargs), start_step):
            yield batch | ({"image": np.zeros_like(batch["image"])} if i in positions else {})

    def spoiled(key: Any, image: Any, *rest: Any, **kwargs: Any) -> Any:
        out, label = augment(key, image, *rest, **kwargs)
        return jnp.where(image.max() == 0, jnp.nan, out), label

    monkeypatch.setattr(loop, "train_batches", blackened)
    monkeypatch.setattr(step, "augment", spoiled)


def test_numbers_gone_bad_are_skipped_then_stop_the_run(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = change(with_workdir(tiny_config, tmp_path / "run"), "machine", max_bad_steps=2)
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
    config = with_workdir(tiny_config, tmp_path / "run")
    config = change(config, "machine", max_bad_steps=2, rollback=True)
    poison(monkeypatch, range(2, 4))  # of steps 3 and 4: back to step 2, on with batch 4
    state = fit(config)
    assert (int(state.step), int(state.skipped), int(state.data_offset)) == (6, 0, 2)
    assert [row["step"] for row in history(tmp_path / "run") if "loss" in row] == [*range(1, 7)]


def test_unreadable_images_are_ignored_and_named(tiny_config: Config, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_config.machine.root, root)
    for name in ("train/p01.png", "train/p05.png", "val/p03.png"):
        file = root / "images" / name
        file.write_bytes(file.read_bytes()[: 200 if name < "train/p05" else 10])  # or no header
    config = with_workdir(tiny_config, tmp_path / "run")
    config = change(config, "machine", root=str(root), max_bad_records=2)
    with pytest.raises(UserError, match=r"p01\.png"):  # found before the first step
        fit(change(config, "machine", max_bad_records=0))
    fit(config)
    numbers = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert numbers["unreadable"] == [str(root / "images" / "val" / "p03.png")]


def test_a_batch_that_the_devices_cannot_share_is_refused(tiny_config: Config) -> None:
    with pytest.raises(UserError, match=r"train.batch_size = 6 .* 8 devices"):
        fit(change(tiny_config, "train", batch_size=6))


def test_a_last_layer_of_other_classes_is_said(
    unbroken: Path, tiny_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many, of which one has another name."""
    source = open_split(tiny_config, "train")
    config = change(tiny_config, "train", pretrained=str(unbroken))
    initial_variables(config, source)
    assert "warning" not in capsys.readouterr().err
    other = dataclasses.replace(source, class_names=("grey", "rust", "blue"))  # type: ignore[type-var]
    initial_variables(config, other)
    told = capsys.readouterr().err
    assert "other classes than the data's (1: 'red' / 'rust'): it starts afresh" in told
    taken = initial_variables(change(config, "train", pretrained_logits=True), other)
    assert "--pretrained_logits=False starts it afresh" in capsys.readouterr().err
    theirs = load_weights(unbroken).variables["params"]["logits"]
    jax.tree.map(np.testing.assert_array_equal, taken["params"]["logits"], theirs)


def test_pretrained_weights_of_another_class_count(unbroken: Path, tiny_config: Config) -> None:
    config = change(tiny_config, "model", num_classes=4)
    config = change(config, "train", pretrained=str(unbroken))
    source = open_split(tiny_config, "train")
    with pytest.raises(UserError, match="--pretrained_logits=False"):
        initial_variables(change(config, "train", pretrained_logits=True), source)
    variables = initial_variables(config, source)
    theirs = load_weights(unbroken).variables
    assert variables["params"]["logits"]["bias"].shape == (4,)
    jax.tree.map(
        np.testing.assert_array_equal,
        variables["params"]["backbone"],
        theirs["params"]["backbone"],
    )


# The smallest value of each number of the configuration that the least network of all takes;
# of what must be above 0, one that is as good as 0.
TINY = 1e-9
SMALLEST: dict[str, Any] = {
    "model.num_classes": 2,
    "model.output_stride": 8,
    "model.atrous_rates": (1,),
    "model.multi_grid": (1, 1, 1),
    "model.width": TINY,
    "model.width_divisor": 1,
    "model.aspp_channels": 1,
    "model.aspp_convs_after": 0,
    "model.image_pooling_crop_size": (1, 1),
    "model.decoder_strides": (4,),
    "model.decoder_low_level_channels": 1,
    "model.decoder_channels": 1,
    "model.decoder_convs": 0,
    "model.decoder_kernel": 1,
    "model.image_pooling_stride": (1, 1),
    "model.logits_kernel": 1,
    "model.batch_norm_decay": TINY,
    "data.holdout": 0.0,
    "data.ignore_label": 0,
    "data.crop_size": (17, 17),
    "task.eval_size": (17, 17),
    "data.min_scale": TINY,
    "data.max_scale": TINY,
    "data.scale_step": 0.0,
    "augment.rotate": 0.0,
    "augment.shear": 0.0,
    "augment.aspect": 0.0,
    "augment.photometric": 0.0,
    "augment.hue": 0.0,
    "augment.gamma": 0.0,
    "augment.blur": 0.0,
    "augment.noise": 0.0,
    "augment.cutmix": 0.0,
    "augment.rare_crops": 0.0,
    "task.range": (0.0, 1.0),
    "model.channels": 1,
    "task.colors": (),
    "task.values": (),
    "machine.workers": 0,
    "machine.max_bad_records": 0,
    "optim.learning_rate": TINY,
    "optim.momentum": 0.0,
    "optim.decay_steps": 1,
    "optim.decay_rate": TINY,
    "optim.power": 0.0,
    "optim.end_learning_rate": 0.0,
    "optim.slow_start_steps": 0,
    "optim.slow_start_learning_rate": 0.0,
    "optim.weight_decay": 0.0,
    "optim.new_layers_multiplier": TINY,
    "optim.clip_norm": 0.0,
    "mesh.data": 1,
    "mesh.fsdp": 1,
    "mesh.space": 1,
    "train.epochs": TINY,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.loss": (("tversky", TINY), ("focal", TINY)),
    "train.label_smoothing": 0.0,
    "train.focal_gamma": 0.0,
    "train.tversky_beta": 0.0,
    "train.class_weights": (0.0, 0.0),
    "train.logit_adjustment": 0.0,
    "train.hard_pixels": TINY,
    "train.hard_pixels_ramp": 0,
    "train.ema_decay": 0.0,
    "machine.max_bad_steps": 1,
    "train.seed": 0,
    "machine.log_every": 1,
    "machine.eval_every": 1,
    "machine.patience": 0,
    "machine.checkpoint_every": 1,
    "machine.keep_every": 0,
    "machine.hang_seconds": 0,
    "eval.batch_size": 1,
    "eval.images": 1,
    "eval.scales": (TINY,),
    "eval.window": (17, 17),
    "eval.overlap": 0.0,
    "eval.trimap_widths": (1,),
    "eval.boundary": 0.0,
}


def numbers(cls: type[Any], where: str = "") -> set[str]:
    """The fields of a configuration that are numbers, or lists of them."""
    found: set[str] = set()
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= numbers(hint, f"{where}{name}.")  # type: ignore[arg-type]
        elif re.search(r"\b(int|float)\b", str(hint)):
            found.add(f"{where}{name}")
    return found


def test_each_number_at_its_smallest_with_one_image_of_each_split(tmp_path: Path) -> None:
    assert set(SMALLEST) == numbers(Config)  # a new field needs its smallest value above
    for split in ("train", "val"):
        for kind, pixels in (("images", (2, 2, 3)), ("masks", (2, 2))):
            (tmp_path / kind / split).mkdir(parents=True)
            Image.fromarray(np.ones(pixels, np.uint8)).save(tmp_path / kind / split / "one.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    tree: dict[str, Any] = {"model": {"backbone": "mobilenet_v2"}}
    tree["machine"] = {"workdir": str(tmp_path / "run"), "root": str(tmp_path)}
    tree["data"] = {"source": "folder", "eval_split": "val"}
    for name, value in SMALLEST.items():
        section, field = name.split(".")
        tree.setdefault(section, {})[field] = value
    tree["optim"]["schedule"] = "step"
    assert run(from_dict(Config, tree)).wait() == 0
    trained, evaluated = history(tmp_path / "run")
    assert trained["loss"] is not None and evaluated["eval/miou"] in (0.0, 1.0)  # one class
    assert evaluated["eval/trimap_1_miou"] is None  # no boundary: JSON has no NaN
