"""Weights of others into ours: what matched, was left or does not fit; and ours into TF's files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deeplab_jax.config import Color, ModelConfig, TaskConfig, require
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import voc
from deeplab_jax.data.tables import read_table
from deeplab_jax.errors import UserError
from deeplab_jax.models.build import init_variables
from deeplab_jax.models.heads import class_layers
from deeplab_jax.weights.files import Weights, save_weights
from deeplab_jax.weights.readers import import_tensorflow, read_arrays
from deeplab_jax.weights.slots import fill, find_unused, shorten
from deeplab_jax.weights.tf_names import tf_slots, unfold_batch_norm
from deeplab_jax.weights.timm import check_network, timm_slots


def convert_file(
    source: str,
    out: Path,
    model: ModelConfig,
    task: TaskConfig,
    *,
    classes: Path | None,
    backbone_only: bool,
    fresh_logits: bool,
) -> str:
    """Write a file of another program's weights as a folder of ours; returns what matched.

    Raises:
      UserError: the file is no readable one, or does not fit the network.
    """
    names, colors = class_list(classes, model.classes)
    variables, report = convert_variables(
        read_arrays(source),
        model,
        timm=source.endswith(".safetensors"),
        backbone_only=backbone_only,
        fresh_logits=fresh_logits,
    )
    model = replace(model, num_classes=model.classes)
    save_weights(out, Weights(model, replace(task, classes=names, colors=colors), variables))
    return report


def class_list(file: Path | None, count: int) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Class names and colours of a file; without one, VOC's for 21 classes, else numbers."""
    names, colors = tuple(f"class {i}" for i in range(count)), voc_colormap(count)
    if file is not None:
        table = read_table(file)
        names, colors = table.names, table.colors or voc_colormap(len(table.names))
    elif count == len(voc.CLASS_NAMES):
        names, colors = voc.CLASS_NAMES, voc.COLORS
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
        arrays = unfold_batch_norm(arrays, slots, model)
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
