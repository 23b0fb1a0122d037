"""A folder of weights: config.json, model.safetensors, classes.json.

It is what `--weights` and `pretrained` take. Safetensors holds named arrays and nothing that could
run.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deeplab_jax.config import Config, ModelConfig, load_json, save_json
from deeplab_jax.errors import UserError
from deeplab_jax.models.build import abstract_variables

Colors = tuple[tuple[int, int, int], ...]


class Weights(NamedTuple):
    """What a folder holds: the experiment, the variables, and what the classes are called."""

    config: Config
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    colors: Colors


def save_weights(directory: Path, weights: Weights) -> None:
    """Write the folder; an older one is replaced only when the new one is complete."""
    staging = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_json(weights.config, staging / "config.json")
    classes = [
        {"name": n, "color": list(c)}
        for n, c in zip(weights.class_names, weights.colors, strict=True)
    ]
    (staging / "classes.json").write_text(json.dumps(classes, indent=1) + "\n")
    # safetensors writes the memory as it lies: an array in Fortran order would come back scrambled
    flat = {
        "/".join(k): np.ascontiguousarray(v) for k, v in flatten_dict(weights.variables).items()
    }
    save_file(flat, staging / "model.safetensors")
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "classes.json", "model.safetensors"):
        os.replace(staging / name, directory / name)
    staging.rmdir()


def load_weights(directory: str | Path, *, complete: bool = True) -> Weights:
    """Read a converted folder, or a run's folder (its `best` weights).

    `complete=False` also takes a folder that lacks whole modules: a backbone alone, to train from.

    Raises:
      UserError: the folder or a file of it is missing or unreadable, or an array's name or shape
        does not fit the network that config.json describes.
    """
    folder = Path(directory)
    if (folder / "best" / "model.safetensors").is_file():
        folder = folder / "best"
    file = folder / "model.safetensors"
    if not file.is_file():
        raise UserError(
            f"{directory}: no model.safetensors there; give a run's folder after its first"
            " evaluation, or one that `python -m deeplab_jax convert` wrote"
        )
    config = load_json(folder / "config.json")
    arrays = read_safetensors(file)
    names, colors = read_class_file(folder / "classes.json", config.model.num_classes)
    variables = check_arrays(arrays, config.model, file, complete)
    return Weights(config, variables, names, colors)


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise UserError(f"{file}: not a readable safetensors file ({e})") from e


def check_arrays(
    arrays: dict[str, np.ndarray], model: ModelConfig, file: Path, complete: bool
) -> dict[str, Any]:
    """The arrays as a variable tree, if names and shapes are those of the network."""
    wanted = {"/".join(k): v.shape for k, v in flatten_dict(abstract_variables(model)).items()}
    if not complete:
        present = {name.split("/")[1] for name in arrays if "/" in name}
        wanted = {name: shape for name, shape in wanted.items() if name.split("/")[1] in present}
    problems = [
        f"  missing {name} {list(wanted[name])}" for name in sorted(set(wanted) - set(arrays))
    ]
    problems += [f"  unknown {name}" for name in sorted(set(arrays) - set(wanted))]
    problems += [
        f"  {name}: file {list(arrays[name].shape)}, model {list(shape)}"
        for name, shape in wanted.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if problems:
        more = [f"  ... and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise UserError(
            "\n".join([f"{file}: does not fit its config.json:", *problems[:20], *more])
        )
    flat = {tuple(name.split("/")): np.asarray(a, np.float32) for name, a in arrays.items()}
    tree: dict[str, Any] = unflatten_dict(flat)
    return tree


def read_class_file(file: Path, num_classes: int) -> tuple[tuple[str, ...], Colors]:
    """Names and colours of classes.json."""
    try:
        rows = json.loads(file.read_text())
        names = tuple(str(row["name"]) for row in rows)
        colors = tuple(tuple(int(x) for x in row["color"]) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{file}: not a readable list of classes ({e})") from e
    if len(names) != num_classes or any(len(c) != 3 for c in colors):
        raise UserError(f"{file}: {len(names)} classes, but the network has {num_classes}")
    return names, colors  # type: ignore[return-value]
