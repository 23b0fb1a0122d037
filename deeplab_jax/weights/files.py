"""A folder of weights: model.json (format, network and task) and model.safetensors.

It is what `--weights` and `train.pretrained` take. Safetensors holds named arrays and nothing that
could run. Folders from before model.json, with config.json and classes.json, are read too.
"""

import difflib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError
from safetensors.numpy import save_file

from deeplab_jax.config import (
    ModelConfig,
    TaskConfig,
    from_dict,
    load_json,
    read_json,
    require,
    to_dict,
)
from deeplab_jax.config.formats import current
from deeplab_jax.errors import UserError
from deeplab_jax.files import json_text
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.weights.claims import READABLE
from deeplab_jax.weights.readers import (
    FLOATS,
    NO_PICKLES,
    PICKLES,
    TARS,
    open_safetensors,
    read_safetensors,
    read_shapes,
)
from deeplab_jax.weights.slots import Slot, check_fit, fill
from deeplab_jax.weights.tf_checkpoint import is_checkpoint

FORMAT = 1
FILES = ("model.json", "model.safetensors")
OLD_FILES = ("config.json", "classes.json", "model.safetensors")  # before model.json
CONVERT = "`deeplab convert {} --out FOLDER` makes a folder of another program's file"
NOTE = "deeplab_jax"  # one entry alone: safetensors writes several in an order of chance
NO_NOTE: Mapping[str, Any] = {}


class Weights(NamedTuple):
    """What a folder holds: the network, its variables, and the task it was trained for."""

    model: ModelConfig
    task: TaskConfig
    variables: dict[str, Any]


def save_weights(directory: Path, weights: Weights, note: Mapping[str, Any] = NO_NOTE) -> None:
    """Write the folder; an older one is replaced only when the new one is complete.

    `note`, JSON's, is kept in the file of the arrays itself, so that it is always theirs.

    Raises:
      OSError: it cannot be written.
    """
    staging = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    about = {"format": FORMAT, "model": to_dict(weights.model), "task": to_dict(weights.task)}
    (staging / "model.json").write_text(json_text(about, indent=1) + "\n", encoding="utf-8")
    # safetensors writes memory as it lies: an array in Fortran order would come back scrambled.
    leaves = flatten_dict(weights.variables)
    arrays = {"/".join(path): np.ascontiguousarray(leaf) for path, leaf in leaves.items()}
    metadata = {NOTE: json_text(dict(note))} if note else None
    try:
        save_file(arrays, staging / "model.safetensors", metadata)
    except SafetensorError as error:  # a full disk, most likely
        raise OSError(str(error)) from error
    directory.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        os.replace(staging / name, directory / name)
    if (directory / "classes.json").is_file():  # else config.json may be a run's own
        for name in set(OLD_FILES) - set(FILES):
            (directory / name).unlink(missing_ok=True)
    staging.rmdir()


def load_weights(directory: str | Path, *, complete: bool = True) -> Weights:
    """Read a converted folder, or a run's folder (its `best` weights); or name the file in it.

    `complete=False` also takes a folder that lacks whole modules: a backbone alone, to train from.

    Raises:
      UserError: the folder or a file of it is missing or unreadable; an array's name, shape or
        type does not fit the network that is described beside it, which is found out before any
        array is read; or a value is not finite.
    """
    folder = find_weights(Path(directory))
    file = folder / "model.safetensors"
    model, task = read_about(folder)
    shapes = read_shapes(file, FLOATS)
    slots = {
        path: Slot("/".join(path), leaf.shape, tuple(range(len(leaf.shape))))
        for path, leaf in flatten_dict(abstract_variables(model)).items()
    }
    if not complete:
        there = {name.split("/")[1] for name in shapes if "/" in name}
        slots = {path: slot for path, slot in slots.items() if path[1] in there}
    advice = "Does model.safetensors belong to the files beside it?"
    check_fit(shapes, slots, model, where=file, advice=advice)
    return Weights(model, task, fill(read_safetensors(file), slots, model, where=file))


