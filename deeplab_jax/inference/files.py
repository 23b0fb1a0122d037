"""Prediction of files: every output is planned before the first image, and memory stays flat."""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_jax.data.decode import MAX_PIXELS, Unreadable
from deeplab_jax.data.pixels import reading_of
from deeplab_jax.data.transforms import fit_size
from deeplab_jax.errors import UserError
from deeplab_jax.inference import video
from deeplab_jax.inference.bands import Pixels, Raster, choose_nearest, reduce_raster
from deeplab_jax.inference.coco import coco_file
from deeplab_jax.inference.formats import (
    FORMS,
    Form,
    Format,
    check_classes,
    read_georeference,
    save,
    save_label,
    unwritable,
)
from deeplab_jax.inference.inputs import (
    Content,
    Input,
    Inputs,
    as_raster,
    as_unreadable,
    measure,
    read_image,
)
from deeplab_jax.inference.outputs import SHEET, check_outputs, overlay_of, plan_outputs
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.progress import Ticker, duration, sign_of_life
from deeplab_jax.reporting import figures

SHEET_IMAGES = 48  # at most so many are on it
WALKED_PIXELS = 2**24  # with --eval.window, larger images are predicted a band of rows at a time
SHOWN = 2048  # the long side of an overlay of an image above MAX_PIXELS

Note = Callable[[str], None]  # what hears how far an image is
Write = Callable[[int, np.ndarray], None]  # what writes the label map of an image, by its index


def predict_files(predictor: Predictor, inputs: Inputs, out: Path, form: Format = "index") -> int:
    """Write OUT/NAME.png (class ids, palette) and OUT/NAME_overlay.png for each image.

    A contact sheet of several goes to OUT/contact_sheet.png; of a video, OUT/NAME.mp4 is its
    overlays. The other forms are label files alone, or one OUT/predictions.json; those for the
    servers of VOC and Cityscapes are named as these want them. Label files of images above
    MAX_PIXELS are TIFFs, and their overlays small. A line is printed for each image. Returns how
    many could not be read.

    Raises:
      UserError: the network has not the server's classes; an output may not or cannot be written;
        no image could be read.
    """
    check_classes(predictor.class_names, form)
    inputs = inputs._replace(images=[measure(image) for image in inputs.images])
    chosen = FORMS[form](predictor.task, predictor.colors)
    plan = plan_outputs(inputs.images, out, chosen)
    still = [label for label in plan if not video.is_video(label)]
    overlays = [overlay_of(label) for label in still] if form == "index" else []
    sheet = [out / SHEET] if len(overlays) > 1 else []
    check_outputs(inputs.images, [*dict.fromkeys(plan), *overlays, *sheet], out)
    on_sheet = np.linspace(0, len(still) - 1, min(len(still), SHEET_IMAGES)).round().astype(int)
    shown = {still[i] for i in on_sheet} if sheet else set()
    read = partial(read_image, predictor, not chosen.stored)
    with label_writer(chosen, inputs.images, plan, predictor.class_names) as write:
        segment = Segment(predictor, inputs.images, plan, out, form, write, shown)
        failed = for_each_image(inputs, read, segment)
    if len(thumbnails := segment.thumbnails) > 1:
        some = f"{len(thumbnails)} of {len(still)} images" if len(still) > SHEET_IMAGES else ""
        save(figures.contact_sheet([*thumbnails.values()], [*thumbnails], heading=some), sheet[0])
    return failed


@dataclass
class Segment:
    """Predicts an image or video, writes what is planned for it, and says what was found."""

    predictor: Predictor
    images: Sequence[Input]
    plan: Sequence[Path]
    out: Path
    form: Format
    write: Write
    shown: set[Path]  # of the plan: those on the contact sheet
    thumbnails: dict[str, Image.Image] = field(default_factory=dict)
    seen: set[object] = field(default_factory=set)  # programs, and what was said once

    def __call__(self, i: int, content: Content, note: Note) -> str:
        file, network = self.plan[i], self.predictor
        if video.is_video(self.images[i].file):
            counts, frames, seconds = video.draw_video(network, self.images[i].file, file, note)
            took = f"{frames} frames, {1000 * seconds / frames:.0f} ms each"
            return f": {describe(counts, network.class_names)}; {took}"
        reading = reading_of(network.model, network.task)
        with as_unreadable(), as_raster(content, reading) as raster:
            start = time.perf_counter()
            label, program = predict_label(network, raster, self.out, note)
            seconds = time.perf_counter() - start
            image = to_show(raster) if self.form == "index" else None
        first = "" if program in self.seen else " with compiling"
        self.seen.add(program)
        self.write(i, label)
        if image is not None:
            self._draw(image, label, file)
        if self.form == "geotiff":
            self._warn(self.images[i].file)
        took = f"{1000 * seconds:.0f} ms" if seconds < 100 else duration(seconds)
        found = describe(count_ids(label), network.class_names)
        return f"{self._renamed(i)}: {found}; {took}{first}"

    def _draw(self, image: np.ndarray, label: np.ndarray, file: Path) -> None:
        if image.shape[:2] != label.shape:
            rows, columns = choose_nearest((image.shape[0], image.shape[1]), label.shape)
            label = label[rows[:, None], columns]
        network = self.predictor
        overlay = figures.overlay(image, label, network.colors, network.class_names)
        save(overlay, overlay_of(file))
        if file in self.shown:
            name = str(file.relative_to(self.out).with_suffix(""))
            self.thumbnails[name] = figures.fit(overlay, figures.CELL)

    def _warn(self, file: Path) -> None:
        """Say once that an image has no georeference."""
        if "plain" not in self.seen and not read_georeference(file):
            self.seen.add("plain")
            what = "has no georeference; the TIFFs of such images have none"
            print(f"warning: {file}: {what}", file=sys.stderr)

    def _renamed(self, i: int) -> str:
        """The name of the label file, where it is not the usual one."""
        file, image = self.plan[i], self.images[i]
        if self.form == "coco" or (file.stem == image.file.stem and not image.large):
            return ""
        return f" (as {file.relative_to(self.out)})"


