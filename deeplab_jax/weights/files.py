"""A folder of weights: model.json (format, network and task) and model.safetensors.

It is what `--weights` and `pretrained` take; older folders, with config.json, are read too. Safetensors holds named arrays and nothing that could
run.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deeplab_jax.config import (
    ModelConfig,
    TaskConfig,
    from_dict,
    from_value,
    load_json,
    read_json,
    require,
    to_dict,
)
from deeplab_jax.errors import UserError
from deeplab_jax.files import json_text
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.weights.slots import as_float32, check_finite, shorten

Color = tuple[int, int, int]
Colors = tuple[Color, ...]
FLOATS = ("F16", "BF16", "F32", "F64")  # safetensors' names of what weights may be
DTYPES = (*FLOATS, "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")  # counts beside them
FORMAT = 1
FILES = ("model.json", "model.safetensors")
OLD_FILES = ("config.json", "classes.json", "model.safetensors")  # before model.json
CONVERT = "`python -m deeplab_jax convert {} --out FOLDER` makes a folder of another program's file"
READABLE = "a TensorFlow checkpoint (its prefix, or a .tar.gz), an .npz or timm's .safetensors"
PICKLES = (".pth", ".pt", ".bin", ".pkl", ".pickle")
SAVE_AS_SAFETENSORS = """\
a pickle can run code when it is read, so none is. Save it as safetensors, where PyTorch is:
  import safetensors.torch, torch
  state = torch.load("model.pth", map_location="cpu", weights_only=True)
  safetensors.torch.save_file(state, "model.safetensors")
and make that into a folder: `python -m deeplab_jax convert model.safetensors --out FOLDER`"""
LFS_POINTER = b"version https://git-lfs"
NOTE = "deeplab_jax"  # one entry alone: safetensors writes several in an order of chance
NO_NOTE: Mapping[str, Any] = {}
MAX_HEADER_BYTES = 2**20  # of safetensors; that of xception_71, with 802 arrays, has 0.1 MB
MAX_BYTES = 2 * 2**30  # what a file of weights may unpack to; the largest official has about 1 GB


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
    staging = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    about = {"format": FORMAT, "model": to_dict(weights.model), "task": to_dict(weights.task)}
    (staging / "model.json").write_text(json_text(about, indent=1) + "\n", encoding="utf-8")
    # safetensors writes the memory as it lies: an array in Fortran order would come back scrambled
    flat = {
        "/".join(k): np.ascontiguousarray(v) for k, v in flatten_dict(weights.variables).items()
    }
    try:
        save_file(
            flat, staging / "model.safetensors", {NOTE: json_text(dict(note))} if note else None
        )
    except SafetensorError as error:  # a full disk, most likely
        raise OSError(str(error)) from error
    directory.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        os.replace(staging / name, directory / name)
    for name in OLD_FILES[:2]:
        (directory / name).unlink(missing_ok=True)
    staging.rmdir()


def load_weights(directory: str | Path, *, complete: bool = True) -> Weights:
    """Read a converted folder, or a run's folder (its `best` weights); or name the file in it.

    `complete=False` also takes a folder that lacks whole modules: a backbone alone, to train from.

    Raises:
      UserError: the folder or a file of it is missing or unreadable; an array's name, shape or
        type does not fit the network that config.json describes, which is found out before any
        array is read; or a value is not finite.
    """
    folder = find_weights(Path(directory))
    file = folder / "model.safetensors"
    model, task = read_about(folder)
    check_header(file, model, complete)
    arrays = {name: as_float32(array) for name, array in read_safetensors(file).items()}
    check_finite(arrays, file)
    variables: dict[str, Any] = unflatten_dict({tuple(k.split("/")): v for k, v in arrays.items()})
    return Weights(model, task, variables)


def read_about(folder: Path) -> tuple[ModelConfig, TaskConfig]:
    """The network and the task of a folder of weights, of today's or the older form."""
    file = folder / "model.json"
    if not file.is_file():
        return read_old(folder)
    about = read_json(file)
    try:
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            number = about.get("format") if isinstance(about, dict) else None
            raise UserError(f"format = {number!r:.80}: this version reads format {FORMAT}")
        model: ModelConfig = from_dict(ModelConfig, about.get("model"), "model.")
        task: TaskConfig = from_dict(TaskConfig, about.get("task"), "task.")
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    n = len(task.classes)
    require(n == model.classes, f"{file}: task.classes", n, f"{model.classes} names")
    return model, task


def read_old(folder: Path) -> tuple[ModelConfig, TaskConfig]:
    """The same of a folder from before model.json: config.json and classes.json."""
    config = load_json(folder / "config.json")
    names, colors = read_class_file(folder / "classes.json", config.model.classes)
    task = replace(config.task, classes=names, colors=colors)
    if config.model.head == "classifier":
        task = replace(task, eval_size=task.eval_size or config.data.crop_size)
    return config.model, task


