"""A step's memory without a compiler: by the sizes of the network's feature maps.

A backward pass needs, of every convolution, its input and its output: in bfloat16 two maps of two
bytes an element, unless the compiler or `model.remat` has some computed again. What is held in the
end, scratch included, is close to a constant for each element, fitted to compiled steps, none of
them with a frozen backbone, whose maps need not be kept: for that the estimate is too high. Those
on GPUs had no scan in their middle flow. benchmarks/README.md has both side by side.
"""

import dataclasses
from functools import cache
from math import prod

from deeplab_jax.config import Config, ModelConfig, Size
from deeplab_jax.models.summary import Convolution, trace
from deeplab_jax.plan.chips import GB

# Bytes held at the peak for each element of a convolution's output, by model.remat, in bfloat16.
GPU = {"none": 4.0, "middle_flow": 4.0, "convolutions": 1.65, "units": 1.1}
TPU = {"none": 3.7, "convolutions": 2.4, "units": 0.85}
# Xception's separable convolutions have no activation between: one map less is kept.
TPU_XCEPTION = {"none": 2.6, "middle_flow": 2.6, "convolutions": 2.4, "units": 0.85}
MIDDLE_FLOW = {"none": 6.2, "middle_flow": 0.4}  # a scan keeps its stacks whole, or units' inputs
HALOS = 1.3  # with the rows that devices sharing an image lend each other, and scratch for them
PER_PARAMETER = 12  # gradient, and copies in bfloat16
PER_PIXEL = 135  # of the image: the image itself, logits and loss
STATE_PER_PARAMETER = 8  # parameter and momentum in float32


def peak(config: Config, batch_shares: int, *, gpu: bool) -> float:
    """GB that a training step holds at once on a device; `batch_shares`: parts of the batch."""
    train, mesh, crop = config.train, config.mesh, config.data.crop
    model, remat = config.model, config.model.remat
    images = train.batch / batch_shares / train.accumulate / mesh.space
    if mesh.space > 1:
        images *= HALOS
    kept = GPU if gpu else TPU_XCEPTION if model.backbone.startswith("xception") else TPU
    maps = 0.0
    for c in find_convolutions(model, crop):
        each = kept[remat if c.path[0] == "backbone" else "none"]
        if c.path[1:] and c.path[1].startswith("middle_flow"):
            each = MIDDLE_FLOW.get(remat, each)
        maps += each * prod(c.size) * c.kernel[-1]
    wide = 1 if model.dtype == "bfloat16" else 2
    state = STATE_PER_PARAMETER + (4 if train.ema_decay else 0)
    weights = sum(c.parameters for c in find_convolutions(model, crop)) * (
        PER_PARAMETER + state / mesh.fsdp
    )
    return (images * (wide * maps + PER_PIXEL * prod(crop)) + weights) / GB


def find_convolutions(model: ModelConfig, crop: Size) -> list[Convolution]:
    """The network's convolutions, which are the same whatever is computed again."""
    return _find_convolutions(dataclasses.replace(model, remat="none"), crop)


@cache  # a search asks for the same network again and again
def _find_convolutions(model: ModelConfig, crop: Size) -> list[Convolution]:
    return trace(model, crop)
