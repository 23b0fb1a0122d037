"""Orbax checkpoints of the training state: saved in the background, verified when read.

Orbax commits a checkpoint by a rename, so a kill leaves none half-written; but it has no digest of
the arrays' bytes, and restores a flipped bit without a word. So each checkpoint also has `about`: a
digest of every array, and the experiment it belongs to, sealed by a digest of its own.
"""

import hashlib
import json
import logging
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from deeplab_jax.config import read_json
from deeplab_jax.errors import OUT_OF_MEMORY, UserError, first_line
from deeplab_jax.files import json_text, write_atomically
from deeplab_jax.parallel.mesh import fetch_whole
from deeplab_jax.parallel.processes import wait_for_all, writes
from deeplab_jax.training.state import TrainState

KEPT = 2  # the newest and the one before it
TEMPORARY = ".orbax-checkpoint-tmp"
DAMAGED = ".damaged"
# Of a file that cannot be read, in the words of TensorStore and of Python: no damage to it.
UNREACHABLE = re.compile(
    "UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|Input/output error|Stale file handle"
    "|Too many open files|^(OS|Permission|Timeout|BlockingIO|Connection\\w*)Error: "
)

About = dict[str, Any]  # JSON


class Damaged(Exception):
    """A checkpoint that cannot be read, or whose bytes are not those that were saved."""


def list_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a folder, newest first."""
    names = [path.name for path in directory.glob("*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


class Checkpoints:
    """The checkpoints under a run's folder, all of one experiment, which `experiment` describes.

    Use as a context manager: at its end everything is on disk. `experiment.json` beside them says
    what was started there, and whether a checkpoint was ever complete: it is to be missed then.
    """

    def __init__(self, directory: Path, experiment: About, *, keep_every: int = 0) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, keep_period=keep_every or None, cleanup_tmp_directories=True
        )
        self._directory, self.experiment = directory.absolute(), experiment
        self._started = self._directory.with_name("experiment.json")
        self._noted, self._saving = False, -1  # a step
        # Orbax's threads inherit being daemons from the one that calls it: those of a failed save
        # wait minutes for each other, and the process would wait for them at its end.
        self._daemon = ThreadPool(1)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "Checkpoints":
        self._quiet = ExitStack()
        self._quiet.enter_context(silence_orbax())
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        with suppress(Exception):  # of a failed save, which `wait` has reported
            self._daemon.apply(self._manager.close)
        self._daemon.terminate()
        self._quiet.close()

    def note_start(self) -> None:
        """Note what is started here, before it leaves any result, and whether it is saved."""
        self._noted = bool(self.steps())
        if writes():
            noted = {"experiment": self.experiment, "checkpoint": self._noted}
            write_atomically(self._started, json_text(noted, indent=1) + "\n")

    def read_start(self) -> tuple[About, bool] | None:
        """The experiment that was started here, and whether it ever had a checkpoint."""
        try:
            noted = read_json(self._started)
            return dict(noted["experiment"]), bool(noted["checkpoint"])
        except (UserError, KeyError, TypeError, ValueError):  # none, or of an earlier version
            return None

    def steps(self) -> list[int]:
        """The steps of the checkpoints on disk, newest first."""
        return list_steps(self._directory)

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
        about = {"experiment": self.experiment, "arrays": digests(tree)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(tree),
            about=ocp.args.JsonSave({**about, "seal": seal(about)}),
        )
        self._saving = step
        try:
            self._daemon.apply(self._manager.save, (step,), {"args": args})
        except Exception as error:  # Orbax's are of many classes, most of them ValueError
            self._report_failure(first_line(error))

    def poll(self) -> None:
        """Report a save that has failed meanwhile; cheap enough for every step."""
        if self._saving >= 0 and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> bool:
        """Wait for the save under way; whether it is on disk (True also without one)."""
        if self._saving < 0:
            return True
        try:
            self._daemon.apply(self._manager.wait_until_finished)
        except Exception as error:
            return self._report_failure(first_line(error))
        if self._saving not in self.steps():  # Orbax counts a step as saved once it has begun it
            return self._report_failure("it is not there")
        self._saving = -1
        if not self._noted:
            with suppress(OSError):  # a full disk: the next one will note it
                self.note_start()
        return True

    def _report_failure(self, reason: str) -> bool:
        step, self._saving = self._saving, -1
        with suppress(OSError):
            free = shutil.disk_usage(self._directory).free / 1e9
            reason += f"; {free:.1f} GB are free there"
        print(
            f"warning: the checkpoint of step {step} could not be written to {self._directory}:"
            f" {reason}. Training goes on, the next save tries again",
            file=sys.stderr,
        )
        shutil.rmtree(self._directory / f"{step}{TEMPORARY}", ignore_errors=True)
        self._manager.reload()  # else it would refuse this step as already saved
        return False

    # ---- reading

    def restore_newest(
        self, like: TrainState, check: Callable[[About], None] = lambda experiment: None
    ) -> tuple[int, TrainState] | None:
        """The newest state whose digests are right; None without any checkpoint.

        `like` (arrays, or `abstract_state`) gives shapes and types, and where each array is to lie:
        on another mesh than the one it was saved from, if need be. `check` may refuse the
        experiment. A damaged checkpoint is renamed to STEP.damaged, with a message.

        Raises:
          UserError: there are damaged ones only, a file of one cannot be read at all, or the state
            is that of another network.
          MemoryError, or XLA's error: there is not enough memory for it. Nothing is renamed.
        """
        self.wait()
        for step in self.steps():
            folder = self._directory / str(step)
            check_readable(folder, find_unreadable(folder))
            try:
                about = self._read_about(step)
                check(about["experiment"])
                check_arrays(folder, about["arrays"], like)
                return step, self._read_state(step, about["arrays"], like)
            except Damaged as error:
                self._set_aside(step, error)
        if damaged := sorted(self._directory.glob(f"*{DAMAGED}*")):
            best = self._directory.with_name("best")
            start = f", with --pretrained={best} to start from its weights" if best.exists() else ""
            raise UserError(
                f"{self._directory}: every checkpoint is damaged; {len(damaged)} are kept as"
                f" *{DAMAGED} ({damaged[-1].name}). Choose another --workdir{start}. Nothing here"
                " was removed"
            )
        return None

    def _read_about(self, step: int) -> About:
        about = self._read(step, about=ocp.args.JsonRestore())
        try:
            content = {name: about[name] for name in ("experiment", "arrays")}
            if about["seal"] == seal(content):
                return content
        except (KeyError, TypeError):  # JSON, but not what was written
            pass
        raise Damaged("about: its text is not as saved")

    def _read_state(self, step: int, arrays: About, like: TrainState) -> TrainState:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), as_tree(like)
        )
        tree = self._read(step, state=ocp.args.StandardRestore(abstract))
        wrong = [name for name, about in digests(tree).items() if about != arrays[name]]
        if wrong:
            raise Damaged(f"state: {wrong[0]} and {len(wrong) - 1} more arrays are not as saved")
        return TrainState(**tree)

    def _read(self, step: int, **item: Any) -> Any:
        """What Orbax restores of one item; Damaged only where its files can be read."""
        (name,) = item
        for attempt in range(2):  # what fails in passing does not fail twice
            try:
                return self._manager.restore(step, args=ocp.args.Composite(**item))[name]
            except Exception as error:
                check_machine(self._directory / str(step), error)
                if attempt == 1:
                    raise Damaged(first_line(error)) from error

    def _set_aside(self, step: int, error: Damaged) -> None:
        folder = self._directory / str(step)
        aside = folder.with_name(f"{step}{DAMAGED}")
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


@contextmanager
def silence_orbax() -> Iterator[None]:
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
    lines = "".join(traceback.format_exception(error, limit=0)).splitlines()
    if any("MemoryError" in line or OUT_OF_MEMORY.search(line) for line in lines):
        raise error
    said = next((line for line in lines if UNREACHABLE.search(line)), "")
    check_readable(folder, said[:300] or find_unreadable(folder))


def find_unreadable(folder: Path) -> str:
    """Read every file; the first error of the system's, "" where all can be read."""
    for file in sorted(folder.rglob("*")):
        try:
            if file.is_file():  # a broken link is damage
                file.read_bytes()
        except OSError as error:
            return str(error)
    return ""


