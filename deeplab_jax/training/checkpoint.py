"""Orbax checkpoints of the training state: saved in the background, verified when read.

Orbax commits a checkpoint by a rename, so a kill leaves none half-written; but it has no digest of
the arrays' bytes, and restores a flipped bit without a word. So each checkpoint also has `about`: a
digest of every array, and the experiment it belongs to, sealed by a digest of its own.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from deeplab_jax.config import read_json
from deeplab_jax.errors import UserError
from deeplab_jax.files import json_text, write_atomically
from deeplab_jax.parallel.mesh import on_host
from deeplab_jax.parallel.processes import wait_for_all, writes
from deeplab_jax.training.state import TrainState

KEPT = 2  # the newest and the one before it
TEMPORARY = ".orbax-checkpoint-tmp"
DAMAGED = ".damaged"
STARTED = "experiment.json"  # beside the folder of checkpoints
# What the machine lacks, in the words of XLA, TensorStore and C++: no damage to any file.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "std::bad_alloc", "Cannot allocate memory", "out of memory")
UNREACHABLE = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "PERMISSION_DENIED",
    "Input/output error",
    "Stale file handle",
    "Too many open files",
)

About = dict[str, Any]  # JSON


class Damaged(Exception):
    """A checkpoint that cannot be read, or whose bytes are not those that were saved."""


class Checkpoints:
    """The checkpoints under a run's folder, all of one experiment, which `experiment` describes.

    Use as a context manager: at its end everything is on disk. `experiment.json` beside them says
    what was started there, and whether a checkpoint was ever complete: it is to be missed then.
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
        self._started = self._directory.with_name(STARTED)
        self._noted = False
        self._check_readable()
        # Orbax's threads inherit being daemons from the one that calls it: those of a failed save
        # wait minutes for each other, and the process would wait for them at its end.
        self._daemon = ThreadPool(1)
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._saving: int | None = None

    def __enter__(self) -> "Checkpoints":
        self._quiet = ExitStack()
        self._quiet.enter_context(quiet())
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        with suppress(Exception):  # of a failed save, which `wait` has reported
            self._daemon.apply(self._manager.close)
        self._daemon.terminate()
        self._quiet.close()

    def begin(self) -> None:
        """Note what is started here, before it leaves any result."""
        self._note(bool(self.steps()))

    def begun(self) -> tuple[About, bool] | None:
        """The experiment that was started here, and whether it ever had a checkpoint."""
        if not self._started.exists():
            return None
        noted = read_json(self._started)
        try:
            return dict(noted["experiment"]), bool(noted["checkpoint"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self._started}: not a readable {STARTED} ({error!r})") from error

    def _note(self, complete: bool) -> None:
        if writes():
            noted = {"experiment": self.experiment, "checkpoint": complete}
            write_atomically(self._started, json_text(noted, indent=1) + "\n")
        self._noted = complete

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
            self._daemon.apply(self._manager.save, (step,), {"args": args})
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
            self._daemon.apply(self._manager.wait_until_finished)
        except Exception as error:
            self._failed(error)
            return False
        if self._saving not in self.steps():  # Orbax counts a step as saved once it has begun it
            self._failed(None)
            return False
        self._saving = None
        if not self._noted:
            with suppress(OSError):  # a full disk: the next one will note it
                self._note(True)
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
          UserError: there are damaged ones only, or a file of one cannot be read at all.
        """
        self.wait()
        for step in self.steps():
            try:
                return step, self._read_about(step)
            except Damaged as error:
                self._set_aside(step, error)
        damaged = sorted(self._directory.glob(f"*{DAMAGED}*"))
        if damaged:
            best = self._directory.with_name("best")
            start = f", with --pretrained={best} to start from its weights" if best.exists() else ""
            raise UserError(
                f"{self._directory}: every checkpoint is damaged; {len(damaged)} are kept as"
                f" *{DAMAGED} ({damaged[-1].name}). Choose another --workdir{start}. Nothing here"
                " was removed"
            )
        return None

    def restore_newest(self, like: TrainState) -> tuple[int, TrainState] | None:
        """The newest state whose digests are right; None without any.

        `like` (arrays, or `abstract_state`) gives shapes and types, and where each array is to lie:
        on another mesh than the one it was saved from, if need be.

        Raises:
          UserError: there are damaged ones only, a file of one cannot be read at all, or the state
            is that of another network.
          MemoryError, or XLA's error: there is not enough memory for it. Nothing is renamed.
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
            return unsealed(self._read(step, args)["about"])
        except Damaged:
            raise
        except (AttributeError, KeyError, TypeError) as error:  # JSON, but not what was written
            raise Damaged(f"about: {first_line(error)}") from error

    def _restore(self, step: int, arrays: Mapping[str, Any], like: TrainState) -> TrainState:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), as_tree(like)
        )
        tree = self._read(step, ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))[
            "state"
        ]
        wrong = [array for array, digest in digests(tree).items() if digest != arrays[array]]
        if wrong:
            raise Damaged(f"state: {wrong[0]} and {len(wrong) - 1} more arrays are not as saved")
        return TrainState(**tree)

    def _read(self, step: int, args: Any) -> Any:
        """What Orbax restores; Damaged only where the files can be read but do not parse."""
        for attempt in range(2):  # what fails in passing does not fail twice
            try:
                return self._manager.restore(step, args=args)
            except Exception as error:
                check_machine(self._directory / str(step), error)
                if attempt == 1:
                    raise Damaged(first_line(error)) from error

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


@contextmanager
def quiet() -> Iterator[None]:
    """Without the traces that Orbax's threads print of a failed save: we say it in a line."""
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level

    def unless_closed(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":  # of what it was still writing
            hook(unraisable)

    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = unless_closed
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook


def check_machine(folder: Path, error: Exception) -> None:
    """Raise unless it is the files' content that could not be restored.

    Raises:
      UserError: a file cannot be read: it is named.
      MemoryError, or `error` itself: memory is short.
    """
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    text = "\n".join(map(str, chain))
    if any(isinstance(e, MemoryError) for e in chain) or any(w in text for w in OUT_OF_MEMORY):
        raise error
    missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # of a checkpoint's own
    failed = [e for e in chain if isinstance(e, OSError) and not isinstance(e, missing)]
    said = [line for line in text.splitlines() if any(w in line for w in UNREACHABLE)]
    unread = f"{failed[0]}" if failed else said[0][:300] if said else unreadable(folder)
    if unread:
        raise UserError(
            f"{folder} cannot be read now ({unread}); it may be whole, so nothing was renamed."
            " Run the same command again when the files can be read"
        ) from error


def unreadable(folder: Path) -> str:
    """Read every file; the first error of the system's, "" where all can be read."""
    try:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                with file.open("rb") as stream:
                    while stream.read(2**24):
                        pass
    except FileNotFoundError:  # a broken link is damage
        return ""
    except OSError as error:
        return str(error)
    return ""


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
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB are free there"
    except OSError as error:
        return str(error)
