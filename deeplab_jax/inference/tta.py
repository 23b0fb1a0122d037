"""How a network looks at an image: at several scales, in the mirror, through a sliding window.

Each view ends in logits at the network's own stride. Only then, a block of rows at a time, are they
upsampled and their probabilities averaged, so that no map of the image's size and all classes is
in memory. (Of the paper's six scales with flip, all logits together are as large as one such map.)
"""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from deeplab_jax.config import EvalConfig, round_near
from deeplab_jax.models import Network, build_model
from deeplab_jax.ops.resize import Size, height_width, resize_bilinear


def view_logits(
    variables: Any, image: Array, *, model: Network, protocol: EvalConfig
) -> list[Array]:
    """Logits f32 [b h' w' c] of every view of image f32 [b h w 3]: each scale, each mirrored too.

    A mirror image runs through the same compiled network, and its logits are mirrored back.
    """
    stride, views = model.config.output_stride, []
    for scale in protocol.scales:
        network = partial(full_precision, at_scale(model, scale), variables)
        scaled = resize_bilinear(image, scaled_size(height_width(image), scale, stride))

        def look(view: Array, network: Any = network) -> Array:
            return sliding_logits(network, view, protocol.window, protocol.overlap, stride)

        def mirror(mirrored: Array, x: Array) -> Array:
            return jnp.where(mirrored, x[:, :, ::-1], x)

        def look_mirrored(mirrored: Array, look: Any = look, scaled: Array = scaled) -> Array:
            return mirror(mirrored, look(mirror(mirrored, scaled)))

        if protocol.flip:
            views += list(lax.map(look_mirrored, jnp.array([False, True])))
        else:
            views.append(look(scaled))
    return views


def full_precision(model: Network, variables: Any, image: Array) -> Array:
    """The network's logits, where float32 means float32: the official numbers on every platform.

    JAX's default is bfloat16 products on a TPU and TF32 on recent NVIDIA GPUs (`ops/__init__.py`).
    """
    precise = model.config.dtype != "bfloat16"
    with jax.default_matmul_precision("highest") if precise else nullcontext():
        return cast(Array, model.apply(variables, image, train=False))


def scaled_size(size: Size, scale: float, output_stride: int) -> Size:
    """`size` times scale, rounded to k * output_stride + 1, whose corners stay aligned.

    Where the official int((n - 1) * scale + 1) is such a size, it is the same. Scale 1: as it is.
    """
    if scale == 1:
        return size
    h, w = (round_near((n - 1) * scale + 1, output_stride) for n in size)
    return (h, w)


def at_scale(model: Network, scale: float) -> Network:
    """The network for images scaled so: the window of its image pooling scales along."""
    c = model.config
    if c.image_pooling_crop_size is None:
        return model
    window = scaled_size(c.image_pooling_crop_size, scale, c.output_stride)
    return build_model(dataclasses.replace(c, image_pooling_crop_size=window))


def sliding_logits(
    network: Callable[[Array], Array],
    image: Array,
    window: Size | None,
    overlap: float,
    output_stride: int,
) -> Array:
    """The network's logits of image f32 [b h w 3], averaged over the windows that cover it.

    Sizes of image and window are k * output_stride + 1, and windows start at multiples of the
    stride: their logits [b h' w' c] fall on the grid of the whole image's. One window at a time,
    all through one compiled network.
    """
    size = height_width(image)
    if window is None or (window[0] >= size[0] and window[1] >= size[1]):
        return network(image)
    shape = (len(image), min(window[0], size[0]), min(window[1], size[1]), image.shape[3])
    ys, xs = (
        window_starts(n, w, overlap, output_stride) for n, w in zip(size, shape[1:3], strict=True)
    )
    starts = [(y, x) for y in ys for x in xs]
    part = jax.eval_shape(network, jax.ShapeDtypeStruct(shape, image.dtype)).shape
    stride = (shape[1] - 1) // (part[1] - 1)  # of the logits
    rows, columns = (times_seen(ys, shape[1], stride), times_seen(xs, shape[2], stride))
    seen = rows[:, None, None] * columns[:, None]
    total = np.zeros((part[0], *seen.shape[:2], part[3]), np.float32)

    def add(total: Array, start: Array) -> tuple[Array, None]:
        y, x = start
        logits = network(lax.dynamic_slice(image, (0, y, x, 0), shape))
        at = (0, y // stride, x // stride, 0)
        logits += lax.dynamic_slice(total, at, part)
        return lax.dynamic_update_slice(total, logits, at), None

    return lax.scan(add, jnp.asarray(total), jnp.array(starts))[0] / seen


def window_starts(size: int, window: int, overlap: float, stride: int) -> list[int]:
    """Where windows begin that cover `size` pixels: multiples of stride, the last at the end."""
    step = max(1, int(window * (1 - overlap)) // stride) * stride
    last = size - window
    return [*range(0, last, step), last]


def times_seen(starts: list[int], window: int, stride: int) -> np.ndarray:
    """How many windows cover each logit along an axis: f32[n], a logit every `stride` pixels."""
    seen = np.zeros((starts[-1] + window - 1) // stride + 1, np.float32)
    for start in starts:
        seen[start // stride :][: (window - 1) // stride + 1] += 1
    return seen


def mean_probabilities(views: list[Array]) -> Array:
    """Mean softmax over views f32 [..., c]."""
    first, *others = (jax.nn.softmax(v, axis=-1) for v in views)
    return sum(others, start=first) / len(views)