def check_readable(folder: Path, unread: str) -> None:
    """Raise UserError where something in a checkpoint, `unread`, cannot be read."""
    if unread:
        raise UserError(
            f"{folder} cannot be read now ({unread}); it may be whole, so nothing was renamed."
            " Run the same command again when the files can be read"
        )


def as_tree(state: TrainState) -> dict[str, Any]:
    """The state as plain containers: what Orbax stores does not depend on our class."""
    return {f.name: getattr(state, f.name) for f in fields(state)}


def flatten_tree(tree: Any) -> dict[str, Any]:
    """Path of each array -> the array."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def digests(tree: Any) -> dict[str, list[Any]]:
    """Path of each array -> [type, shape, digest of its bytes], as JSON has it."""
    arrays = flatten_tree(fetch_whole(tree)).items()
    return {name: [str(x.dtype), list(x.shape), digest(x.tobytes())] for name, x in arrays}


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def seal(about: About) -> str:
    """A digest of `about` itself."""
    return digest(json.dumps(about, sort_keys=True).encode())


def check_arrays(folder: Path, arrays: Mapping[str, Any], like: TrainState) -> None:
    """Raise UserError unless a checkpoint's arrays have the names, types and shapes of `like`."""
    leaves = flatten_tree(as_tree(like))
    here = {name: [str(x.dtype), list(x.shape)] for name, x in leaves.items()}
    there = {name: about[:2] for name, about in arrays.items()}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise UserError(
                f"{folder} is of another network or optimiser: {name} is {there.get(name)} there,"
                f" {here.get(name)} here. Choose another --workdir, or start from its weights by"
                " --pretrained"
            )
