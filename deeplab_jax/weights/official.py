"""The flags of the official scripts (`common.py`, `train.py`, `export_model.py`) as a network."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from deeplab_jax.config import Backbone, ModelConfig, one_of, read_json, require
from deeplab_jax.config.cell import Cell, read_cell
from deeplab_jax.errors import UserError

# Official defaults of the flags that say what the network is; None: without, or as many as needed.
DEFAULTS = {
    "task": "segmentation",
    "model_variant": "mobilenet_v2",
    "num_classes": None,
    "output_stride": 16,
    "atrous_rates": None,
    "multi_grid": None,
    "depth_multiplier": 1.0,
    "divisible_by": None,
    "finegrain_classification_mode": False,
    "add_image_level_feature": True,
    "image_pooling_crop_size": None,
    "image_pooling_stride": (1, 1),
    "image_pyramid": None,
    "aspp_with_batch_norm": True,
    "aspp_with_separable_conv": True,
    "aspp_convs_filters": 256,
    "aspp_with_concat_projection": True,
    "aspp_with_squeeze_and_excitation": False,
    "image_se_uses_qsigmoid": False,
    "decoder_output_stride": None,
    "decoder_use_separable_conv": True,
    "decoder_use_sum_merge": False,
    "decoder_filters": 256,
    "decoder_output_is_logits": False,
    "logits_kernel_size": 1,
    "use_bounded_activation": False,
}
# dense_prediction_cell_branch5_top1_cityscapes.json, the one cell of which weights are published.
CITYSCAPES_CELL = [
    {"kernel": 3, "rate": rate, "op": "conv", "input": at}
    for rate, at in (([1, 6], -1), ([18, 15], 0), ([6, 3], 1), ([1, 1], 0), ([6, 21], 0))
]
# The flag behind a field, where the names differ.
FLAGS = {
    "backbone": "model_variant",
    "width": "depth_multiplier",
    "width_divisor": "divisible_by",
    "aspp_channels": "aspp_convs_filters",
    "decoder_strides": "decoder_output_stride",
    "decoder_channels": "decoder_filters",
    "logits_kernel": "logits_kernel_size",
}


def official_config(flags: Mapping[str, Any]) -> ModelConfig:
    """The network that the official code builds from these flags, each under its own name.

    Flags that are left out, or None, have the official defaults. Those that say nothing of the
    network are left alone, and so are those of which the official code takes no notice (multi_grid
    of a MobileNet). The cell is the JSON itself as `dense_prediction_cell` or
    `dense_prediction_cell_config`, or in the file `dense_prediction_cell_json`. `task` =
    classification is slim's classifier. Lists may be as on the command line: "513,513".

    Raises:
      UserError: a flag's value is not one of it, or cannot be had here.
    """
    f = DEFAULTS | {name: value for name, value in flags.items() if value is not None}
    variants = [name for name in get_args(Backbone) if name != "unet"]
    one_of("model_variant", f["model_variant"], variants)
    one_of("task", f["task"], ("segmentation", "classification"))
    try:
        head = {} if f["task"] == "classification" else aspp_fields(f) | decoder_fields(f)
        return ModelConfig(**head | backbone_fields(f))
    except UserError as error:
        named = re.sub(r"model\.(\w+)", lambda m: FLAGS.get(m[1], m[1]), str(error))
        raise UserError(named) from error


def backbone_fields(f: Mapping[str, Any]) -> dict[str, Any]:
    """Backbone and classes, and the head of a classifier."""
    variant, classifier = f["model_variant"], f["task"] == "classification"
    fields: dict[str, Any] = {"backbone": variant, "num_classes": class_count(f)}
    if variant.startswith("mobilenet"):
        fields["width"] = number("depth_multiplier", f["depth_multiplier"], float)
    else:
        grid, units = numbers(f, "multi_grid"), 2 if "_18" in variant else 3
        allowed = f"{units} factors for {variant}"
        require(len(grid) in (0, units), "multi_grid", f["multi_grid"], allowed)
        fields["multi_grid"] = (*grid, 1, 1, 1)[:3]
    if variant == "mobilenet_v2":
        divisor = f["divisible_by"] or (8 if classifier else None)
        fields["width_divisor"] = divisor and number("divisible_by", divisor)
    if not classifier:
        return fields
    fine = is_true(f, "finegrain_classification_mode")
    same = not variant.startswith("mobilenet") or fields["width"] == 1
    allowed = f"only the last layer in full is to be had for depth_multiplier {fields.get('width')}"
    require(fine or same, "finegrain_classification_mode", fine, allowed)
    return fields | {"head": "classifier", "output_stride": 32}


def class_count(f: Mapping[str, Any]) -> int | None:
    """`num_classes`, or the one of `outputs_to_num_classes`."""
    outputs = f.get("outputs_to_num_classes") or {"semantic": f["num_classes"]}
    allowed = "one output alone, such as {'semantic': 21}"
    ok = isinstance(outputs, Mapping) and len(outputs) == 1
    require(ok, "outputs_to_num_classes", outputs, allowed)
    (count,) = outputs.values()
    return None if count is None else number("num_classes", count)


def aspp_fields(f: Mapping[str, Any]) -> dict[str, Any]:
    """What stands on the backbone, and the logits."""
    pyramid = f["image_pyramid"]
    ok = pyramid is None or numbers(f, "image_pyramid", kind=float) == (1.0,)
    require(ok, "image_pyramid", pyramid, "one scale alone: leave it out")
    normal, cell = is_true(f, "aspp_with_batch_norm"), read_official_cell(f)
    projected = is_true(f, "aspp_with_concat_projection")
    sigmoid = "hard_sigmoid" if is_true(f, "image_se_uses_qsigmoid") else "sigmoid"
    gated = is_true(f, "aspp_with_squeeze_and_excitation")
    # The official cell has its own 256 channels.
    channels = 256 if cell else number("aspp_convs_filters", f["aspp_convs_filters"])
    return {
        "output_stride": number("output_stride", f["output_stride"]),
        "atrous_rates": numbers(f, "atrous_rates"),
        "activation": "relu6" if is_true(f, "use_bounded_activation") else "relu",
        "aspp_form": "deeplabv2" if not normal else "projection" if projected else "concat",
        "aspp_channels": channels,
        "aspp_separable": is_true(f, "aspp_with_separable_conv"),
        "dense_prediction_cell": cell if normal else (),
        "image_pooling": is_true(f, "add_image_level_feature"),
        "image_pooling_crop_size": numbers(f, "image_pooling_crop_size", 2) or None,
        "image_pooling_stride": numbers(f, "image_pooling_stride", 2) or (1, 1),
        "image_pooling_gate": sigmoid if gated else "none",
        "logits_kernel": number("logits_kernel_size", f["logits_kernel_size"]),
    }


def decoder_fields(f: Mapping[str, Any]) -> dict[str, Any]:
    """The head with or without a decoder."""
    strides, makes_logits = (
        numbers(f, "decoder_output_stride"),
        is_true(f, "decoder_output_is_logits"),
    )
    if not strides:
        require(not makes_logits, "decoder_output_is_logits", True, "without a decoder: False")
        return {"head": "deeplabv3"}
    ok = f["model_variant"] != "mobilenet_edgetpu"
    allowed = "official code has no low-level features of mobilenet_edgetpu: leave it out"
    require(ok, "decoder_output_stride", f["decoder_output_stride"], allowed)
    filters, classes = number("decoder_filters", f["decoder_filters"]), class_count(f) or 21
    allowed = f"{classes}, as many as classes, where decoder_output_is_logits"
    require(not makes_logits or filters == classes, "decoder_filters", filters, allowed)
    return {
        "head": "deeplabv3plus",
        "decoder_strides": strides,
        "decoder_channels": filters,
        "decoder_separable": is_true(f, "decoder_use_separable_conv") and not makes_logits,
        "decoder_merge": "sum" if is_true(f, "decoder_use_sum_merge") else "concat",
        "decoder_logits": makes_logits,
    }


def read_official_cell(f: Mapping[str, Any]) -> Cell:
    """The dense prediction cell; () without one."""
    for name in ("dense_prediction_cell", "dense_prediction_cell_config"):
        if f.get(name):
            return read_cell(f[name], name)
    file = f.get("dense_prediction_cell_json")
    return read_cell(read_json(Path(file)), str(file)) if file else ()


def is_true(f: Mapping[str, Any], name: str) -> bool:
    """A flag that is True or False, or 1, 0, "true" or "false"."""
    word = str(f[name]).lower()
    require(word in ("true", "false", "1", "0"), name, f[name], "True or False")
    return word in ("true", "1")


def numbers(f: Mapping[str, Any], name: str, count: int = 0, kind: type = int) -> tuple[Any, ...]:
    """A flag of several numbers, a list or "6,12,18", as many as `count` says; () without."""
    value = f[name]
    parts = value.split(",") if isinstance(value, str) else value
    parts = parts if isinstance(parts, list | tuple) else () if parts is None else (parts,)
    found = tuple(number(name, part, kind) for part in parts if part != "")
    ok = not count or len(found) in (0, count)
    require(ok, name, value, f"{count} numbers, such as {','.join(['1'] * count)}")
    return found


def number(name: str, value: Any, kind: type = int) -> Any:
    """A number, or its digits, as this type."""
    try:
        found = kind(value)
        if isinstance(value, bool) or found != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        allowed = "a whole number" if kind is int else "a number"
        raise UserError(f"{name} = {value!r:.80} is not possible: {allowed} is needed") from None
    return found
