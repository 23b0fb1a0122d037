"""Checkpoints: what is damaged is never restored, what cannot be written is said."""

import dataclasses
import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from synthetic import simulated_mesh

from deeplab_jax import UserError
from deeplab_jax.parallel.mesh import Shape, place
from deeplab_jax.training import checkpoint
from deeplab_jax.training.checkpoint import Checkpoints
from deeplab_jax.training.state import TrainState

EXPERIMENT = {"model.num_classes": 3}


def state_at(step: int) -> TrainState:
    """A state without a network; every array tells the step."""
    kernel = {"kernel": jnp.arange(2000.0).reshape(40, 50) + step}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(jnp.int32(step), kernel, kernel, (kernel,), None, zero, zero, zero)


def saved(folder: Path, steps: tuple[int, ...] = (10, 20)) -> Path:
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_at(step))
    return folder


def restored(folder: Path) -> int | None:
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        found = checkpoints.restore_newest(state_at(0))
    if found is None:
        return None
    step, state = found
    jax.tree.map(np.testing.assert_array_equal, state, state_at(step))
    return step


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_newest_is_restored_and_the_last_two_are_kept(tmp_path: Path) -> None:
    assert restored(tmp_path / "none") is None
    folder = saved(tmp_path / "some", (10, 20, 30))
    assert restored(folder) == 30
    assert {p.name for p in folder.iterdir()} == {"20", "30"}


def test_every_so_many_steps_one_is_kept_for_good(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, EXPERIMENT, keep_every=20) as checkpoints:
        for step in range(10, 70, 10):
            checkpoints.save(step, state_at(step))
    assert {int(p.name) for p in tmp_path.iterdir()} == {20, 40, 50, 60}


def test_a_flipped_bit_costs_one_checkpoint_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path)
    flip_a_bit(largest_file(folder / "20" / "state"))
    assert restored(folder) == 10
    assert f"{folder}/20 is damaged" in capsys.readouterr().err
    assert (folder / "20.damaged").is_dir()
    with Checkpoints(folder, EXPERIMENT) as checkpoints:  # the step can be saved again
        checkpoints.save(20, state_at(20))
    assert restored(folder) == 20


def test_with_damaged_ones_alone_nothing_starts_afresh(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    shutil.rmtree(folder / "20" / "about")
    flip_a_bit(largest_file(folder / "10" / "about"))
    best = folder.with_name("best")
    best.mkdir()
    for _ in range(2):  # nor the second time
        with pytest.raises(UserError, match="every checkpoint is damaged; 2 are kept") as raised:
            restored(folder)
    assert f"--pretrained={best}" in str(raised.value) and "remove" not in str(raised.value)[:150]


def io_error() -> Exception:
    error = ValueError("could not read")  # as Orbax wraps it
    error.__cause__ = OSError(errno.EIO, "Input/output error", "manifest.ocdbt")
    return error


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (io_error(), UserError, "20 cannot be read now .*manifest.ocdbt"),
        (ValueError("UNAVAILABLE: the server is away\nmore"), UserError, "UNAVAILABLE: the server"),
        (TimeoutError("too late"), UserError, "too late"),
        (MemoryError("no room"), MemoryError, "no room"),
        (RuntimeError("RESOURCE_EXHAUSTED: out of device memory"), RuntimeError, "RESOURCE_EXH"),
        (ValueError("std::bad_alloc"), ValueError, "bad_alloc"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Exception) else None,
)
@pytest.mark.parametrize("item", ["about", "state"])
def test_what_the_machine_lacks_is_no_damage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: type[Exception],
    message: str,
    item: str,
) -> None:
    folder, restore = saved(tmp_path), ocp.CheckpointManager.restore

    def failing(self: ocp.CheckpointManager, step: int, args: Any) -> Any:
        if item in args:
            raise error
        return restore(self, step, args=args)

    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, "restore", failing)
        with pytest.raises(raised, match=message):
            restored(folder)
    assert sorted(os.listdir(folder)) == ["10", "20"]
    assert restored(folder) == 20


