"""The weights that a run starts from, random ones or pretrained, and the network that is theirs."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from deeplab_jax.config import Config, ModelConfig
from deeplab_jax.config.flags import given
from deeplab_jax.data.batches import train_batches
from deeplab_jax.data.classes import other_names
from deeplab_jax.data.source import Source
from deeplab_jax.errors import UserError
from deeplab_jax.models import build_model, mean_pixel
from deeplab_jax.models.build import init_variables
from deeplab_jax.models.heads import class_layers
from deeplab_jax.models.mobilenet import LAST_CONV
from deeplab_jax.weights.batch_norm import reestimate_batch_norm
from deeplab_jax.weights.channels import adapt_channels
from deeplab_jax.weights.files import Weights, find_weights, load_weights, read_about
from deeplab_jax.weights.zoo import weights_folder

BATCH_NORM_BATCHES = 8  # of training images, to re-estimate folded BatchNorm
IMAGENET = "mobilenetv2_imagenet"  # of `deeplab zoo`
FROM_NOTHING = (
    "the network starts from random weights: with ImageNet's, far fewer images and steps are"
    f" enough: --pretrained={IMAGENET}, see docs/weights.md"
)
# For hundreds of initialisers, run once: a third of the time that a CPU's compiler takes otherwise.
COMPILE_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def initial_variables(config: Config, source: Source) -> Any:
    """Random variables, overlaid with the pretrained ones where asked for."""
    init = jax.jit(init_variables, static_argnums=0, compiler_options=COMPILE_QUICKLY)
    variables = init(config.model, jax.random.key(config.train.seed))
    if not config.train.pretrained:
        if config.data.source != "scenes" and not config.data.one_label:  # those are meant to
            print(FROM_NOTHING, file=sys.stderr)
        return variables
    pretrained = load_weights(config.train.pretrained, complete=False)
    variables = overlay(variables, pretrained, config, source.class_names)
    reestimate = config.train.reestimate_batch_norm
    if reestimate is None and (reestimate := is_folded(pretrained.variables)):
        note = "its statistics are measured on training images (--train.reestimate_batch_norm)"
        print(f"BatchNorm is folded in {config.train.pretrained}: {note}", file=sys.stderr)
    if reestimate:
        batches = train_batches(source, config, fill=mean_pixel(config.model))
        images = (next(batches)["image"] for _ in range(BATCH_NORM_BATCHES))
        variables = reestimate_batch_norm(variables, build_model(config.model), images)
    return variables


def overlay(
    variables: Any, pretrained: Weights, config: Config, class_names: tuple[str, ...]
) -> Any:
    """`variables` with every pretrained module put in place.

    A module that the pretrained network lacks (a decoder, say) keeps its random start, as does the
    last layer of a segmentation model that starts from a classifier, and of one with other classes
    than `class_names` unless it is asked for, both of which are said; one of another shape is
    refused. Weights for RGB become weights for other channels (`adapt_channels`). MobileNetV2's
    1280-channel layer is dropped where this network has none.
    """
    origin = config.train.pretrained
    try:
        pretrained, adapted = adapt_channels(pretrained, config.model.image_channels)
    except UserError as error:
        raise UserError(f"pretrained = {origin!r}: {error}") from error
    check_form(pretrained.model, config.model, origin)
    theirs = pretrained.variables
    same_kind = (pretrained.model.head == "classifier") == (config.model.head == "classifier")
    other = other_classes(pretrained, config.model.classes, class_names)
    asked = config.train.pretrained_logits
    with_logits = same_kind and (not other if asked is None else asked)
    taken = [m for m in variables["params"] if m in theirs["params"]]
    last = {*class_layers(config.model), *class_layers(pretrained.model)}
    taken = [m for m in taken if with_logits or m not in last]
    out = {collection: dict(modules) for collection, modules in variables.items()}
    for collection, modules in out.items():
        for name in [name for name in taken if name in modules]:
            module = dict(theirs[collection][name])
            if name == "backbone" and LAST_CONV not in modules[name]:
                module.pop(LAST_CONV, None)
            check_shapes(f"{collection}/{name}", modules[name], module, origin)
            modules[name] = module
    left = [m for m in theirs["params"] if m not in taken]
    note = f"; left out: {', '.join(left)}" if left else ""
    print(f"from {origin}: {', '.join(taken)}{note}", file=sys.stderr)
    if adapted:
        print(f"from {origin}: {adapted}", file=sys.stderr)
    if other and same_kind and last & set(theirs["params"]):
        told = f"the last layer of {origin} was trained for other classes than the data's ({other})"
        what = "it starts afresh; --pretrained_logits=True takes it where only names differ"
        if with_logits:
            what = "--pretrained_logits=False starts it afresh"
        print(f"warning: {told}: {what}", file=sys.stderr)
    return out


def other_classes(pretrained: Weights, count: int, names: tuple[str, ...]) -> str:
    """In what the classes of pretrained weights are not `names`, or not as many; "" in nothing."""
    if pretrained.model.classes != count:
        return f"{pretrained.model.classes}, not {count}"
    return other_names(pretrained.task.classes, names)


def is_folded(variables: Any) -> bool:
    """Whether BatchNorm's statistics say nothing: of a backbone that had them folded in."""
    stats = flatten_dict(variables["batch_stats"]["backbone"])
    return all(np.all(value == (path[-1] == "var")) for path, value in stats.items())


# ---- the network of the weights, where a folder of data alone is named


def weights_at_hand() -> str:
    """The folder of ImageNet weights that were fetched by name, "" if none were."""
    folder = weights_folder() / IMAGENET
    return str(folder) if folder.is_dir() else ""


def on_weights(base: Config, changes: Sequence[str]) -> Config:
    """`base` from the weights that changes of it name, or those at hand, with the network of these.

    A classifier gets the head of `base`; channels are the data's.
    """
    named = given(changes, "train.pretrained")
    folder = weights_at_hand() if named is None else named
    if not folder:
        return base
    theirs, _ = read_about(find_weights(Path(folder)))
    ours = base.model
    task = ours if theirs.head == "classifier" else theirs
    network = replace(
        theirs,
        head=task.head,
        output_stride=task.output_stride,
        num_classes=None,
        channels=None,
        head_init=ours.head_init,
        batch_norm_decay=ours.batch_norm_decay,
        dtype=ours.dtype,
        remat=ours.remat,
    )
    told = f"its {network.backbone} with the head {network.head}"
    print(f"starts from {folder} (--pretrained): {told}", file=sys.stderr)
    return replace(base, model=network, train=replace(base.train, pretrained=folder))


def check_form(theirs: ModelConfig, ours: ModelConfig, origin: str) -> None:
    """Raise UserError where shapes may fit, but one backbone has PyTorch's form and one has not."""
    if theirs.torch_form != ours.torch_form:
        told = f"model.backbone = {theirs.backbone}, model.mobilenet_form = {theirs.mobilenet_form}"
        raise UserError(f"pretrained = {origin!r} has another form of network: set {told}")


def check_shapes(name: str, ours: Any, theirs: Any, origin: str) -> None:
    """Raise UserError unless two trees of arrays have the same shapes."""
    if jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs):
        return
    hint = (
        "another number of classes? add --pretrained_logits=False to start the last layer afresh"
        if name.endswith("logits")
        else "the network's settings (backbone, width, aspp) must be those of the weights"
    )
    raise UserError(f"pretrained = {origin!r}: {name} has other shapes than this model; {hint}")
