"""ImageNet weights of timm's aligned Xceptions -> our tree (`timm/models/xception_aligned.py`).

Its `xception41`, `xception65` and `xception71` are the official networks: the same padding of
strided convolutions on even and odd sizes, ReLUs, epsilon and normalisation. Its head has 1000
classes, the official one 1001 (the first is background).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from deeplab_jax.config import ModelConfig
from deeplab_jax.errors import UserError
from deeplab_jax.models.build import abstract_variables, family
from deeplab_jax.models.xception import blocks
from deeplab_jax.weights.slots import Path, Slot, fill

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
REFUSED = {
    "resnet": "timm's ResNets stride in the first unit of a block, the official ones in its last",
    "mobilenet": "timm's pads strided convolutions on all sides, the official one as TF does",
    "unet": "timm has no U-Net",
}


def timm_name(path: Path, units: list[str]) -> str:
    """timm's name of a leaf: ("params", "backbone", unit, ...) -> "blocks.3.stack.conv1...."."""
    _, module, *rest, leaf = path
    if module == "logits":
        return f"head.fc.{LEAVES[leaf]}"
    unit, *part = [name for name in rest if name != "norm"]
    layer = "bn" if "norm" in rest else "conv"
    if not part:  # entry_flow_conv1_1 and _2
        return f"stem.{int(unit[-1]) - 1}.{layer}.{LEAVES[leaf]}"
    block = f"blocks.{units.index(unit)}"
    if part == ["shortcut"]:
        return f"{block}.shortcut.{layer}.{LEAVES[leaf]}"
    conv, kind = part[0].removeprefix("separable_").split("_")
    suffix = "dw" if kind == "depthwise" else "pw"
    return f"{block}.stack.{conv}.{layer}_{suffix}.{LEAVES[leaf]}"


def timm_slots(config: ModelConfig) -> dict[Path, Slot]:
    """timm's array for every leaf of the backbone, and of a classifier's last layer."""
    units = [f"{b.name}_unit_{u}" for b in blocks(config.backbone) for u in range(1, b.units + 1)]
    modules = ("backbone", "logits") if config.head == "classifier" else ("backbone",)
    # PyTorch's kernels are [out, in, kh, kw]; its linear layer has [out, in].
    axes = {("logits", "kernel"): (3, 2), ("backbone", "kernel"): (3, 2, 0, 1)}
    return {
        path: Slot(timm_name(path, units), leaf.shape, axes.get((path[1], path[-1]), (0,)))
        for path, leaf in flatten_dict(abstract_variables(config)).items()
        if path[1] in modules
    }


def check_network(arrays: Mapping[str, np.ndarray], config: ModelConfig) -> None:
    """Raise UserError if timm's network of this kind is another one than ours."""
    kind = family(config.backbone)
    if kind in REFUSED:
        raise UserError(f"model.backbone = {config.backbone}: {REFUSED[kind]}; no weights fit both")
    if "stem.1.weight" in arrays:
        raise UserError("timm's xception41p and xception65p are other networks: take xception65")


def from_timm(arrays: Mapping[str, np.ndarray], model_config: ModelConfig) -> dict[str, Any]:
    """The backbone, and with head `classifier` the logits, from the state dict of a timm Xception.

    Raises:
      UserError: timm's network is another one; or an array is missing or has another shape: every
        such name is listed with its shapes.
    """
    check_network(arrays, model_config)
    return fill(arrays, timm_slots(model_config), model_config)
