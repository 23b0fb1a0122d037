"""Prediction from saved weights: from Python by `load`, for files by `predict_files`."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from deeplab_jax import pictures
from deeplab_jax.config import MeshConfig, at_output_stride, round_up
from deeplab_jax.data import cityscapes, voc
from deeplab_jax.data.decode import decode_image, read_file
from deeplab_jax.data.transforms import Size, central_crop, cut, fit_size, whole
from deeplab_jax.data.walk import SUFFIXES
from deeplab_jax.errors import UserError
from deeplab_jax.models import build_model, mean_pixel
from deeplab_jax.models.layers import resize_bilinear
from deeplab_jax.sharding import device_mesh, on_mesh, place, replicated
from deeplab_jax.step import predict_labels, predict_probabilities
from deeplab_jax.weights.files import Weights, load_weights

Format = Literal["index", "voc", "cityscapes"]
# Where the evaluation server of VOC looks, segmentation by methods trained on any data.
VOC_RESULTS = "results/VOC2012/Segmentation/comp6_test_cls"


class Predictor:
    """A trained network for pictures of any size; one program is compiled for each input size.

    `mesh.space` devices share the height of each picture, one by default.

    Raises:
      UserError: there are fewer devices.
    """

    def __init__(self, weights: Weights) -> None:
        self.config = weights.config
        self.class_names = weights.class_names
        self.colors = weights.colors
        self.classifies = weights.config.model.head == "classifier"
        space = weights.config.mesh.space
        mesh = device_mesh((1, 1, space), jax.devices()[:space])
        self._variables = place(weights.variables, mesh)
        model, protocol = build_model(weights.config.model), weights.config.eval

        def compiled(function: Callable[..., Array]) -> Callable[[Any, np.ndarray], Array]:
            on_devices = on_mesh(partial(function, model=model, protocol=protocol), mesh)
            return jax.jit(on_devices, out_shardings=replicated(mesh))

        self._labels = compiled(predict_labels)
        self._probabilities = compiled(predict_probabilities)

    def predict(self, image: np.ndarray, *, probabilities: bool = False) -> np.ndarray:
        """image u8 [h w 3] -> class ids u8 [h w]; with `probabilities`, f32 [h w classes] instead.

        The picture is scaled or padded as in training, the result brought back to its size. A
        classifier looks at the centre and answers for the whole: u16 [1 1] or f32 [1 1 classes].
        """
        return self.predict_batch([image], probabilities=probabilities)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], *, probabilities: bool = False
    ) -> list[np.ndarray]:
        """Several pictures in one pass; they may have different sizes.

        Raises:
          UserError: a picture is not u8 [h w 3].
        """
        for i, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                found = f"{image.dtype} {list(image.shape)}"
                raise UserError(f"image {i} is {found}; allowed is uint8 [height, width, 3], RGB")
        run = self._probabilities if probabilities else self._labels
        if self.classifies:
            return list(np.asarray(run(self._variables, self._centres(images))))
        sizes: list[Size] = [(i.shape[0], i.shape[1]) for i in images]
        box = self.input_size((max(h for h, _ in sizes), max(w for _, w in sizes)))
        scaled = [self._scaled(size, box) for size in sizes]
        fill = mean_pixel(self.config.model.backbone)
        batch = np.stack(
            [
                whole(image, s, box, fill, smooth=True)
                for image, s in zip(images, scaled, strict=True)
            ]
        )
        outputs = np.asarray(run(self._variables, batch))
        cropped = [o[:h, :w] for o, (h, w) in zip(outputs, scaled, strict=True)]
        restore = smooth_to_size if probabilities else nearest_to_size
        return [restore(o, size) for o, size in zip(cropped, sizes, strict=True)]

    def input_size(self, size: Size) -> Size:
        """Height and width that the network gets for a picture of `size`."""
        data, stride = self.config.data, self.config.model.output_stride
        if data.eval_size and (
            data.resize == "fit" or (size[0] <= data.eval_size[0] and size[1] <= data.eval_size[1])
        ):
            return data.eval_size
        h, w = (round_up(n, stride) for n in size)
        return (max(h, 2 * stride + 1), max(w, 2 * stride + 1))

    def _centres(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """What a classifier sees of pictures of any size, as at evaluation."""
        size = self.config.data.eval_size or self.config.data.crop_size
        crop, fill = central_crop(size), mean_pixel(self.config.model.backbone)
        return np.stack([cut(image, crop, size, fill, smooth=True) for image in images])

    def _scaled(self, size: Size, box: Size) -> Size:
        return fit_size(size, box) if self.config.data.resize == "fit" else size


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
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window: Size | None = None,
    overlap: float | None = None,
    space: int = 1,
) -> Predictor:
    """The predictor of a run's folder or a converted one; None: as in its configuration.

    `scales`, `flip`, `window` and `overlap` are those of `EvalConfig`: the sizes at which a picture
    is seen, its mirror image too, and a window that slides over one too large for memory; `space`
    devices share the height of each picture.

    Raises:
      UserError: the folder holds no weights, or weights that do not fit its config.json; an
        argument is not possible.
    """
    weights = load_weights(directory)
    config = weights.config
    if output_stride is not None:
        config = at_output_stride(config, output_stride)
    e = config.eval
    views = dataclasses.replace(
        e,
        scales=e.scales if scales is None else tuple(scales),
        flip=e.flip if flip is None else flip,
        window=e.window if window is None else window,
        overlap=e.overlap if overlap is None else overlap,
    )
    config = dataclasses.replace(config, eval=views, mesh=MeshConfig(space=space))
    return Predictor(weights._replace(config=config))


def find_pictures(path: Path) -> list[Path]:
    """A picture, or all pictures of a folder in order of name."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"{path}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return found


