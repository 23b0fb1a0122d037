"""Where a run begins: at its newest checkpoint, or at step 0 of a folder without results.

The recipe and the data must be those of the checkpoint; intervals, limits, paths, the mesh and how
predictions are looked at may change (`deeplab_jax.config.COMPARED`).
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from deeplab_jax.config import COMPARED, Config, flatten, save_json, to_dict
from deeplab_jax.config.formats import present
from deeplab_jax.data.source import Source
from deeplab_jax.errors import UserError
from deeplab_jax.parallel.processes import writes
from deeplab_jax.training.checkpoint import About, Checkpoints
from deeplab_jax.training.start import initial_variables
from deeplab_jax.training.state import TrainState, abstract_state, fresh_state

RESULTS = ("best", "evaluation", "report.html", "metrics.jsonl")


# How the data were found: that they are the same is compared itself.
FINDING = ("layout", "image_dir", "mask_dir", "classes", "holdout", "zero", "ignore_label")


def recipe(config: Config) -> dict[str, Any]:
    """The sections of a configuration that a resumed run must find again."""
    values = {section: fields for section, fields in to_dict(config).items() if section in COMPARED}
    values["data"] = {k: value for k, value in values["data"].items() if k not in FINDING}
    return values


def describe_experiment(config: Config, train_source: Source, eval_source: Source) -> About:
    """What a checkpoint says it belongs to: what a resume compares, and the data."""
    data = {"data set": train_source.fingerprint, "evaluation set": eval_source.fingerprint}
    return flatten(recipe(config)) | data


def find_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for each field of the flat `new` that was another in `old`, of any format."""
    there = present(old)
    changed = [name for name in new if name in there and there[name] != new[name]]
    return [f"  {name}: there {there[name]!r}, now {new[name]!r}" for name in changed]


def check_same(where: Path, old: Mapping[str, Any], new: Mapping[str, Any], accept: bool) -> None:
    """Raise UserError, showing both values, where the flat `new` differs; or `accept` it."""
    lines = find_differences(old, new)
    if not lines:
        return
    message = "\n".join([f"{where} holds a run with another configuration or data:", *lines])
    if not accept:
        raise UserError(
            f"{message}\nResume it as it was, choose another --workdir, or go on with the change by"
            " --accept_changes=True"
        )
    print(f"warning: {message}", file=sys.stderr)


def check_startable(workdir: Path, checkpoints: Checkpoints) -> None:
    """Raise UserError unless a run without a checkpoint may begin in its folder.

    A run that was killed before its first checkpoint may. What else left results would lose them.
    """
    there = [workdir / name for name in RESULTS]
    results = [f.name for f in there if f.exists() and f.stat().st_size > 0]
    begun = checkpoints.read_start() if results else None
    changed, reason = [], "but no checkpoint to go on from"
    if begun is not None and not begun[1]:
        changed = find_differences(begun[0], checkpoints.experiment)
        reason = "of another configuration or data"
        if not changed:
            return
    if results:
        best = workdir / "best"
        start = f", with --pretrained={best} to start from its weights" if best.exists() else ""
        message = (
            f"workdir = {workdir} holds results ({', '.join(results)}) {reason}, which a new run"
            f" would replace: choose another --workdir{start}"
        )
        raise UserError("\n".join([message, *changed]))


def begin_or_resume(
    config: Config, source: Source, mesh: Mesh, checkpoints: Checkpoints
) -> TrainState:
    """The newest checkpoint's state, or a fresh one, on the mesh's devices.

    Raises:
      UserError: the checkpoint is of another recipe or other data, or there is none but results.
    """
    workdir, accept = Path(config.machine.workdir), config.machine.accept_changes
    check = partial(check_same, workdir, new=checkpoints.experiment, accept=accept)
    restored = checkpoints.restore_newest(abstract_state(config, mesh), check)
    if restored is not None:
        step, state = restored
        print(f"resuming {workdir} from step {step}", file=sys.stderr)
    else:
        check_startable(workdir, checkpoints)
        if (workdir / "metrics.jsonl").exists():
            print(f"{workdir} has no checkpoint yet: starting at step 0", file=sys.stderr)
        state = fresh_state(config, initial_variables(config, source), mesh)
    checkpoints.note_start()
    if writes():
        save_json(config, workdir / "config.json")
    return state
