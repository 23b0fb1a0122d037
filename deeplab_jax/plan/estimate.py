"""A step's memory without a compiler: by the sizes of the network's maps.

A backward pass needs, of every convolution, its input and its output: in bfloat16 two maps of two
bytes an element, unless the compiler or `model.remat` has some computed again. What is held in the
end, scratch included, is close to a constant for each element, fitted here to compiled steps.
benchmarks/README.md has both side by side.
"""

import dataclasses
from functools import cache
from math import prod

from deeplab_jax.config import Config, ModelConfig
from deeplab_jax.models.summary import parameters, trace
from deeplab_jax.plan.chips import GB

# Bytes held at the peak for each element of a convolution's output, by model.remat, in bfloat16.
GPU = {"none": 4.0, "middle_flow": 4.0, "convolutions": 1.65, "units": 1.1}
TPU = {"none": 3.7, "convolutions": 2.4, "units": 0.85}
# Xception's separable convolutions have no activation between: one map less is kept.
TPU_XCEPTION = {"none": 2.6, "middle_flow": 2.6, "convolutions": 2.4, "units": 0.85}
# A scan's stacks are kept whole (no scan on a GPU); with remat, each unit's input.
MIDDLE_FLOW = {"none": 6.2, "middle_flow": 0.4}
HALOS = 1.3  # with the rows that devices sharing an image lend each other, and scratch for them
PER_PARAMETER = 12  # gradient, and copies in bfloat16
PER_PIXEL = 135  # of the image: the image itself, logits and loss
STATE_PER_PARAMETER = 8  # parameter and momentum in float32


def peak(config: Config, batch_shares: int, *, gpu: bool) -> float:
    """GB that a training step holds at once on a device; `batch_shares`: parts of the batch."""
    model, train, mesh, crop = config.model, config.train, config.mesh, config.data.crop
    images = train.batch_size / batch_shares / train.accumulate / mesh.space
    if mesh.space > 1:
        images *= HALOS
    xception = model.backbone.startswith("xception")
    kept = GPU if gpu else TPU_XCEPTION if xception else TPU
    scanned = {} if gpu and model.remat == "none" else MIDDLE_FLOW
    maps = 0.0
    for path, elements in map_elements(dataclasses.replace(model, remat="none"), crop):
        each = kept[model.remat if path[0] == "backbone" else "none"]
        if path[1:] and path[1].startswith("middle_flow"):
            each = scanned.get(model.remat, each)
        maps += each * elements
    wide = 1 if model.dtype == "bfloat16" else 2
    state = STATE_PER_PARAMETER + (4 if train.ema_decay else 0)
    weights = parameters(model) * (PER_PARAMETER + state / mesh.fsdp)
    return (images * (wide * maps + PER_PIXEL * prod(crop)) + weights) / GB


@cache  # a search asks for the same network again and again
def map_elements(model: ModelConfig, crop: tuple[int, int]) -> list[tuple[tuple[str, ...], int]]:
    """Each convolution's path and the elements of its output for an image."""
    return [(c.path, prod(c.size) * c.kernel[-1]) for c in trace(model, crop)[0]]
