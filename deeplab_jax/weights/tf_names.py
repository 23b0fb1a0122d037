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
from deeplab_jax.models.build import EPSILONS, abstract_variables, family
from deeplab_jax.weights.slots import Path, Slot, fill

LEAVES = {
    "scale": "BatchNorm/gamma",
    "bias": "BatchNorm/beta",
    "mean": "BatchNorm/moving_mean",
    "var": "BatchNorm/moving_variance",
}


def tf_scope(modules: Path, config: ModelConfig) -> str:
    """TF scope of a module: ("backbone", "middle_flow_block1_unit_2", ...) -> "xception_65/..."."""
    first, *rest = modules
    if first == "backbone":
        return backbone_scope(rest, config)
    if first == "aspp":
        return "_".join(rest)
    if first == "logits":
        return logits_scope(config)
    if first.startswith("decoder"):
        return decoder_scope(int(first.removeprefix("decoder")), rest)
    return "/".join(modules)  # PSPNet and U-Net have no official checkpoints: our own names


def network_scope(config: ModelConfig) -> str:
    """The scope that holds a backbone: ResNet's two forms share theirs."""
    mobile = config.backbone == "mobilenet_v2"
    return "MobilenetV2" if mobile else config.backbone.removesuffix("_beta")


def backbone_scope(modules: list[str], config: ModelConfig) -> str:
    first, *rest = modules
    if family(config.backbone) == "xception":
        first = re.sub(r"_(block\d|conv1_\d)", r"/\1", first, count=1)
        first = re.sub(r"_(unit_\d+)$", r"/\1/xception_module", first)
    if family(config.backbone) == "resnet":
        first = re.sub(r"_(unit_\d+)$", r"/\1/bottleneck_v1", first)
    return "/".join((network_scope(config), first, *rest))


def logits_scope(config: ModelConfig) -> str:
    if config.head != "classifier":
        return "logits/semantic"
    last = "Logits/Conv2d_1c_1x1" if config.backbone == "mobilenet_v2" else "logits"
    return f"{network_scope(config)}/{last}"


def decoder_scope(stage: int, modules: list[str]) -> str:
    """Stage 0 has no suffix, later ones `_1`, `_2`; plain convolutions named as by slim.repeat."""
    suffix = f"_{stage}" if stage else ""
    name, *part = modules
    if name == "feature_projection":
        return f"decoder/feature_projection0{suffix}"
    index = int(name.removeprefix("conv"))
    if part:
        return f"decoder/decoder_conv{index}{suffix}_{part[0]}"
    return f"decoder/decoder_conv0{suffix}/decoder_conv0{suffix}_{index + 1}"


def tf_name(path: Path, config: ModelConfig) -> str:
    """The TF variable name of a leaf of our tree."""
    _, *modules, leaf = path
    if leaf == "kernel":
        scope = tf_scope(tuple(modules), config)
        return f"{scope}/{'depthwise_weights' if is_depthwise(path) else 'weights'}"
    if modules[-1] != "norm":
        return f"{tf_scope(tuple(modules), config)}/biases"
    return f"{tf_scope(tuple(modules[:-1]), config)}/{LEAVES[leaf]}"  # modules end in "norm"


def is_depthwise(path: Path) -> bool:
    return path[-1] == "kernel" and path[-2].endswith("depthwise")


def tf_slot(path: Path, shape: tuple[int, ...], config: ModelConfig) -> Slot:
    """TF keeps a depthwise kernel as [kh, kw, c, 1], we as [kh, kw, 1, c]; all else is the same."""
    axes = (0, 1, 3, 2) if is_depthwise(path) else tuple(range(len(shape)))
    return Slot(tf_name(path, config), shape, axes)


def tf_slots(config: ModelConfig) -> dict[Path, Slot]:
    """The TF variable of every leaf of a network's variables."""
    leaves = flatten_dict(abstract_variables(config))
    return {path: tf_slot(path, leaf.shape, config) for path, leaf in leaves.items()}


def unfold_batch_norm(
    tf_arrays: Mapping[str, np.ndarray], slots: Mapping[Path, Slot], config: ModelConfig
) -> dict[str, np.ndarray]:
    """Give a convolution with `biases` instead of BatchNorm the BatchNorm that does the same."""
    out = dict(tf_arrays)
    scales = {path: slot.name for path, slot in slots.items() if path[-1] == "scale"}
    for path, name in scales.items():
        scope = name.removesuffix("/BatchNorm/gamma")
        bias = out.get(f"{scope}/biases")
        if bias is None or f"{scope}/BatchNorm/beta" in out:
            continue
        del out[f"{scope}/biases"]
        ones, zeros = np.ones_like(bias), np.zeros_like(bias)
        out[f"{scope}/BatchNorm/gamma"] = ones * np.float32(np.sqrt(1 + norm_epsilon(path, config)))
        out[f"{scope}/BatchNorm/beta"] = bias
        out[f"{scope}/BatchNorm/moving_mean"] = zeros
        out[f"{scope}/BatchNorm/moving_variance"] = ones
    return out


def norm_epsilon(path: Path, config: ModelConfig) -> float:
    """BatchNorm's epsilon: the backbone's own, 1e-5 in what stands on it."""
    return EPSILONS[family(config.backbone)] if path[1] == "backbone" else 1e-5


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
    out: dict[str, np.ndarray] = {}
    for path, leaf in flatten_dict(variables).items():
        slot = tf_slot(path, leaf.shape, model_config)
        out[slot.name] = np.asarray(leaf, np.float32).transpose(slot.axes)
    return out