def test_a_file_that_cannot_be_read_through_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restore fails without a reason, and one file's bytes do not come."""
    folder = saved(tmp_path)

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("no reason")

    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, "restore", failing)
        patched.setattr(checkpoint, "find_unreadable", lambda folder: "disk: Input/output error")
        with pytest.raises(UserError, match=r"20 cannot be read now .disk: Input/output error"):
            restored(folder)
    assert sorted(os.listdir(folder)) == ["10", "20"]


def test_what_fails_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, restore, calls = saved(tmp_path), ocp.CheckpointManager.restore, []

    def failing_first(self: ocp.CheckpointManager, step: int, args: Any) -> Any:
        calls.append(step)
        if len(calls) == 2:  # about, then state
            raise ValueError("in passing")
        return restore(self, step, args=args)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", failing_first)
    assert restored(folder) == 20 and calls == [20, 20, 20]


FAILING = """
import sys
from pathlib import Path
from test_checkpoint import EXPERIMENT, state_at
from deeplab_jax.training.checkpoint import Checkpoints
folder = Path(sys.argv[1]) / "run"
with Checkpoints(folder / "checkpoints", EXPERIMENT) as checkpoints:
    checkpoints.save(10, state_at(10))
    assert checkpoints.wait()
    folder.rename(folder.with_name("moved"))
    folder.touch()  # a file where the run's folder was
    checkpoints.save(20, state_at(20))
    assert not checkpoints.wait()
sys.exit(7)
"""


def test_a_process_ends_after_a_failed_save(tmp_path: Path) -> None:
    """Orbax's threads wait for each other, for minutes and more: the process does not."""
    here = str(Path(__file__).parent)
    path = {"PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-c", FAILING, str(tmp_path)],
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 7, done.stderr
    assert "the checkpoint of step 20 could not be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_strays_are_no_checkpoints(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "30").write_text("a file")
    (folder / "40").mkdir()
    (folder / "50.orbax-checkpoint-tmp").mkdir()
    (folder / "notes").mkdir()
    assert restored(folder) == 20
    assert (folder / "30.damaged").is_file()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def not_root() -> Iterator[None]:
    """Root may read everything: become another user for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_read_is_not_taken_for_damaged(open_folder: Path) -> None:
    folder = saved(open_folder / "checkpoints")
    file = largest_file(folder / "20")
    file.chmod(0)
    with not_root(), pytest.raises(UserError, match=r"20 cannot be read now .*ermission"):
        restored(folder)
    assert sorted(os.listdir(folder)) == ["10", "20"]
    file.chmod(0o644)
    assert restored(folder) == 20


def test_another_network_is_refused_and_nothing_set_aside(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    other = dataclasses.replace(state_at(0), params={"kernel": jnp.zeros((40, 51))})
    with (
        Checkpoints(folder, EXPERIMENT) as checkpoints,
        pytest.raises(UserError, match=r"params/kernel is \['float32', \[40, 50\]\] there"),
    ):
        checkpoints.restore_newest(other)
    assert restored(folder) == 20


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Orbax's thread ends with the error, and what it was still writing finds its loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failed_save_is_said_at_once_and_the_next_one_works(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        checkpoints.save(10, state_at(10))
        assert checkpoints.wait()
        with full_disk(4000):
            checkpoints.save(20, state_at(20))
            for _ in range(500):  # as the loop does, step by step
                checkpoints.poll()
                time.sleep(0.01)
                if "the checkpoint of step 20 could not be written" in capfd.readouterr().err:
                    break
            else:
                pytest.fail("not said")
        assert checkpoints.steps() == [10]
        checkpoints.save(20, state_at(20))
        assert checkpoints.wait()
    assert restored(tmp_path) == 20


@pytest.mark.parametrize(
    ("before", "after"), [((1, 1, 1), (4, 1, 1)), ((4, 1, 1), (1, 1, 1)), ((2, 2, 2), (1, 5, 1))]
)
def test_another_mesh_restores_the_same_arrays(tmp_path: Path, before: Shape, after: Shape) -> None:
    def placed(step: int, shape: Shape) -> TrainState:
        return place(state_at(step), simulated_mesh(shape))

    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        checkpoints.save(10, placed(10, before))
    like = placed(0, after)
    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        found = checkpoints.restore_newest(like)
    assert found is not None
    assert found[1].params["kernel"].sharding == like.params["kernel"].sharding
    jax.tree.map(np.testing.assert_array_equal, found[1], state_at(10))
