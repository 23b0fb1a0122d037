"""Official TF variable names <-> our variable tree.

Our modules are named after TF's scopes, so that the rule is one function from a path in our tree to
a TF name.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from deeplab_jax.config import ModelConfig
from deeplab_jax.errors import UserError
from deeplab_jax.models import build_model
from deeplab_jax.models.build import EPSILONS, family

Path = tuple[str, ...]  # ("params" | "batch_stats", module, ..., leaf)
LEAVES = {
    "scale": "BatchNorm/gamma",
    "bias": "BatchNorm/beta",
    "mean": "BatchNorm/moving_mean",
    "var": "BatchNorm/moving_variance",
}


def abstract_variables(config: ModelConfig) -> dict[str, Any]:
    """The variables of a network as shapes and dtypes, without computing anything."""

    def init(key: jax.Array, x: jax.Array) -> Any:
        return build_model(config).init(key, x, train=False)

    image = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
    abstract: dict[str, Any] = jax.eval_shape(init, jax.random.key(0), image)
    return abstract


def tf_scope(modules: Path, config: ModelConfig) -> str:
    """TF scope of a module: ("backbone", "middle_flow_block1_unit_2", ...) -> "xception_65/..."."""
    first, *rest = modules
    if first == "backbone":
        return backbone_scope(rest, config)
    if first == "aspp":
        return "_".join(rest)
    if first == "classifier":
        return "/".join((network_scope(config), *rest))
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


def tf_names(config: ModelConfig) -> dict[Path, str]:
    """The TF variable name of every leaf of a network's variables."""
    return {p: tf_name(p, config) for p in flatten_dict(abstract_variables(config))}


def unfold_batch_norm(tf_arrays: Mapping[str, np.ndarray], epsilons: Mapping[str, float]) -> dict:
    """Give a convolution with `biases` instead of BatchNorm the BatchNorm that does the same."""
    out = dict(tf_arrays)
    for scope, epsilon in epsilons.items():
        bias = out.get(f"{scope}/biases")
        if bias is None or f"{scope}/BatchNorm/beta" in out:
            continue
        del out[f"{scope}/biases"]
        ones, zeros = np.ones_like(bias), np.zeros_like(bias)
        out[f"{scope}/BatchNorm/gamma"] = ones * np.float32(np.sqrt(1 + epsilon))
        out[f"{scope}/BatchNorm/beta"] = bias
        out[f"{scope}/BatchNorm/moving_mean"] = zeros
        out[f"{scope}/BatchNorm/moving_variance"] = ones
    return out


def norm_epsilon(path: Path, config: ModelConfig) -> float:
    """BatchNorm's epsilon: the backbone's own, 1e-5 in what stands on it."""
    own = path[1] in ("backbone", "classifier")
    return EPSILONS[family(config.backbone)] if own else 1e-5


def norm_epsilons(config: ModelConfig) -> dict[str, float]:
    """BatchNorm's epsilon of every TF scope that has one."""
    scopes = {
        name.removesuffix("/BatchNorm/gamma"): norm_epsilon(path, config)
        for path, name in tf_names(config).items()
        if name.endswith("/BatchNorm/gamma")
    }
    return scopes


def from_tf_variables(
    tf_arrays: Mapping[str, np.ndarray], model_config: ModelConfig, *, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Our variables from arrays under official TF names.

    A convolution with `biases` instead of `BatchNorm/*` had its BatchNorm folded in and gets one
    that does the same. `skip` names top-level modules of ours ("logits") to leave out of the
    result. Extra arrays (optimiser slots, global_step) are left alone; `unused_variables` lists
    them.

    Raises:
      UserError: a variable is missing or has another shape; every such name is listed with its
        shapes.
    """
    arrays = unfold_batch_norm(tf_arrays, norm_epsilons(model_config))
    flat: dict[Path, np.ndarray] = {}
    missing: list[str] = []
    wrong: list[str] = []
    for path, leaf in flatten_dict(abstract_variables(model_config)).items():
        if path[1] in skip:
            continue
        name = tf_name(path, model_config)
        if name not in arrays:
            missing.append(f"{name} {list(tf_shape(path, leaf.shape))}")
        elif tuple(arrays[name].shape) != tf_shape(path, leaf.shape):
            needed = list(tf_shape(path, leaf.shape))
            wrong.append(f"{name}: file {list(arrays[name].shape)}, model {needed}")
        else:
            flat[path] = np.asarray(arrays[name], np.float32).reshape(leaf.shape)
    report(missing, wrong, model_config)
    tree: dict[str, Any] = unflatten_dict(flat)
    return tree


def tf_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """TF keeps a depthwise kernel as [kh, kw, c, 1], we as [kh, kw, 1, c]."""
    return (*shape[:2], shape[3], shape[2]) if is_depthwise(path) else tuple(shape)


def report(missing: list[str], wrong: list[str], config: ModelConfig) -> None:
    if not missing and not wrong:
        return
    lines = [f"the variables do not fit {config.backbone} with head {config.head}:"]
    for title, names in (("missing", missing), ("wrong shape", wrong)):
        if names:
            shown = names[:20] + ([f"... and {len(names) - 20} more"] if len(names) > 20 else [])
            lines += [f"  {title} ({len(names)}):", *(f"    {n}" for n in shown)]
    if any(n.startswith("logits/") for n in wrong):
        lines.append(
            "  Another number of classes? Keep it by --model.num_classes, or start the last layer"
            " afresh with --fresh-logits."
        )
    else:
        lines.append(
            "  Does the model's configuration (backbone, head, rates, width) match the file?"
        )
    raise UserError("\n".join(lines))


def unused_variables(tf_arrays: Mapping[str, np.ndarray], config: ModelConfig) -> list[str]:
    """Names of arrays that the network has no place for."""
    known = set(tf_names(config).values())
    known |= {f"{scope}/biases" for scope in norm_epsilons(config)}
    return sorted(set(tf_arrays) - known)
