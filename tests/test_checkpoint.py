"""Checkpoints: what is damaged is never restored, what cannot be written is said."""

import dataclasses
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import simulated_mesh

from deeplab_jax import UserError
from deeplab_jax.checkpoint import Checkpoints
from deeplab_jax.sharding import Shape, place
from deeplab_jax.state import TrainState

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
    for _ in range(2):  # nor the second time
        with pytest.raises(UserError, match="every checkpoint is damaged"):
            restored(folder)


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
    with not_root(), pytest.raises(UserError, match=f"{file}: .* cannot be read"):
        Checkpoints(folder, EXPERIMENT)
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
