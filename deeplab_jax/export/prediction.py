"""What an exported file computes: the whole prediction, from pixels as they are to its output."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from deeplab_jax.config import PAPER_CROP, TaskConfig
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.sizes import input_size
from deeplab_jax.data.transforms import Size
from deeplab_jax.inference.step import ONE_VIEW, most_likely, reduce_upsampled
from deeplab_jax.inference.tta import mean_probabilities, view_logits
from deeplab_jax.models import build_model, mean_pixel
from deeplab_jax.ops.resize import height_width
from deeplab_jax.version import VERSION
from deeplab_jax.weights.files import Weights

Output = Literal["labels", "probabilities", "logits", "coarse"]
KEY = "deeplab_jax"  # of the metadata


class Prediction(NamedTuple):
    """The prediction of a network, as a file of another runtime has it.

    Images [b, *size, channels] of `dtype` become labels u8[b, h, w] (a classifier's u16[b, 1, 1]),
    or the probabilities or logits f32[b, h, w, classes], at the images' size; `coarse`: the logits
    at the network's own stride, which a web page upsamples itself. `size` None: any
    k * output_stride + 1. `half`: computed in float16, but for sums and logits.
    """

    weights: Weights
    output: Output
    size: Size | None
    half: bool = False

    @property
    def image(self) -> jax.ShapeDtypeStruct:
        """One image [h, w, c]; where it may have any size, of one of them.

        Of more than 8 bits where the network's range is.
        """
        dtype: Any = np.uint8
        white = self.weights.task.range
        if white is not None:
            whole = all(n == int(n) and 0 <= n <= 65535 for n in white)
            dtype = np.uint16 if whole else np.float32
        size = self.input_size(self.size or PAPER_CROP)
        return jax.ShapeDtypeStruct((*size, self.weights.model.image_channels), dtype)

    def input_size(self, size: Size) -> Size:
        """Height and width of the file's input for an image of `size`."""
        return self.size or input_size(size, self.weights.model, TaskConfig())

    def predict(self, image: Array, *, blocks: bool = False) -> Array:
        """The output for images; `blocks` as in `reduce_upsampled`."""
        return self.with_logits(image, blocks=blocks)[1]

    def with_logits(self, image: Array, *, blocks: bool) -> tuple[Array, Array]:
        """The network's own logits, at its stride, and the output."""
        weights, model = self.weights, self.weights.model
        classifies = model.head == "classifier"
        # What is float32 in our bfloat16 networks is so in float16 ones, which ONNX has instead.
        network = dataclasses.replace(model, dtype="bfloat16" if self.half else "float32")
        pixels = to_pixels(image, weights.task.range).astype(jnp.float32)
        (logits,) = view_logits(
            weights.variables, pixels, model=build_model(network), protocol=ONE_VIEW
        )
        reduce: dict[str, Callable[[list[Array]], Array]] = {
            "labels": partial(most_likely, dtype=jnp.uint16 if classifies else jnp.uint8),
            "probabilities": mean_probabilities,
            "logits": lambda views: views[0],
            "coarse": lambda views: views[0],
        }
        as_they_are = classifies or self.output == "coarse"
        size = height_width(logits if as_they_are else image)
        return logits, reduce_upsampled(reduce[self.output], [logits], size, blocks=blocks)

    def metadata(self) -> dict[str, str]:
        """What a program must know of the file, as JSON under one key."""
        model, task = self.weights.model, self.weights.task
        colors = task.colors or voc_colormap(len(task.classes))
        fill = from_pixels(np.array(mean_pixel(model), np.uint8), task.range, self.image.dtype)
        pairs = zip(task.classes, colors, strict=True)
        about = {
            "version": VERSION,
            "task": "classification" if model.head == "classifier" else "segmentation",
            "classes": [{"name": name, "color": color} for name, color in pairs],
            "values": task.values,
            "input": {
                "size": self.size,
                "stride": model.output_stride,
                "channels": model.image_channels,
                "dtype": self.image.dtype.name,
                "range": task.range or (0, 255),
                "resize": "centre" if model.head == "classifier" else task.resize,
                "fill": fill.tolist(),
            },
            "output": self.output,
        }
        return {KEY: json.dumps(about)}


def to_pixels(image: Array, white: tuple[float, float] | None) -> Array:
    """An image's values as those of its 8 bits, as `data/pixels.py: to_bytes` has them.

    Whole numbers in whole numbers: a quotient in float32 may lie just below its whole one.
    """
    if white is None:
        return image
    low, high = white
    if image.dtype == jnp.uint16:
        low, high = int(low), int(high)
        above = jnp.clip(image.astype(jnp.int32), low, high) - low
        return lax.div(above * 255, jnp.int32(high - low))
    return jnp.clip(jnp.round((image - low) * (255 / (high - low))), 0, 255)


def from_pixels(pixels: np.ndarray, white: tuple[float, float] | None, dtype: Any) -> np.ndarray:
    """Images of `dtype` that `to_pixels` makes these bytes of."""
    if white is None:
        return pixels
    low, high = white
    values = low + pixels.astype(np.float64) * (high - low) / 255
    return (np.ceil(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)
