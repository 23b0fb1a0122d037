"""The proof of an exported file: it is run by its own runtime, and compared with our prediction."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from deeplab_jax.data.datasets.scenes import render
from deeplab_jax.data.sizes import fits
from deeplab_jax.data.transforms import bring_to_input
from deeplab_jax.errors import UserError
from deeplab_jax.export.prediction import Prediction, from_pixels
from deeplab_jax.inference.inputs import find_images, read_image
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.lowering.walk import each_layer
from deeplab_jax.models import mean_pixel
from deeplab_jax.parallel.mesh import bind_mesh, device_mesh

TOLERANCE = 1e-5  # of the largest logit: float32, in another order of sums
SAME_LABELS = 0.995  # of all pixels: the least, where float16 makes the difference larger
MOST_IMAGES, MADE_IMAGES = 16, 2

# What images [1, h, w, c] give: the network's logits, if they can be had, and the output.
Scores = tuple[np.ndarray | None, np.ndarray]
Run = Callable[[np.ndarray], Scores]


class Agreement(NamedTuple):
    """A file beside our prediction, over all images that were compared."""

    difference: float
    """The largest of the logits, in parts of the largest logit; 0 where only labels are known."""
    same: float
    """Share of pixels with the same label."""
    seconds: float
    """Of an image, the median; and of ours, by XLA."""
    our_seconds: float
    megabytes: float

    @property
    def close(self) -> bool:
        """Whether it is float32 that differs, and no more; false where something is no number."""
        return self.difference <= TOLERANCE and self.same >= SAME_LABELS

    def __str__(self) -> str:
        return (
            f"logits within {self.difference:.1e} of the largest (allowed {TOLERANCE:.0e}),"
            f" {100 * self.same:.3f} % of labels the same; {self.seconds:.3f} s an image"
            f" (XLA here {self.our_seconds:.3f} s); {self.megabytes:.1f} MB"
        )


def compare(
    run: Run,
    file: Path,
    prediction: Prediction,
    images: Sequence[np.ndarray],
    logits_of: Callable[[np.ndarray], np.ndarray | None] = lambda image: None,
) -> Agreement:
    """An exported file, which `run` runs, beside our prediction in float32, for each image.

    `logits_of` an image are the network's, where they are not had in the same run.
    """
    ours, by_labels = compile_ours(prediction), prediction.output == "labels"
    differences, largest, same, times = [0.0], [1e-30], [], []
    for step in (run, ours):
        step(images[0])  # compiles, reads the file
    for image in images:
        start = time.monotonic()
        logits, output = run(image)
        middle = time.monotonic()
        our_logits, our_output = ours(image)
        times.append((middle - start, time.monotonic() - middle))
        logits = logits_of(image) if logits is None else logits
        if logits is None:
            logits, our_logits = (None, None) if by_labels else (output, our_output)
        if logits is not None and our_logits is not None:
            differences.append(np.abs(logits - our_logits).max())
            largest.append(np.abs(our_logits).max())
        labels = [x if by_labels else x.argmax(-1) for x in (output, our_output)]
        same.append(np.mean(labels[0] == labels[1]))
    seconds, our_seconds = np.median(times, axis=0)
    difference = float(np.max(differences) / np.max(largest))
    size = file.stat().st_size / 1e6
    return Agreement(difference, float(np.mean(same)), seconds, our_seconds, size)


def compile_ours(prediction: Prediction) -> Run:
    """Our own prediction in float32, as `predict` computes it."""
    weights, mesh = prediction.weights, device_mesh((1, 1, 1), jax.devices()[:1])

    def predict(variables: Any, image: Array) -> tuple[Array, Array]:
        ours = prediction._replace(weights=weights._replace(variables=variables), half=False)
        return ours.with_logits(image, blocks=True)

    compiled, variables = jax.jit(bind_mesh(predict, mesh)), jax.device_put(weights.variables)

    def run(image: np.ndarray) -> Scores:
        logits, output = compiled(variables, image)
        return np.asarray(logits), np.asarray(output)

    return run


def first_difference(
    found: Mapping[str, np.ndarray], prediction: Prediction, image: np.ndarray
) -> str:
    """Which layer of a file first differs from ours by more than TOLERANCE, in words.

    `found` has the last value of each layer, in their order.
    """
    ours = each_layer(prediction.predict, image)
    for layer, x in found.items():
        difference = np.abs(x - ours[layer]).max() / np.abs(ours[layer]).max()
        if not difference <= TOLERANCE:
            return f"{layer} is the first layer that does, by {difference:.1e} of its largest value"
    return "no layer does by itself"


def read_images(prediction: Prediction, path: Path | None) -> tuple[list[np.ndarray], str]:
    """Images [1, h, w, c] as the file takes them, at most MOST_IMAGES; and in words which.

    Of a file or a folder; or made ones, of the *scenes* data set.

    Raises:
      UserError: there are none, or one cannot be read.
    """
    weights, (h, w, channels) = prediction.weights, prediction.image.shape
    if path is None:
        made = (render(3, i, h, w)[0] for i in range(MADE_IMAGES))
        pixels = [image[..., np.arange(channels) % 3] for image in made]
        words = f"{MADE_IMAGES} made images (--images PATH takes yours)"
    else:
        predictor, pixels = Predictor(weights), []
        for image in find_images([path]).images[:MOST_IMAGES]:
            content, _ = read_image(predictor, True, image)
            if isinstance(content, Path):
                raise UserError(f"{content}: too large an image to compare")
            pixels.append(content)
        words = f"{len(pixels)} images of {path}"
    white, dtype = weights.task.range, prediction.image.dtype
    return [from_pixels(bring(x, prediction), white, dtype)[None] for x in pixels], words


def bring(image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """An image u8[h, w, c] as the file takes it; what is larger is scaled down."""
    weights, size = prediction.weights, (image.shape[0], image.shape[1])
    box, fill = prediction.input_size(size), mean_pixel(weights.model)
    fit = weights.task.resize == "fit" or not fits(size, box)
    centre = weights.model.head == "classifier"
    return bring_to_input(image, box, fill, fit=fit, centre=centre)[0]
