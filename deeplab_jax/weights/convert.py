"""Weights of others into ours: what matched, was left or does not fit; and ours into TF's files."""

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deeplab_jax.config import Color, ModelConfig, TaskConfig, require
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import ade20k, cityscapes, voc
from deeplab_jax.data.masks import list_some
from deeplab_jax.data.tables import read_table
from deeplab_jax.errors import UserError
from deeplab_jax.models.build import init_variables
from deeplab_jax.models.heads import class_layers
from deeplab_jax.weights import zoo
from deeplab_jax.weights.detect import HEAD, TOLD, detect_network, find_untold
from deeplab_jax.weights.files import Weights, save_weights
from deeplab_jax.weights.readers import read_arrays
from deeplab_jax.weights.slots import fill, find_unused, shorten
from deeplab_jax.weights.tf_names import tf_slots, unfold_batch_norm
from deeplab_jax.weights.timm import check_network, timm_slots

OWN_NAMES = ("pspnet", "unet")  # heads of which there are no official names to read
# Data sets that official networks were trained on, by how many classes they have.
OFFICIAL = {len(data.CLASS_NAMES): data for data in (voc, cityscapes, ade20k)}


def convert_file(
    source: str,
    out: Path,
    model: Mapping[str, Any],
    task: Mapping[str, Any],
    *,
    classes: Path | None = None,
    backbone_only: bool = False,
    fresh_logits: bool = False,
) -> str:
    """Write a file of another program's weights as a folder of ours; returns what matched.

    The network is read off the file. What variables cannot tell is that of `model` and `task`; of
    the zoo, where the file is an archive of it; or the official default.

    Raises:
      UserError: the file is no readable one, or does not fit; a setting contradicts it.
    """
    arrays, timm = read_arrays(source), source.endswith(".safetensors")
    row, settings, sizes = zoo.find_row(source)
    if timm or model.get("head") in OWN_NAMES:
        network = ModelConfig(**model)
    else:
        shapes = {name: array.shape for name, array in arrays.items()}
        free = HEAD if backbone_only else {"num_classes"} if fresh_logits else set[str]()
        network = detect_network(shapes, source, {**settings, **model}, free)
    variables, report = convert_variables(
        arrays, network, timm=timm, backbone_only=backbone_only, fresh_logits=fresh_logits
    )
    about = TaskConfig(**{**sizes, **task})
    if classes is not None or not about.classes:
        names, colors = class_list(classes, network.classes)
        about = replace(about, classes=names, colors=colors)
    network = replace(network, num_classes=network.classes)
    save_weights(out, Weights(network, about, variables))
    asked = {*model, *task} | ({"classes"} if classes else set())
    return f"{describe(network, about, asked, row)}\n{report}"


def describe(model: ModelConfig, task: TaskConfig, asked: Set[str], row: str) -> str:
    """What the file tells and is not the default; what it does not, and was not `asked` for."""
    values, usual = vars(model), vars(ModelConfig())
    told = [f"{name} {values[name]}" for name in TOLD if values[name] != usual[name]]
    rest = [f"{name} {value}" for name, value in find_untold(model).items() if name not in asked]
    whose = f"(as the zoo has it of {row})" if row else "(the official defaults)"
    sizes = {"eval_size": task.eval_size, "resize": task.resize}
    parts = [f"{', '.join(rest)} {whose}"] if rest else []
    parts += [f"{name} {value}" for name, value in sizes.items() if name not in asked]
    parts += [] if "classes" in asked else [f"classes {list_some(task.classes, 3)}"]
    others = "others by --model.NAME, --task.NAME, --classes=FILE"
    return f"network: {', '.join(told)}\nnot told by the file: {'; '.join([*parts, others])}"


def class_list(file: Path | None, count: int) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Class names and colours of a file; else of official data with as many classes; else numbers.

    Raises:
      UserError: the file lists another number of them.
    """
    names, colors = tuple(f"class {i}" for i in range(count)), voc_colormap(count)
    if file is not None:
        table = read_table(file)
        names, colors = table.names, table.colors or voc_colormap(len(table.names))
    elif count in OFFICIAL:
        names, colors = OFFICIAL[count].CLASS_NAMES, OFFICIAL[count].COLORS
    allowed = f"{count}, as many as model.num_classes"
    require(len(names) == count, f"--classes={file}: the number of names", len(names), allowed)
    return names, colors


def convert_variables(
    arrays: Mapping[str, np.ndarray],
    model: ModelConfig,
    *,
    timm: bool,
    backbone_only: bool,
    fresh_logits: bool,
) -> tuple[dict[str, Any], str]:
    """Our variables from arrays under TF names or timm's; what matched and what was left.

    Raises:
      UserError: the arrays do not fit the network, or timm has no such network.
    """
    given = arrays
    if timm:
        check_network(arrays, model)
        if not backbone_only and model.head != "classifier":
            raise UserError(
                f"timm has no weights for the head {model.head}: take the backbone with"
                " --backbone-only, or all with --model.head=classifier"
            )
        slots = timm_slots(model)
    else:
        slots = tf_slots(model)
        arrays = unfold_batch_norm(given, slots, model)
    fresh_logits = fresh_logits and not backbone_only
    last = class_layers(model)
    skip = set(last) if fresh_logits else set()
    if backbone_only:
        skip = {path[1] for path in slots} - {"backbone"}
    variables = fill(arrays, slots, model, skip=skip)
    taken = {slot.name for path, slot in slots.items() if path[1] not in skip}
    left = find_unused({name: array.shape for name, array in arrays.items()}, taken)
    lines = [f"{len(taken)} arrays matched; {len(left)} arrays of the file were left out"]
    lines += shorten(left)
    lines += ["BatchNorm is folded into the convolutions"] if len(arrays) > len(given) else []
    if fresh_logits:
        init = jax.jit(lambda key: {m: init_variables(model, key)["params"][m] for m in last})
        variables["params"] |= init(jax.random.key(0))
        lines += ["the last layer starts afresh"]
    return variables, "\n".join(lines)


def write_tf_arrays(target: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays by TF variable name into an .npz, or a TF1 checkpoint of that prefix.

    Raises:
      UserError: the files cannot be written; TensorFlow is needed and absent.
    """
    path = Path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            np.savez(path, **arrays)  # type: ignore[arg-type]
        else:
            write_checkpoint(target, arrays)
    except OSError as e:
        raise UserError(f"{target}: cannot be written ({e})") from e


def import_tensorflow() -> Any:
    """TensorFlow, which is needed to write its checkpoints and for nothing else."""
    try:
        import tensorflow
    except ImportError as e:
        raise UserError(
            "TensorFlow writes its checkpoints, and it is not here: pip install tensorflow-cpu, or"
            " write an .npz, --out FILE.npz"
        ) from e
    return tensorflow


def write_checkpoint(prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
    """A TF1 checkpoint with global_step 0 beside the arrays.

    The official `vis.py` restores every variable of its graph, global_step among them.
    """
    tf = import_tensorflow()
    variables = {"global_step": np.zeros((), np.int64), **arrays}
    try:
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            tensors=[tf.constant(array) for array in variables.values()],
        )
    except tf.errors.OpError as e:
        raise UserError(f"{prefix}: cannot be written ({e})") from e
