"""The pure functions of inference: predict a batch, evaluate a batch. `jit` them as you like.

A network of float32 computes in float32 on every platform (`tta.full_precision`): the official
numbers are promised of it. `model.dtype = "bfloat16"` is the fast form.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from deeplab_jax.config import Config, EvalConfig
from deeplab_jax.inference.metrics import Counts, count_pixels
from deeplab_jax.inference.tta import full_precision, mean_probabilities, view_logits
from deeplab_jax.lowering.session import Compiled, Runtime, check_runtime, model_for
from deeplab_jax.models import Network, build_model
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.ops.partition import gather_rows
from deeplab_jax.ops.resize import Size, height_width, map_upsampled, resize_bilinear
from deeplab_jax.parallel.mesh import (
    batch_sharding,
    bind_mesh,
    fsdp_shardings,
    gather_parameters,
    replicated,
)

Batch = Mapping[str, Array]
Labels = Callable[[Any, Array], Any]  # variables and images u8[b, h, w, c] to labels u8[b, h, w]
ONE_VIEW = EvalConfig()  # the image as it is


def predict_labels(
    variables: Any,
    image: Array,
    *,
    model: Network,
    protocol: EvalConfig = ONE_VIEW,
    blocks: bool = True,
) -> Array:
    """The most likely class of each pixel of image u8[b, h, w, 3]: u8[b, h, w].

    `scales`, `flip`, `window` and `overlap` of the protocol say how the network looks at it. A
    classifier predicts one class an image: u16[b, 1, 1].
    """
    classifies = model.config.head == "classifier"
    reduce = partial(most_likely, dtype=jnp.uint16 if classifies else jnp.uint8)
    return reduce_views(reduce, variables, image, model=model, protocol=protocol, blocks=blocks)


def most_likely(views: list[Array], dtype: Any = jnp.uint8) -> Array:
    """The most likely class of each pixel, by the logits f32[..., c] of its views."""
    scores = views[0] if len(views) == 1 else mean_probabilities(views)
    return jnp.argmax(scores, axis=-1).astype(dtype)


def predict_probabilities(
    variables: Any,
    image: Array,
    *,
    model: Network,
    protocol: EvalConfig = ONE_VIEW,
    blocks: bool = True,
) -> Array:
    """Class probabilities of image u8[b, h, w, 3]: f32[b, h, w, c]; a classifier's f32[b, 1, 1, c].

    The mean of the views' softmax, as in the official code (`model.py:
    predict_labels_multi_scale`); but a flip counts there only with several scales.
    """
    return reduce_views(
        mean_probabilities, variables, image, model=model, protocol=protocol, blocks=blocks
    )


def reduce_views(
    reduce: Callable[[list[Array]], Array],
    variables: Any,
    image: Array,
    *,
    model: Network,
    protocol: EvalConfig,
    blocks: bool = True,
) -> Array:
    """`reduce` the logits of an image's views, at the image's size: [b, h, w, ...]."""
    variables, image = gather_parameters(variables), image.astype(jnp.float32)
    views = view_logits(variables, image, model=model, protocol=protocol)
    size = (1, 1) if model.config.head == "classifier" else height_width(image)
    return reduce_upsampled(reduce, views, size, blocks=blocks)


def reduce_upsampled(
    reduce: Callable[[list[Array]], Array], views: list[Array], size: Size, *, blocks: bool
) -> Array:
    """`reduce` logits upsampled to `size`, by `blocks` of rows or at once.

    Blocks spare memory; exported files have one operation for it all.
    """
    if blocks:
        return map_upsampled(reduce, views, size)
    return reduce([resize_bilinear(logits, size) for logits in views])


def window_logits(variables: Any, image: Array, *, model: Network) -> Array:
    """The network's logits of a window of images f32[b, h, w, 3], at its own stride."""
    return full_precision(model, gather_parameters(variables), image)


def resample_labels(labels: Array, scaled: Array, size: Array, canvas: tuple[int, int]) -> Array:
    """The upper left `scaled` (h, w) of each of labels [b, h, w] at its image's `size`, by nearest.

    Both are int32[b, 2]; the result is [b, *canvas]. As PIL's NEAREST: pixel i of n is pixel
    floor((i + 1/2) * m / n) of m, so that a row of 5 becomes its pixels 0, 2 and 4 in a row of 3.
    """

    def resample(label: Array, source: Array, target: Array) -> Array:
        def nearest(axis: int) -> Array:
            i = (2 * jnp.arange(canvas[axis]) + 1) * source[axis] // (2 * target[axis])
            return jnp.minimum(i, source[axis] - 1)

        return label[nearest(0)[:, None], nearest(1)[None, :]]

    return jax.vmap(resample)(labels, scaled, size)


def count_labels(
    labels: Array, batch: Batch, *, model: Network, protocol: EvalConfig, ignore_label: int
) -> tuple[Counts, Array]:
    """The counts of a batch of `eval_batches`, and its predictions at the label maps' size."""
    canvas = height_width(batch["label"])
    labels = resample_labels(gather_rows(labels), batch["scaled"], batch["size"], canvas)
    counts = count_pixels(
        batch["label"].astype(jnp.int32),
        labels.astype(jnp.int32),
        batch["size"],
        num_classes=model.config.classes,
        ignore_label=ignore_label,
        trimap_widths=protocol.trimap_widths,
        boundary=protocol.boundary,
    )
    return counts, labels


def compile_eval_step(
    config: Config, mesh: Mesh, ignore_label: int, runtime: Runtime | Labels = "xla"
) -> Callable[[Any, Batch], tuple[Counts, Array]]:
    """Labels and their counts, jitted over the mesh: batch and predictions split, counts summed.

    It takes variables as `place` puts them. By onnxruntime, or a function of another runtime, the
    labels, not their counts.
    """
    name = runtime if isinstance(runtime, str) else "xla"
    check_runtime(name, config.eval, devices=mesh.size)
    model = build_model(model_for(name, config.model))
    predict = partial(predict_labels, model=model, protocol=config.eval)
    count = partial(count_labels, model=model, protocol=config.eval, ignore_label=ignore_label)

    def step(variables: Any, batch: Batch) -> tuple[Counts, Array]:
        return count(predict(variables, batch["image"]), batch)

    if runtime == "onnxruntime":
        runtime = Compiled(partial(predict, blocks=False), config.model.output_stride)
    if not isinstance(runtime, str):
        labels, counting = runtime, jax.jit(count)
        return lambda variables, batch: counting(labels(variables, batch["image"]), batch)
    places, split = fsdp_shardings(abstract_variables(config.model), mesh), batch_sharding(mesh)
    return jax.jit(
        bind_mesh(step, mesh),
        in_shardings=(places, split),
        out_shardings=(replicated(mesh), split),
    )