def predict_files(
    predictor: Predictor, files: Iterable[Path], out: Path, form: Format = "index"
) -> list[str]:
    """Write OUT/NAME.png (class ids, palette) and OUT/NAME_overlay.png for each picture.

    A contact sheet of several goes to OUT/contact_sheet.png. The forms for the servers of VOC and
    Cityscapes are label files alone, named as these want them. Returns (and prints) a line for each
    picture; one that cannot be read is reported and passed over.

    Raises:
      UserError: the network has not the server's number of classes; no picture could be read.
    """
    check_form(predictor, form)
    out.mkdir(parents=True, exist_ok=True)
    compiled: set[Size] = set()
    names: list[str] = []
    overlays: list[Image.Image] = []
    lines = []
    for file in files:
        try:
            # A server compares with pictures as they are stored, not as a camera says to turn them.
            white = predictor.config.data.white
            image = decode_image(read_file(file), str(file), exif=form == "index", white=white)
        except UserError as error:
            lines.append(f"error: {error}")
            print(lines[-1], flush=True)
            continue
        size = predictor.input_size((image.shape[0], image.shape[1]))
        if size not in compiled:
            compiled.add(size)
            predictor.predict(image)  # compiles; not counted below
        start = time.perf_counter()
        label = predictor.predict(image)
        milliseconds = 1000 * (time.perf_counter() - start)
        names.append(unique(file.stem, names))
        save_label(label, out, names[-1], form, predictor.colors)
        if form == "index":
            painted = pictures.overlay(image, label, predictor.colors, predictor.class_names)
            painted.save(out / f"{names[-1]}_overlay.png")
            overlays.append(painted)
        lines.append(f"{file.name}: {describe(label, predictor)}; {milliseconds:.0f} ms")
        print(lines[-1], flush=True)
    if len(overlays) > 1:
        pictures.contact_sheet(overlays, names).save(out / "contact_sheet.png")
    if not names:
        raise UserError("none of the pictures could be read")
    return lines


def check_form(predictor: Predictor, form: Format) -> None:
    """Raise UserError unless the network's classes can be those of the server."""
    needed = {"voc": len(voc.CLASS_NAMES), "cityscapes": len(cityscapes.CLASS_NAMES)}.get(form)
    classes = predictor.config.model.num_classes
    if needed not in (None, classes):
        raise UserError(f"--format={form} is for {needed} classes; these weights have {classes}")


def save_label(
    label: np.ndarray, out: Path, name: str, form: Format, colors: Sequence[pictures.RGB]
) -> None:
    """A prediction u8 [h w] as its class ids with a palette, or as a server wants it.

    VOC: ids with VOC's palette, in the folders of its archive. Cityscapes: the ids of its masks
    (`labelIds`) in grey; its script finds a file by the picture's name at the beginning.
    """
    if form == "cityscapes":
        ids = np.array(cityscapes.TRAIN_ID_TO_ID, np.uint8)[label]
        Image.fromarray(ids).save(out / f"{name}.png")
        return
    folder = out / VOC_RESULTS if form == "voc" else out
    folder.mkdir(parents=True, exist_ok=True)
    pictures.save_index_png(label, folder / f"{name}.png", voc.COLORS if form == "voc" else colors)


def classify_files(predictor: Predictor, files: Iterable[Path]) -> list[str]:
    """Return (and print) a line for each picture: its five most likely classes, or what is wrong.

    `predictor` is of a classifier.
    """
    lines = []
    for file in files:
        try:
            white = predictor.config.data.white
            image = decode_image(read_file(file), str(file), exif=True, white=white)
            p = predictor.predict(image, probabilities=True)[0, 0]
            best = [f"{predictor.class_names[i]} {100 * p[i]:.1f} %" for i in np.argsort(-p)[:5]]
            lines.append(f"{file.name}: {', '.join(best)}")
        except UserError as error:
            lines.append(f"error: {error}")
        print(lines[-1], flush=True)
    return lines


def unique(name: str, taken: Iterable[str]) -> str:
    """`name`, or with a number where a.jpg and a.png would write the same file."""
    candidates = [name, *(f"{name}_{i}" for i in range(2, 10_000))]
    return next(c for c in candidates if c not in set(taken))


def describe(label: np.ndarray, predictor: Predictor) -> str:
    """'dog 31.2 %, cat 8.0 %': the classes found, by area, those under 0.1 % left out."""
    counts = np.bincount(label.ravel(), minlength=len(predictor.class_names))
    shares = 100 * counts / label.size
    order = [i for i in np.argsort(-shares) if shares[i] >= 0.1]
    return ", ".join(f"{predictor.class_names[i]} {shares[i]:.1f} %" for i in order)