def find_weights(given: Path) -> Path:
    """The folder of weights that a folder, a run's folder or a model.safetensors stands for.

    Raises:
      UserError: there is none, or a file of it is missing; with what to do about it.
    """
    if given.name == "model.safetensors" and given.is_file():
        folder = given.parent
    else:
        folder = next(
            (f for f in (given / "best", given) if (f / "model.safetensors").is_file()), given
        )
    missing = missing_files(folder)
    if "model.safetensors" in missing:
        raise UserError(f"{given}: no model.safetensors there; {instead_of(given)}")
    if missing:
        raise UserError(
            f"{folder}: {' and '.join(missing)} missing beside model.safetensors; they belong"
            f" together: copy it too. {CONVERT.format(folder / 'model.safetensors')}"
        )
    return folder


def missing_files(folder: Path) -> list[str]:
    """Which files of a folder of weights are not there."""
    there = {name for name in {*FILES, *OLD_FILES} if (folder / name).is_file()}
    wanted = FILES if "model.json" in there or not there & {*OLD_FILES[:2]} else OLD_FILES
    return [name for name in wanted if name not in there]


def instead_of(given: Path) -> str:
    """What to do with a path that is no folder of weights."""
    if given.is_file():
        return foreign(given)
    if given.with_name(f"{given.name}.index").is_file():
        return CONVERT.format(given)
    if (given / "checkpoints").is_dir():
        return "this run has no evaluation yet: the same training command, run again, goes on to it"
    if prefixes := sorted(given.glob("*.index")):
        return CONVERT.format(prefixes[0])
    return (
        "give a run's folder after its first evaluation, or one that `python -m deeplab_jax"
        " convert` wrote"
    )


def foreign(file: Path) -> str:
    """What to do with a file of another program's weights."""
    if file.suffix.lower() in PICKLES:
        return SAVE_AS_SAFETENSORS
    if file.name.endswith((".safetensors", ".npz", ".index", ".tar.gz", ".tgz", ".tar")):
        return CONVERT.format(file)
    return f"{file.name} is not of a kind that can be read, here or by `convert`: {READABLE}"


def read_note(directory: Path) -> dict[str, Any]:
    """The `note` that the weights were saved with; {} without one."""
    with opened(directory / "model.safetensors") as tensors:
        note = json.loads((tensors.metadata() or {}).get(NOTE, "{}"))
    return note if isinstance(note, dict) else {}


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every array of a safetensors file, by name; no array is read.

    safetensors itself refuses a file that is not exactly as long as its arrays, one after another,
    so that the file's size bounds what they take.
    """
    with opened(file) as tensors:
        parts = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file; numbers only."""
    refused = [
        f"{n}: {dtype}" for n, (dtype, _) in read_header(file).items() if dtype not in DTYPES
    ]
    if refused:
        raise UserError(f"{file}: arrays of types that are no weights: {', '.join(refused[:20])}")
    with opened(file) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file}: larger than {MAX_BYTES >> 30} GB")
        with file.open("rb") as stream:
            start = stream.read(len(LFS_POINTER))
            if start == LFS_POINTER:
                raise UserError(
                    f"{file}: only Git LFS's pointer to the weights; run `git lfs pull`"
                )
            if int.from_bytes(start[:8], "little") > MAX_HEADER_BYTES:
                raise ValueError(f"its header has more than {MAX_HEADER_BYTES >> 20} MB")
        with safe_open(file, framework="numpy") as tensors:
            yield tensors
    except (SafetensorError, OSError, ValueError) as e:  # ValueError: no array has such a shape
        raise UserError(
            f"{file}: not a readable safetensors file ({e}); was it copied or downloaded whole?"
        ) from e


def check_header(file: Path, model: ModelConfig, complete: bool) -> None:
    """Raise UserError unless the names, shapes and types in a file are those of the network."""
    header = read_header(file)
    wanted = {"/".join(k): v.shape for k, v in flatten_dict(abstract_variables(model)).items()}
    if not complete:
        present = {name.split("/")[1] for name in header if "/" in name}
        wanted = {name: shape for name, shape in wanted.items() if name.split("/")[1] in present}
    problems = [
        f"missing {name} {list(wanted[name])}" for name in sorted(set(wanted) - set(header))
    ]
    problems += [f"unknown {name}" for name in sorted(set(header) - set(wanted))]
    problems += [
        f"{name}: file {list(header[name][1])}, model {list(shape)}"
        for name, shape in wanted.items()
        if name in header and header[name][1] != shape
    ]
    problems += [
        f"{name}: file {dtype}, allowed {', '.join(FLOATS)}"
        for name, (dtype, _) in header.items()
        if dtype not in FLOATS
    ]
    if problems:
        lines = [f"  {line}" for line in shorten(problems)]
        raise UserError(
            "\n".join([f"{file}: does not fit the network that is described beside it:", *lines])
        )


def read_class_file(file: Path, num_classes: int) -> tuple[tuple[str, ...], Colors]:
    """Names and colours of classes.json."""
    rows = read_json(file)
    try:
        names = tuple(from_value(str, row["name"], f"{file}: name") for row in rows)
        colors = tuple(from_value(Color, row["color"], f"{file}: color") for row in rows)
    except (KeyError, TypeError) as e:
        raise UserError(f"{file}: not a readable list of classes ({e})") from e
    if len(names) != num_classes:
        raise UserError(f"{file}: {len(names)} classes, but the network has {num_classes}")
    for color in colors:
        require(all(0 <= c <= 255 for c in color), f"{file}: color", color, "0 to 255 each")
    return names, colors
