"""The pure functions of inference: one prediction, one evaluated batch. `jit` them as you like."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from deeplab_jax.config import Config, EvalConfig
from deeplab_jax.inference.metrics import Counts, count_pixels
from deeplab_jax.inference.tta import mean_probabilities, over_rows, view_logits
from deeplab_jax.models import Network, build_model
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.models.layers import height_width
from deeplab_jax.parallel.mesh import (
    gather_parameters,
    gather_rows,
    on_mesh,
    over_batch,
    over_fsdp,
    replicated,
)

Batch = Mapping[str, Array]
ONE_VIEW = EvalConfig()  # the image as it is


def output_size(image: Array, model: Network) -> tuple[int, int]:
    """Height and width of a prediction: the image's, or a classifier's one pixel."""
    return (1, 1) if model.config.head == "classifier" else height_width(image)


def predict_labels(
    variables: Any, image: Array, *, model: Network, protocol: EvalConfig = ONE_VIEW
) -> Array:
    """image u8 [b h w 3] -> the most likely class of each pixel, u8 [b h w]; classifier: u16.

    `scales`, `flip`, `window` and `overlap` of the protocol say how the network looks at it.
    """
    dtype = jnp.uint16 if model.config.head == "classifier" else jnp.uint8

    def most_likely(views: list[Array]) -> Array:
        scores = views[0] if len(views) == 1 else mean_probabilities(views)
        return jnp.argmax(scores, axis=-1).astype(dtype)

    variables, image = gather_parameters(variables), image.astype(jnp.float32)
    views = view_logits(variables, image, model=model, protocol=protocol)
    return over_rows(most_likely, views, output_size(image, model))


def predict_probabilities(
    variables: Any, image: Array, *, model: Network, protocol: EvalConfig = ONE_VIEW
) -> Array:
    """image u8 [b h w 3] -> class probabilities f32 [b h w c]; classifier: [b 1 1 c].

    The mean of the views' softmax, as in the official code (`model.py:
    predict_labels_multi_scale`); but a flip counts there only with several scales.
    """
    variables, image = gather_parameters(variables), image.astype(jnp.float32)
    views = view_logits(variables, image, model=model, protocol=protocol)
    return over_rows(mean_probabilities, views, output_size(image, model))


def to_original(prediction: Array, scaled: Array, size: Array, out_size: tuple[int, int]) -> Array:
    """Nearest resample of the `scaled` (h, w) corner of predictions [b h w] to `size`, in out_size.

    Both sizes are int32 [b, 2]; out_size is static, the canvas of the labels.
    """

    def one(p: Array, source: Array, target: Array) -> Array:
        def nearest(axis: int) -> Array:  # PIL's NEAREST: floor of the pixel's centre, in integers
            i = jnp.arange(out_size[axis])
            i = (2 * i + 1) * source[axis] // (2 * target[axis])
            return jnp.minimum(i, source[axis] - 1)

        return p[nearest(0)[:, None], nearest(1)[None, :]]

    return jax.vmap(one)(prediction, scaled, size)


def eval_step(
    variables: Any, batch: Batch, *, model: Network, protocol: EvalConfig, ignore_label: int
) -> tuple[Counts, Array]:
    """A batch of `eval_batches` -> (counts, predictions at the labels' size)."""
    labels = predict_labels(variables, batch["image"], model=model, protocol=protocol)
    labels = gather_rows(labels)
    labels = to_original(labels, batch["scaled"], batch["size"], height_width(batch["label"]))
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
    config: Config, mesh: Mesh, ignore_label: int
) -> Callable[[Any, Batch], tuple[Counts, Array]]:
    """`eval_step` jitted over the mesh: batch and predictions split, counts summed over devices.

    Variables are taken as `place` puts them.
    """
    step = partial(
        eval_step,
        model=build_model(config.model),
        protocol=config.eval,
        ignore_label=ignore_label,
    )
    places = over_fsdp(abstract_variables(config.model), mesh)
    split = over_batch(mesh)
    return jax.jit(
        on_mesh(step, mesh),
        in_shardings=(places, split),
        out_shardings=(replicated(mesh), split),
    )
