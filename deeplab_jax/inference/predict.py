"""Prediction from saved weights, from Python: `load`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from deeplab_jax.config import EvalConfig, at_output_stride, check_protocol
from deeplab_jax.data.sizes import input_size
from deeplab_jax.data.transforms import Size, central_crop, cut, fit_size, whole
from deeplab_jax.errors import UserError
from deeplab_jax.inference.step import ONE_VIEW, predict_labels, predict_probabilities
from deeplab_jax.models import build_model, mean_pixel
from deeplab_jax.models.layers import resize_bilinear
from deeplab_jax.parallel.mesh import device_mesh, on_mesh, place, replicated
from deeplab_jax.weights.files import Weights, load_weights


class Predictor:
    """A trained network for images of any size; one program is compiled for each input size.

    `protocol` says how it looks at an image; `space` devices share the height of each.

    Raises:
      UserError: there are fewer devices; the protocol does not suit the network.
    """

    def __init__(
        self, weights: Weights, protocol: EvalConfig = ONE_VIEW, *, space: int = 1
    ) -> None:
        self.model, self.task, self.protocol = weights.model, weights.task, protocol
        check_protocol(self.model, self.task, protocol)
        self.class_names, self.colors = self.task.classes, self.task.colors
        self.classifies = self.model.head == "classifier"
        mesh = device_mesh((1, 1, space), jax.devices()[:space])
        self._variables = place(weights.variables, mesh)
        model = build_model(weights.model)

        def compiled(function: Callable[..., Array]) -> Callable[[Any, np.ndarray], Array]:
            on_devices = on_mesh(partial(function, model=model, protocol=protocol), mesh)
            return jax.jit(on_devices, out_shardings=replicated(mesh))

        self._labels = compiled(predict_labels)
        self._probabilities = compiled(predict_probabilities)

    def predict(self, image: np.ndarray, *, probabilities: bool = False) -> np.ndarray:
        """image u8 [h w 3] -> class ids u8 [h w]; with `probabilities`, f32 [h w classes] instead.

        The image is scaled or padded as in training, the result brought back to its size. A
        classifier looks at the centre and answers for the whole: u16 [1 1] or f32 [1 1 classes].
        """
        return self.predict_batch([image], probabilities=probabilities)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], *, probabilities: bool = False
    ) -> list[np.ndarray]:
        """Several images in one pass for each size; each is predicted as if it were alone.

        Raises:
          UserError: an image is not u8 [h w 3].
        """
        for i, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                kind = f"{image.dtype} {list(image.shape)}"
                raise UserError(f"image {i} is {kind}; allowed is uint8 [height, width, 3], RGB")
        run = self._probabilities if probabilities else self._labels
        if self.classifies:
            return list(np.asarray(run(self._variables, self._centres(images))))
        sizes: list[Size] = [(i.shape[0], i.shape[1]) for i in images]
        boxes = [self.input_size(size) for size in sizes]
        found: dict[int, np.ndarray] = {}
        for box in dict.fromkeys(boxes):  # an image's neighbours must not change its padding
            group = [i for i, b in enumerate(boxes) if b == box]
            scaled = [self._scaled(sizes[i], box) for i in group]
            outputs = np.asarray(run(self._variables, self._batch(images, group, scaled, box)))
            for i, output, (h, w) in zip(group, outputs, scaled, strict=True):
                restore = smooth_to_size if probabilities else nearest_to_size
                found[i] = restore(output[:h, :w], sizes[i])
        return [found[i] for i in range(len(images))]

    def input_size(self, size: Size) -> Size:
        """Height and width that the network gets for an image of `size`; `pipeline.input_size`."""
        return input_size(size, self.model, self.task)

    def _batch(
        self, images: Sequence[np.ndarray], group: list[int], scaled: list[Size], box: Size
    ) -> np.ndarray:
        """Images of one input size, each scaled and padded to it."""
        fill = mean_pixel(self.model.backbone)
        pairs = zip(group, scaled, strict=True)
        return np.stack([whole(images[i], size, box, fill, smooth=True) for i, size in pairs])

    def _centres(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """What a classifier sees of images of any size, as at evaluation."""
        size = self.input_size((1, 1))
        crop, fill = central_crop(size), mean_pixel(self.model.backbone)
        return np.stack([cut(image, crop, size, fill, smooth=True) for image in images])

    def _scaled(self, size: Size, box: Size) -> Size:
        return fit_size(size, box) if self.task.resize == "fit" else size


def nearest_to_size(labels: np.ndarray, size: Size) -> np.ndarray:
    """Class ids u8 [h w] at another size, by nearest."""
    if labels.shape == size:
        return labels
    image = Image.fromarray(labels)
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.NEAREST))


def smooth_to_size(probabilities: np.ndarray, size: Size) -> np.ndarray:
    """Probabilities f32 [h w c] at another size, bilinear; they still sum to 1."""
    return np.asarray(resize_bilinear(jnp.asarray(probabilities[None]), size))[0]


def load(
    directory: str | Path,
    output_stride: int | None = None,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: Size | None = None,
    overlap: float = ONE_VIEW.overlap,
    space: int = 1,
) -> Predictor:
    """The predictor of a run's folder or a folder of weights; `output_stride` None: as trained.

    `scales`, `flip`, `window` and `overlap` are those of `EvalConfig`: the sizes at which an image
    is seen, its mirror image too, and a window that slides over one too large for memory; `space`
    devices share the height of each image.

    Raises:
      UserError: the folder holds no weights, or weights that do not fit its description; an
        argument is not possible.
    """
    protocol = EvalConfig(scales=tuple(scales), flip=flip, window=window, overlap=overlap)
    weights = load_weights(directory)
    model, task = at_output_stride(weights.model, weights.task, output_stride)
    return Predictor(weights._replace(model=model, task=task), protocol, space=space)