@contextmanager
def label_writer(
    form: Form, images: Sequence[Input], plan: Sequence[Path], class_names: Sequence[str]
) -> Iterator[Write]:
    """Writes label maps as a form has them, to where they are planned."""
    if form.suffix:
        yield lambda i, label: save_label(label, plan[i], form, images[i].file)
        return
    times = Counter(image.name for image in images)
    names = [image.name if times[image.name] == 1 else image.file for image in images]
    with coco_file(plan[0], class_names) as add:
        yield lambda i, label: add(names[i].as_posix(), label)


def predict_label(
    predictor: Predictor, raster: Raster, folder: Path, note: Note
) -> tuple[np.ndarray, object]:
    """The label map u8[h w] of an image, and what stands for the program that it took.

    Of an image that the network does not see at once, it lies in a file without a name.
    """
    h, w = raster.size
    most = WALKED_PIXELS if predictor.protocol.window else MAX_PIXELS
    if isinstance(raster, Pixels) and h * w <= most:
        with sign_of_life(f"image of {w} x {h}"):
            return predictor.predict(raster.array), predictor.input_size((h, w))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for labels in predictor.predict_bands(raster):
                file.write(labels.tobytes())
                note(f"row {file.tell() // w} of {h}")
            file.flush()
            return np.memmap(file, np.uint8, "r", shape=(h, w)), "bands"
    except OSError as error:
        raise unwritable(folder, error) from error


def to_show(raster: Raster) -> np.ndarray:
    """An image as it is drawn over: a large one is scaled down."""
    h, w = raster.size
    if isinstance(raster, Pixels) and h * w <= MAX_PIXELS:
        return raster.array
    return reduce_raster(raster, fit_size((h, w), (SHOWN, SHOWN)))


def classify_files(predictor: Predictor, inputs: Inputs) -> int:
    """Print the five most likely classes of each image; return how many could not be read.

    Raises:
      UserError: no image could be read.
    """

    def classify(_: int, image: Content, __: Note) -> str:
        if isinstance(image, Path):
            raise Unreadable(f"{image}: a video, which a classifier does not take")
        p = predictor.predict(np.asarray(image), probabilities=True)[0, 0]
        best = [f"{predictor.class_names[i]} {100 * p[i]:.1f} %" for i in np.argsort(-p)[:5]]
        return f": {', '.join(best)}"

    return for_each_image(inputs, partial(read_image, predictor, True), classify)


def for_each_image(
    inputs: Inputs,
    read: Callable[[Input], tuple[Content, str]],
    act: Callable[[int, Content, Note], str],
) -> int:
    """`act` on each image and its index, and print what it says of it; the next is read meanwhile.

    Prints what cannot be read, what was passed over and how many failed; returns their number.

    Raises:
      UserError: no image could be read; what `act` raises, but Unreadable.
    """
    images, failed, dark = inputs.images, 0, 0
    ahead: Future[tuple[Content, str]] | None = None
    with ThreadPoolExecutor(1) as pool, Ticker("predict", len(images), unit="image") as ticker:

        def handle(i: int) -> str:
            """Two images are in memory at most: what is here ends with this function."""
            nonlocal ahead, dark
            reading, ahead = ahead or pool.submit(read, images[i]), None
            content, why = reading.result()
            if i + 1 < len(images) and not images[i + 1].large:
                ahead = pool.submit(read, images[i + 1])
            dark += bool(why)
            if why and dark == 1:
                print(f"warning: {images[i].file}: {why}", file=sys.stderr)
            return act(i, content, lambda how_far: ticker.tick(i, f"{images[i].name} {how_far}"))

        for i, image in enumerate(images):
            try:
                print(f"{image.name}{handle(i)}", flush=True)
            except Unreadable as error:
                failed += 1
                print(f"error: {error}", file=sys.stderr)
            ticker.tick(i + 1, str(image.name))
    if dark > 1:
        print(f"warning: {dark} images use as little of their range", file=sys.stderr)
    if inputs.passed_over:
        print(inputs.passed_over)
    if failed == len(images):
        raise UserError("none of the images could be read")
    if failed:
        print(f"{failed} of {len(images)} images could not be read", file=sys.stderr)
    return failed


def count_ids(label: np.ndarray) -> np.ndarray:
    """How many pixels have each class id: int64[256]."""
    counts = np.zeros(256, np.int64)
    for top in range(0, len(label), figures.BAND):  # np.bincount takes eight times their memory
        counts += np.bincount(label[top : top + figures.BAND].ravel(), minlength=256)
    return counts


def describe(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """'dog 31.2 %, cat 8.0 %': the classes found, by area, those under 0.1 % left out."""
    shares = 100 * counts[: len(class_names)] / counts.sum()
    largest_first = [i for i in np.argsort(-shares) if shares[i] >= 0.1]
    return ", ".join(f"{class_names[i]} {shares[i]:.1f} %" for i in largest_first)
