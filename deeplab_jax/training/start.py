"""The weights that a run starts from: random ones, pretrained ones in their place where asked."""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from deeplab_jax.config import Config
from deeplab_jax.data.batches import train_batches
from deeplab_jax.data.classes import other_names
from deeplab_jax.data.source import Source
from deeplab_jax.errors import UserError
from deeplab_jax.models import build_model, mean_pixel
from deeplab_jax.models.build import init_variables
from deeplab_jax.models.mobilenet import LAST_CONV
from deeplab_jax.weights.batch_norm import reestimate_batch_norm
from deeplab_jax.weights.channels import adapt_channels
from deeplab_jax.weights.files import Weights, load_weights

BATCH_NORM_BATCHES = 8  # of training images, to re-estimate folded BatchNorm
# For hundreds of initialisers, run once: a third of the time that a CPU's compiler takes otherwise.
COMPILE_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def initial_variables(config: Config, source: Source) -> Any:
    """Random variables, overlaid with the pretrained ones where asked for."""
    init = jax.jit(init_variables, static_argnums=0, compiler_options=COMPILE_QUICKLY)
    variables = init(config.model, jax.random.key(config.train.seed))
    if not config.train.pretrained:
        return variables
    pretrained = load_weights(config.train.pretrained, complete=False)
    variables = overlay(variables, pretrained, config, source.class_names)
    if config.train.reestimate_batch_norm:
        batches = train_batches(source, config, fill=mean_pixel(config.model))
        images = (next(batches)["image"] for _ in range(BATCH_NORM_BATCHES))
        variables = reestimate_batch_norm(variables, build_model(config.model), images)
    return variables


def overlay(
    variables: Any, pretrained: Weights, config: Config, class_names: tuple[str, ...]
) -> Any:
    """`variables` with every pretrained module put in place.

    A module that the pretrained network lacks (a decoder, say) keeps its random start, as does the
    last layer of a segmentation model that starts from a classifier; one of another shape is
    refused. Weights for RGB become weights for other channels (`adapt_channels`). MobileNetV2's
    1280-channel layer is dropped where this network has none. Classes of other names or in another
    order than `class_names` are said where the last layer is taken.
    """
    origin = config.train.pretrained
    try:
        pretrained, adapted = adapt_channels(pretrained, config.model.image_channels)
    except UserError as error:
        raise UserError(f"pretrained = {origin!r}: {error}") from error
    theirs = pretrained.variables
    same_kind = (pretrained.model.head == "classifier") == (config.model.head == "classifier")
    with_logits = config.train.pretrained_logits and same_kind
    taken = [m for m in variables["params"] if m in theirs["params"]]
    taken = [m for m in taken if with_logits or m != "logits"]
    out = {collection: dict(modules) for collection, modules in variables.items()}
    for collection, modules in out.items():
        for name in [name for name in taken if name in modules]:
            module = dict(theirs[collection][name])
            if name == "backbone" and LAST_CONV not in modules[name]:
                module.pop(LAST_CONV, None)
            check_shapes(f"{collection}/{name}", modules[name], module, origin)
            modules[name] = module
    if "logits" in taken and (other := other_names(pretrained.task.classes, class_names)):
        print(
            f"warning: the last layer of {origin} was trained for classes of other names than the"
            f" data's ({other}); --pretrained_logits=False starts it afresh",
            file=sys.stderr,
        )
    left = [m for m in theirs["params"] if m not in taken]
    note = f"; left out: {', '.join(left)}" if left else ""
    print(f"from {origin}: {', '.join(taken)}{note}", file=sys.stderr)
    if adapted:
        print(f"from {origin}: {adapted}", file=sys.stderr)
    return out


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
