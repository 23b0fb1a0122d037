"""What a run chooses by its devices and its images, and keeps when it goes on."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from conftest import with_workdir

from deeplab_jax import Config, UserError
from deeplab_jax.config import load_json
from deeplab_jax.data.settle import open_split
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.training import choices
from deeplab_jax.training.choices import choose_batch, choose_dtype, choose_steps, settle_run
from deeplab_jax.training.loop import fit
from deeplab_jax.training.memory import step_bytes


def change(config: Config, section: str, **changes: Any) -> Config:
    part = dataclasses.replace(getattr(config, section), **changes)
    return dataclasses.replace(config, **{section: part})


@pytest.fixture
def left_open(tiny_config: Config, tmp_path: Path) -> Config:
    """The tiny experiment with everything left to data and device that can be."""
    config = change(with_workdir(tiny_config, tmp_path / "run"), "data", crop_size=None)
    config = change(config, "train", batch_size=None, steps=None, class_weights=None)
    return change(change(config, "model", dtype="auto"), "task", resize="auto")


def settle(config: Config) -> tuple[Config, dict[str, Any]]:
    return settle_run(config, open_split(config, "train"), device_mesh())


def test_nothing_is_left_open_and_what_is_named_stays(left_open: Config) -> None:
    settled, chosen = settle(left_open)
    assert settled.model.dtype == "float32" and settled.task.resize == "keep"
    assert settled.data.crop_size == (49, 65) and settled.train.class_weights
    assert settled.train.batch_size == 8 and settled.train.steps == choices.STEPS[0]
    assert "66 epochs of 12 images at batch size 8; at least 500" in chosen["train.steps"].reason
    assert settle(settled)[0] == settled
    named = change(left_open, "train", batch_size=24, steps=3, class_weights=())
    assert settle(named)[0].train == named.train


@pytest.mark.parametrize(
    ("images", "batch", "pretrained", "steps", "said"),
    [
        (367, 8, "weights", 1009, "22 epochs of 367 images at batch size 8"),
        (367, 8, "", 3028, "66 epochs"),
        (30, 8, "weights", 500, "; at least 500"),
        (10**6, 8, "weights", 30_000, "; at most 30000"),
    ],
)
def test_steps_follow_the_number_of_images(
    images: int, batch: int, pretrained: str, steps: int, said: str, tiny_config: Config
) -> None:
    train = {"steps": None, "batch_size": batch, "pretrained": pretrained}
    config = change(tiny_config, "train", **train)
    (choice,) = choose_steps(config, range(images)).values()  # type: ignore[arg-type]
    assert choice.value == steps and said in choice.reason


def test_epochs_that_are_named_decide_without_bounds(tiny_config: Config) -> None:
    config = change(tiny_config, "train", epochs=2.5, steps=9000, batch_size=8)
    (choice,) = choose_steps(config, range(367)).values()  # type: ignore[arg-type]
    assert choice == (115, "2.5 epochs of 367 images at batch size 8")


def test_the_largest_batch_that_fits_is_found_from_above() -> None:
    asked = []

    def held(images: int) -> float:
        asked.append(images)
        return float("inf") if images == 64 else images * 1e9

    assert choose_batch([8, 16, 32, 64], 40e9, held) == (
        32,
        "its step holds 32.0 of the device's 40.0 GB, says the compiler",
    )
    assert asked == [64, 32]
    assert choose_batch([8, 16], 1e9, held)[0] == 8  # none fits: the run itself will say so
    images, reason = choose_batch([1, 2, 4, 8, 16], None, held)
    assert images == 8 and "CPU" in reason
    assert choose_batch([16, 32], None, held)[0] == 16  # which the devices share


def test_the_compiler_accounts_for_the_step(tiny_config: Config) -> None:
    config = change(tiny_config, "model", width=0.03)
    mesh = device_mesh((1, 1, 1), jax.devices()[:1])
    small, large = (step_bytes(change(config, "train", batch_size=n), mesh, 255) for n in (1, 8))
    assert 0 < small < large < float("inf")


def test_a_batch_is_no_larger_than_the_data(
    left_open: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "memory_of", lambda mesh: 1e12)
    monkeypatch.setattr(choices, "step_bytes", lambda *_: 1.0)
    config = change(left_open, "mesh", data=2, space=4)
    source = open_split(config, "train")
    settled, _ = settle_run(config, source, device_mesh(config.mesh.shape))
    assert settled.train.batch_size == 8  # of 12 images, over 2 parts
    config = change(config, "train", accumulate=3)
    settled, _ = settle_run(config, source, device_mesh(config.mesh.shape))
    assert settled.train.batch_size == 12


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ({"platform": "cpu"}, "float32"),
        ({"platform": "tpu"}, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "7.5"}, "float32"),
        ({"platform": "gpu", "compute_capability": "9.0"}, "bfloat16"),
    ],
)
def test_bfloat16_where_the_device_has_it(
    device: dict[str, str], dtype: str, left_open: Config
) -> None:
    devices = SimpleNamespace(flat=[SimpleNamespace(device_kind="chip", **device)])
    mesh: Any = SimpleNamespace(devices=devices)
    assert choose_dtype(left_open, mesh)["model.dtype"].value == dtype
    assert choose_dtype(change(left_open, "model", dtype="float32"), mesh) == {}


def test_a_run_goes_on_as_it_began(left_open: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that would choose otherwise; and other settings are refused as ever."""
    config = change(left_open, "machine", eval_every=1, checkpoint_every=1)
    monkeypatch.setattr(choices, "STEPS", (1, 1))
    fit(config)
    begun = load_json(Path(config.machine.workdir) / "config.json")
    assert begun.train.steps == 1 and begun.train.batch_size == 8
    monkeypatch.setattr(choices, "STEPS", (9, 9))
    monkeypatch.setattr(choices, "memory_of", lambda mesh: 1e12)
    settled, chosen = settle(config)
    assert settled == begun
    assert {c.reason for n, c in chosen.items() if n.startswith("train")} == {"as this run began"}
    with pytest.raises(UserError, match=r"train.steps: there 1, now 2"):
        fit(change(config, "train", steps=2))
    (Path(config.machine.workdir) / "config.json").write_text("{")
    monkeypatch.setattr(choices, "memory_of", lambda mesh: None)
    with pytest.raises(UserError, match=r"train.steps: there 1, now 9"):
        fit(config)