def read_about(folder: Path) -> tuple[ModelConfig, TaskConfig]:
    """The network and the task of a folder of weights, of today's form or the older one."""
    old = not (folder / "model.json").is_file()
    file = folder / ("classes.json" if old else "model.json")
    about = read_old(folder) if old else read_json(file)
    try:
        number = about.get("format") if isinstance(about, dict) else None
        if number != FORMAT:
            allowed = f"this version reads format {FORMAT}; did a later one write it?"
            raise UserError(f"format = {number!r:.80}: {allowed}")
        about = current(about)
        model: ModelConfig = from_dict(ModelConfig, about.get("model"), "model.")
        task: TaskConfig = from_dict(TaskConfig, about.get("task"), "task.")
        names = len(task.classes)
        allowed = f"{model.classes}, as many as model.num_classes"
        require(names == model.classes, "the number of task.classes", names, allowed)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    return model, task


def read_old(folder: Path) -> dict[str, Any]:
    """What model.json would hold, from the config.json and classes.json of an older folder."""
    config, rows = load_json(folder / "config.json"), read_json(folder / "classes.json")
    try:
        table = {"classes": [row["name"] for row in rows], "colors": [row["color"] for row in rows]}
    except (KeyError, TypeError) as e:
        raise UserError(f"{folder / 'classes.json'}: no list of name and color ({e})") from e
    about = {"model": to_dict(config.model), "task": to_dict(config.task) | table}
    return {"format": FORMAT, **about}


def read_note(directory: Path) -> dict[str, Any]:
    """The `note` that the weights were saved with; {} without one."""
    with open_safetensors(directory / "model.safetensors") as tensors:
        note = json.loads((tensors.metadata() or {}).get(NOTE, "{}"))
    return note if isinstance(note, dict) else {}


def find_weights(given: Path) -> Path:
    """The folder of weights that a folder, a run's folder or a model.safetensors stands for.

    What is not here may be a name of the zoo or, where there is no folder `user` either, in which
    `user/model` would be a slip of the pen, a model of the Hugging Face Hub.

    Raises:
      UserError: there is none, or a file of it is missing; with what to do about it.
    """
    if not given.exists() and len(given.parts) == 1 and not Path(f"{given}.index").is_file():
        from deeplab_jax.weights import zoo  # which converts, and so writes folders of weights

        if given.name in zoo.ROWS:
            given = zoo.fetch(given.name)
        elif near := difflib.get_close_matches(given.name, zoo.ROWS, 3):
            names = " or ".join(near)
            raise UserError(f"{given}: no such folder; did you mean {names} (`deeplab zoo`)?")
    elif not given.exists() and not given.parent.is_dir():
        from deeplab_jax.weights import hub  # which knows what a folder of weights is

        if hub.NAME_AT.fullmatch(given.as_posix()):
            given = hub.fetch(given.as_posix())
    if given.name == "model.safetensors" and given.is_file():
        given = given.parent
    best = given / "best"
    folder = best if (best / "model.safetensors").is_file() else given
    missing = missing_files(folder)
    if "model.safetensors" in missing:
        raise UserError(f"{given}: no model.safetensors there; {advise(given)}")
    if missing:
        what = f"{' and '.join(missing)} missing beside model.safetensors: copy it too"
        raise UserError(f"{folder}: {what}; {CONVERT.format(folder / 'model.safetensors')}")
    return folder


def missing_files(folder: Path) -> list[str]:
    """Which files of a folder of weights, of today's form or the older one, are not there."""
    there = {name for name in {*FILES, *OLD_FILES} if (folder / name).is_file()}
    old = "model.json" not in there and there & {"config.json", "classes.json"}
    return [name for name in (OLD_FILES if old else FILES) if name not in there]


def advise(given: Path) -> str:
    """What to do with a path that is no folder of weights."""
    if given.suffix.lower() in PICKLES:
        return NO_PICKLES
    named = given.name.endswith((".safetensors", ".npz", ".index", *TARS))
    known = (given.is_file() and named) or is_checkpoint(given)
    if given.is_file() and not known:
        return f"{given.name} is not of a kind that can be read, here or by `convert`: {READABLE}"
    if (given / "checkpoints").is_dir():
        return "this run has no evaluation yet: the same training command, run again, goes on to it"
    for source in [given] if known else sorted(given.glob("*.index")):
        return CONVERT.format(source)
    return "give a run's folder after its first evaluation, or one that `deeplab convert` wrote"
