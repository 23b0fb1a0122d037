"""Orbax checkpoints of the training state: saved in the background, verified when read.

Orbax commits a checkpoint by a rename, so a kill leaves none half-written; but it has no digest of
the arrays' bytes, and restores a flipped bit without a word. So each checkpoint also has `about`: a
digest of every array, and the experiment it belongs to, sealed by a digest of its own.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from deeplab_jax.distributed import wait_for_all, writes
from deeplab_jax.errors import UserError
from deeplab_jax.sharding import on_host
from deeplab_jax.state import TrainState

KEPT = 2  # the newest and the one before it
TEMPORARY = ".orbax-checkpoint-tmp"
DAMAGED = ".damaged"

About = dict[str, Any]  # JSON


class Damaged(Exception):
    """A checkpoint that cannot be read, or whose bytes are not those that were saved."""


class Checkpoints:
    """The checkpoints under a run's folder, all of one experiment, which `experiment` describes.

    Use as a context manager: at its end everything is on disk.
    """

    def __init__(self, directory: Path, experiment: About, *, keep_every: int = 0) -> None:
        policies: list[Any] = [ocp.checkpoint_managers.LatestN(KEPT)]
        if keep_every:
            policies.append(ocp.checkpoint_managers.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )
        self._directory, self.experiment = directory.absolute(), experiment
        self._check_readable()
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._saving: int | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps of the checkpoints on disk, newest first."""
        if not self._directory.is_dir():
            return []
        return sorted(map(int, filter(str.isdigit, os.listdir(self._directory))), reverse=True)

    # ---- saving

    def save(self, step: int, state: TrainState) -> None:
        """Start saving, and wait for the copy to the host and its digests alone.

        `state` may be donated next. A save that fails, now or later, is a message, no exception:
        the run goes on, and the next save tries again.
        """
        self.wait()
        if step in self.steps():
            return
        tree = as_tree(state)
        about = sealed({"experiment": self.experiment, "arrays": digests(tree)})
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), about=ocp.args.JsonSave(about))
        self._saving = step
        try:
            self._manager.save(step, args=args)
        except Exception as error:  # Orbax's are of many classes, most of them ValueError
            self._failed(error)

    def poll(self) -> None:
        """Report a save that has failed meanwhile; cheap enough for every step."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> bool:
        """Wait for the save under way; whether it is on disk (True also without one)."""
        if self._saving is None:
            return True
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._failed(error)
            return False
        if self._saving not in self.steps():  # Orbax counts a step as saved once it has begun it
            self._failed(None)
            return False
        self._saving = None
        return True

    def _failed(self, error: Exception | None) -> None:
        step, self._saving = self._saving, None
        reason = f": {first_line(error)}" if error else ""
        print(
            f"warning: the checkpoint of step {step} could not be written to {self._directory}"
            f"{reason}; {free_space(self._directory)}. Training goes on, the next save tries again",
            file=sys.stderr,
        )
        shutil.rmtree(self._directory / f"{step}{TEMPORARY}", ignore_errors=True)
        self._manager.reload()  # else it would refuse this step as already saved

    # ---- reading

    def newest(self) -> tuple[int, About] | None:
        """Step and `about` of the newest checkpoint whose `about` can be read; None without any.

        A damaged one is renamed to STEP.damaged, with a message.

        Raises:
          UserError: there are damaged ones only.
        """
        self.wait()
        for step in self.steps():
            try:
                return step, self._read_about(step)
            except Damaged as error:
                self._set_aside(step, error)
        damaged = sorted(self._directory.glob(f"*{DAMAGED}*"))
        if damaged:
            raise UserError(
                f"{self._directory}: every checkpoint is damaged ({damaged[-1].name}, ...). To"
                " start again from nothing, remove them or choose another --workdir"
            )
        return None

    def restore_newest(self, like: TrainState) -> tuple[int, TrainState] | None:
        """The newest state whose digests are right; None without any.

        `like` (arrays, or `abstract_state`) gives shapes and types, and where each array is to lie:
        on another mesh than the one it was saved from, if need be.

        Raises:
          UserError: there are damaged ones only, or the state is that of another network.
        """
        while (found := self.newest()) is not None:
            step, arrays = found[0], found[1]["arrays"]
            check_arrays(self._directory / str(step), arrays, like)
            try:
                return step, self._restore(step, arrays, like)
            except Damaged as error:
                self._set_aside(step, error)
        return None

    def _read_about(self, step: int) -> About:
        try:
            args = ocp.args.Composite(about=ocp.args.JsonRestore())
            return unsealed(self._manager.restore(step, args=args)["about"])
        except Exception as error:
            raise Damaged(f"about: {first_line(error)}") from error

    def _restore(self, step: int, arrays: Mapping[str, Any], like: TrainState) -> TrainState:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), as_tree(like)
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            tree = self._manager.restore(step, args=args)["state"]
        except Exception as error:
            raise Damaged(f"state: {first_line(error)}") from error
        wrong = [array for array, digest in digests(tree).items() if digest != arrays[array]]
        if wrong:
            raise Damaged(f"state: {wrong[0]} and {len(wrong) - 1} more arrays are not as saved")
        return TrainState(**tree)

    def _set_aside(self, step: int, error: Damaged) -> None:
        folder = self._directory / str(step)
        aside = self._directory / f"{step}{DAMAGED}"
        wait_for_all("damaged checkpoint")
        if writes():
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        wait_for_all("damaged checkpoint set aside")
        self._manager.reload()
        print(
            f"warning: {folder} is damaged ({error}); renamed to {aside.name}, the checkpoint"
            " before it is tried",
            file=sys.stderr,
        )

    def _check_readable(self) -> None:
        """What this user may not read is not damaged: nothing is to be renamed for it."""

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # no checkpoints yet
                raise UserError(f"{error.filename}: this checkpoint cannot be read ({error})")

        for folder, _, files in os.walk(self._directory, onerror=refuse):
            for file in files:
                try:
                    open(os.path.join(folder, file), "rb").close()
                except OSError as error:
                    refuse(error)


def as_tree(state: TrainState) -> dict[str, Any]:
    """The state as plain containers: what Orbax stores does not depend on our class."""
    return {f.name: getattr(state, f.name) for f in fields(state)}


def digests(tree: Any) -> dict[str, list[Any]]:
    """Path of each array -> [type, shape, BLAKE2b of its bytes], as JSON has it."""

    def digest(array: np.ndarray) -> list[Any]:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        hashed = hashlib.blake2b(content, digest_size=16).hexdigest()
        return [str(array.dtype), list(array.shape), hashed]

    leaves = jax.tree.leaves_with_path(on_host(tree))
    return {path_name(path): digest(leaf) for path, leaf in leaves}


def path_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def sealed(about: About) -> About:
    """`about` with a digest of itself."""
    return {**about, "seal": seal(about)}


def unsealed(about: About) -> About:
    """The inverse of `sealed`; raises Damaged if anything was changed."""
    content = {k: v for k, v in about.items() if k != "seal"}
    if about.get("seal") != seal(content):
        raise Damaged("its text is not as saved")
    return content


def seal(about: About) -> str:
    text = json.dumps(about, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_arrays(folder: Path, arrays: Mapping[str, Any], like: TrainState) -> None:
    """Raise UserError unless a checkpoint's arrays have the names, types and shapes of `like`."""
    leaves = jax.tree.leaves_with_path(as_tree(like))
    here = {path_name(path): [str(x.dtype), list(x.shape)] for path, x in leaves}
    there = {array: about[:2] for array, about in arrays.items()}
    for array in sorted(here.keys() | there.keys()):
        if here.get(array) != there.get(array):
            raise UserError(
                f"{folder} is of another network or optimiser: {array} is {there.get(array)} there,"
                f" {here.get(array)} here. Choose another --workdir, or start from its weights by"
                " --pretrained"
            )


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__


def free_space(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB are free there"
