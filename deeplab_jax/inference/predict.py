"""Prediction from saved weights, in Python.

import deeplab_jax, numpy as np
from PIL import Image

network = deeplab_jax.load("runs/my_data")
image = np.asarray(Image.open("photo.jpg").convert("RGB"))  # u8[h, w, 3]
labels = network.predict(image)                             # u8[h, w], class ids
name = network.class_names[labels[0, 0]]                    # of the upper left pixel
network.push_to_hub("user/model")                           # deeplab_jax.load("user/model")
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
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
from deeplab_jax.data.transforms import Size, bring_to_input, fit_size
from deeplab_jax.errors import UserError
from deeplab_jax.files import writable_folder, write_atomically
from deeplab_jax.inference.bands import Canvas, Raster, enlarge_bands, label_bands, reduce_raster
from deeplab_jax.inference.step import (
    ONE_VIEW,
    predict_labels,
    predict_probabilities,
    window_logits,
)
from deeplab_jax.inference.tta import at_scale
from deeplab_jax.lowering.session import Compiled, Runtime, check_runtime, model_for
from deeplab_jax.models import build_model, mean_pixel
from deeplab_jax.ops.resize import resize_bilinear
from deeplab_jax.parallel.mesh import bind_mesh, device_mesh, place, replicated
from deeplab_jax.reporting.card import CARD, model_card, read_card
from deeplab_jax.weights import hub
from deeplab_jax.weights.files import Weights, find_weights, load_weights, read_note, save_weights


class Predictor:
    """A trained network that takes images of any size; `load` makes one from a folder.

    `class_names` and `colors` say what its class ids mean. `protocol` says how it looks at an image
    (`scales`, `flip`, `window`, `overlap`), and `space` how many devices share the height of each.
    `folder` is where the weights were found, and with them what their model card says. A program is
    compiled when the first image of an `input_size` comes, by XLA or for the other `runtime`.

    Raises:
      UserError: there are fewer devices; protocol or runtime do not suit the network.
    """

    def __init__(
        self,
        weights: Weights,
        protocol: EvalConfig = ONE_VIEW,
        *,
        space: int = 1,
        folder: Path | None = None,
        runtime: Runtime = "xla",
    ) -> None:
        check_runtime(runtime, protocol, devices=space)
        self.model, self.task, self.protocol = weights.model, weights.task, protocol
        check_protocol(self.model, self.task, protocol)
        self.class_names, self.colors = self.task.classes, self.task.colors
        self._folder = folder
        self.classifies = self.model.head == "classifier"
        mesh = device_mesh((1, 1, space), jax.devices()[:space])
        self._variables = place(weights.variables, mesh)
        network, blocks = build_model(model_for(runtime, self.model)), runtime == "xla"

        def compile_step(function: Callable[..., Array]) -> Callable[[Any, np.ndarray], Any]:
            if runtime == "onnxruntime":
                return Compiled(function, self.model.output_stride)
            return jax.jit(bind_mesh(function, mesh), out_shardings=replicated(mesh))

        self._labels, self._probabilities = (
            compile_step(partial(function, model=network, protocol=protocol, blocks=blocks))
            for function in (predict_labels, predict_probabilities)
        )
        self._window_logits = {
            scale: compile_step(partial(window_logits, model=at_scale(network, scale)))
            for scale in protocol.scales
        }

    def predict(self, image: np.ndarray, *, probabilities: bool = False) -> np.ndarray:
        """Predict the class of each pixel of image u8[h, w, channels]: class ids u8[h, w].

        A network has 3 channels, RGB, unless its `model.channels` says otherwise.

        With `probabilities`, return those of all classes instead, f32[h, w, classes], with sum 1.
        The image is scaled or padded as in training, and the result brought back to its size. A
        classifier looks at the centre and answers once: u16[1, 1], or f32[1, 1, classes].

        Raises:
          UserError: the image is of another type, or has another number of channels.
        """
        return self.predict_batch([image], probabilities=probabilities)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], *, probabilities: bool = False
    ) -> list[np.ndarray]:
        """Predict several images, each as if it were alone; those of one input size together."""
        channels = self.model.image_channels
        for i, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels:
                kind = f"{image.dtype} {list(image.shape)}"
                allowed = f"uint8 [height, width, {channels}]" + ", RGB" * (channels == 3)
                raise UserError(f"image {i} is {kind}; allowed is {allowed}")
        run = self._probabilities if probabilities else self._labels
        boxes = [self.input_size((image.shape[0], image.shape[1])) for image in images]
        results: dict[int, np.ndarray] = {}
        for box in dict.fromkeys(boxes):
            group = [i for i in range(len(images)) if boxes[i] == box]
            inputs, scaled = zip(*(self._prepare(images[i], box) for i in group), strict=True)
            outputs = np.asarray(run(self._variables, np.stack(inputs)))
            for i, output, size in zip(group, outputs, scaled, strict=True):
                results[i] = self._restore(output, images[i], size)
        return [results[i] for i in range(len(images))]

    def predict_bands(self, raster: Raster) -> Iterator[np.ndarray]:
        """As `predict`, of an image too large for memory: labels u8[rows, w], from top to bottom.

        It is read from its file a band of rows at a time, and a window slides over it: the
        protocol's, or one of `bands.WINDOW`. Where images are scaled to fit, it is scaled down.
        """
        box = self.input_size(raster.size)
        if self.task.resize == "fit":
            small = reduce_raster(raster, fit_size(raster.size, box))
            yield from enlarge_bands(self.predict(small), raster.size)
            return
        networks = {s: partial(f, self._variables) for s, f in self._window_logits.items()}
        canvas = Canvas(raster, box, mean_pixel(self.model))
        yield from label_bands(networks, canvas, self.model, self.protocol)

    def input_size(self, size: Size) -> Size:
        """Height and width that the network gets for an image of `size` (h, w)."""
        return input_size(size, self.model, self.task)

    def save_pretrained(self, directory: str | Path, *, licence: str | None = None) -> None:
        """Write the network into a folder: what `load` takes, and README.md, its model card.

        `licence` is one of the Hub's identifiers, such as "cc-by-4.0"; None: as the card says that
        lies where the network was loaded from, else unknown.

        Raises:
          UserError: nothing can be written there, or a README.md of something else is there.
        """
        folder = writable_folder(Path(directory).resolve(), "directory")
        if (folder / CARD).exists() and not read_card(folder):
            raise UserError(f"{folder / CARD} is no model card; choose an empty folder")
        self._save(folder, folder.name, licence)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        licence: str | None = None,
    ) -> str:
        """Send to the Hugging Face Hub, as "user/model", what `save_pretrained` writes.

        Takes huggingface_hub. A model of that name gets a new commit. `private` is for one that is
        not there yet; `token` is by default the one of `hf auth login`, or HF_TOKEN.

        Returns:
          The model's URL.

        Raises:
          UserError: the Hub cannot be asked, or refuses it.
        """
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "weights"
            self._save(folder, name, licence)
            return hub.push(folder, name, private=private, token=token)

    def _save(self, folder: Path, name: str, licence: str | None) -> None:
        """Write the files of a folder of weights, with a card that calls it `name`."""
        known = self._folder
        note = read_note(known) if known else {}
        card = model_card(name, self.model, self.task, known, note=note, licence=licence)
        weights = Weights(self.model, self.task, jax.device_get(self._variables))
        save_weights(folder, weights, note)
        write_atomically(folder / CARD, card)

    def _prepare(self, image: np.ndarray, box: Size) -> tuple[np.ndarray, Size]:
        """The image as the network gets it, u8[*box, c], as at evaluation; its size in there."""
        fill, fit = mean_pixel(self.model), self.task.resize == "fit"
        return bring_to_input(image, box, fill, fit=fit, centre=self.classifies)

    def _restore(self, output: np.ndarray, image: np.ndarray, scaled: Size) -> np.ndarray:
        """Labels u8[*box] or probabilities f32[*box, classes], at the size of their image."""
        (h, w), size = scaled, (image.shape[0], image.shape[1])
        if self.classifies or scaled == size:
            return output[:h, :w]
        if output.ndim == 3:  # they still sum to 1
            return np.asarray(resize_bilinear(jnp.asarray(output[None, :h, :w]), size))[0]
        labels = Image.fromarray(output[:h, :w])
        return np.asarray(labels.resize(size[::-1], Image.Resampling.NEAREST))


def load(
    directory: str | Path,
    output_stride: int | None = None,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: Size | None = None,
    overlap: float = ONE_VIEW.overlap,
    space: int = 1,
    revision: str | None = None,
    runtime: Runtime = "xla",
) -> Predictor:
    """Load a trained network; `from_pretrained` is another name of this function.

    Args:
      directory: a run's folder (its best weights), such as "runs/my_data", or a folder of weights;
        where there is none, a name of `deeplab zoo`, or "user/model" of the Hugging Face Hub.
      output_stride: 8, 16 or 32; None: as trained. A smaller one sees finer and takes longer.
      scales: the sizes at which each image is seen, as (0.5, 1, 1.5); probabilities are averaged.
      flip: see the mirror image too, at each scale.
      window: height and width of a window that slides over images too large for memory, each
        k * output_stride + 1; None: the whole image at once.
      overlap: the share of a window that its neighbour sees too, at least.
      space: how many devices share the height of each image.
      revision: a branch, tag or commit of a model of the Hub: "user/model@revision".
      runtime: "onnxruntime" is faster on CPUs, and wants `pip install onnx onnxruntime`.

    Raises:
      UserError: the folder has no weights, or not those that it describes; an argument is wrong.
    """
    protocol = EvalConfig(scales=tuple(scales), flip=flip, window=window, overlap=overlap)
    folder = find_weights(Path(f"{directory}@{revision}" if revision else directory))
    weights = load_weights(folder)
    model, task = at_output_stride(weights.model, weights.task, output_stride)
    weights = weights._replace(model=model, task=task)
    return Predictor(weights, protocol, space=space, runtime=runtime, folder=folder)
