"""Official TF variable names <-> our variable tree.

Our modules are named after TF's scopes, so that the rule is one function from a path in our tree to
a TF name.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.build import abstract_variables, family
from deeplab_jax.models.layers import OPTIONS
from deeplab_jax.weights.slots import Path, Slot, fill

LEAVES = {
    "scale": "BatchNorm/gamma",
    "bias": "BatchNorm/beta",
    "mean": "BatchNorm/moving_mean",
    "var": "BatchNorm/moving_variance",
}
UNITS = {"xception": "xception_module", "resnet": "bottleneck_v1"}  # what is in a unit's scope
SCOPES = {  # of backbones; others' are their names, without ResNet's two forms
    "mobilenet_v2": "MobilenetV2",
    "mobilenet_v3": "MobilenetV3",
    "mobilenet_edgetpu": "MobilenetEdgeTPU",
}


def tf_network(backbone: str) -> str:
    """The scope of a whole backbone: mobilenet_v2 -> MobilenetV2."""
    mobile = [scope for name, scope in SCOPES.items() if backbone.startswith(name)]
    return mobile[0] if mobile else backbone.removesuffix("_beta")


def tf_scope(modules: Path, config: ModelConfig) -> str:
    """TF scope of a module: ("backbone", "middle_flow_block1_unit_2", ...) -> "xception_65/..."."""
    first, *rest = modules
    network = tf_network(config.backbone)
    if first == "backbone":
        kind, unit = family(config.backbone), rest[0]
        if kind == "xception":
            unit = re.sub(r"_(block\d|conv1_\d)", r"/\1", unit, count=1)
        if kind in UNITS:
            lite = "lite_" if network == "resnet_v1_18" else ""
            unit = re.sub(r"_(unit_\d+)$", rf"/\1/{lite}{UNITS[kind]}", unit)
        return "/".join((network, unit, *rest[1:]))
    if first == "aspp":
        return "_".join(rest)
    if first == "logits" and config.head == "classifier":
        return f"{network}/Logits/Conv2d_1c_1x1" if network[0] == "M" else f"{network}/logits"
    if first == "logits":
        return "/".join(("logits", *(rest or ["semantic"])))
    if first == "hidden":
        return f"{network}/Conv_2"
    if first == "meta_architecture":
        return f"{first}/{'_'.join(rest)}"
    if first.startswith("decoder"):
        return decoder_scope(int(first.removeprefix("decoder")), rest, config)
    return "/".join(modules)  # PSPNet and U-Net have no official checkpoints: our own names


def decoder_scope(stage: int, modules: list[str], config: ModelConfig) -> str:
    """Stage 0 has no suffix, later ones `_1`, `_2`; plain convolutions named as by slim.repeat.

    But where there is one, because a sum merges.
    """
    suffix = f"_{stage}" if stage else ""
    name, *part = modules
    if name == "feature_projection":
        return f"decoder/feature_projection0{suffix}"
    index = int(name.removeprefix("conv"))
    if config.decoder_merge == "sum":
        kind = "split_sep_conv0" if part else "conv0"
        return "_".join((f"decoder/decoder_{kind}{suffix}", *part))
    if part:
        return f"decoder/decoder_conv{index}{suffix}_{part[0]}"
    return f"decoder/decoder_conv0{suffix}/decoder_conv0{suffix}_{index + 1}"


def tf_slots(config: ModelConfig) -> dict[Path, Slot]:
    """The TF variable of every leaf of a network's variables."""
    slots = {}
    for path, array in flatten_dict(abstract_variables(config)).items():
        _, *modules, leaf = path
        axes = tuple(range(array.ndim))
        if modules[-1] == "norm":
            name = f"{tf_scope(tuple(modules[:-1]), config)}/{LEAVES[leaf]}"
        elif leaf == "bias":
            name = f"{tf_scope(tuple(modules), config)}/biases"
        elif modules[-1].endswith("depthwise"):
            name = f"{tf_scope(tuple(modules), config)}/depthwise_weights"
            axes = (0, 1, 3, 2)  # TF has [kh, kw, c, 1], we have [kh, kw, 1, c]
        else:
            name = f"{tf_scope(tuple(modules), config)}/weights"
        slots[path] = Slot(name, array.shape, axes)
    return slots


def unfold_batch_norm(
    tf_arrays: Mapping[str, np.ndarray], slots: Mapping[Path, Slot], config: ModelConfig
) -> dict[str, np.ndarray]:
    """Give a convolution with `biases` instead of BatchNorm the BatchNorm that does the same."""
    out = dict(tf_arrays)
    for path, slot in slots.items():
        scope = slot.name.removesuffix("/BatchNorm/gamma")
        if path[-1] != "scale" or f"{scope}/biases" not in out or f"{scope}/BatchNorm/beta" in out:
            continue
        bias = out.pop(f"{scope}/biases")
        part = family(config.backbone) if path[1] == "backbone" else "deeplab"
        epsilon = OPTIONS[part].epsilon
        out |= {
            f"{scope}/BatchNorm/gamma": np.full(bias.shape, np.sqrt(1 + epsilon), np.float32),
            f"{scope}/BatchNorm/beta": bias,
            f"{scope}/BatchNorm/moving_mean": np.zeros_like(bias),
            f"{scope}/BatchNorm/moving_variance": np.ones_like(bias),
        }
    return out


def from_tf_variables(
    tf_arrays: Mapping[str, np.ndarray], model_config: ModelConfig
) -> dict[str, Any]:
    """Our variables from arrays under official TF names.

    A convolution with `biases` instead of `BatchNorm/*` had its BatchNorm folded in and gets one
    that does the same. Extra arrays (optimiser slots, global_step) are left alone.

    Raises:
      UserError: a variable is missing or has another shape; every such name is listed with its
        shapes.
    """
    slots = tf_slots(model_config)
    return fill(unfold_batch_norm(tf_arrays, slots, model_config), slots, model_config)


def to_tf_variables(variables: Any, model_config: ModelConfig) -> dict[str, np.ndarray]:
    """Arrays under official TF names from our variables: the inverse of `from_tf_variables`.

    Modules that the tree lacks (a backbone alone) are left out. PSPNet and U-Net go under our own
    names.
    """
    slots = tf_slots(model_config)
    return {
        slots[path].name: np.asarray(leaf, np.float32).transpose(slots[path].axes)
        for path, leaf in flatten_dict(variables).items()
    }
