"""Prediction of files: every output is planned before the first image, and memory stays flat."""

import io
import os
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deeplab_jax.data.classes import other_names
from deeplab_jax.data.datasets import cityscapes, voc
from deeplab_jax.data.decode import (
    MAX_PIXELS,
    MAX_WINDOW_PIXELS,
    decode_image,
    read_file,
    warn_of_range,
)
from deeplab_jax.data.pixels import reading_of
from deeplab_jax.data.transforms import Size
from deeplab_jax.data.walk import SUFFIXES, Walk, walk_images
from deeplab_jax.errors import UserError
from deeplab_jax.files import writable_folder, write_atomically
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.progress import Ticker, sign_of_life
from deeplab_jax.reporting import figures

Format = Literal["index", "voc", "cityscapes"]
# Where the evaluation server of VOC looks, segmentation by methods trained on any data.
VOC_RESULTS = "results/VOC2012/Segmentation/comp6_test_cls"
SHEET = "contact_sheet.png"
SHEET_IMAGES = 48  # at most so many are on it
# By this text near its beginning, a PNG is known as one that `predict` wrote.
MARK = "written by deeplab_jax predict"


class Input(NamedTuple):
    """An image to predict; `name`: its path below the folder that was given, or its file name."""

    file: Path
    name: PurePath


class Inputs(NamedTuple):
    """The images of files and folders, each once; `passed_over`: in words, '' if nothing was."""

    images: list[Input]
    passed_over: str = ""


def find_images(paths: Sequence[Path]) -> Inputs:
    """Find the images among files, folders and the folders in them, but what `predict` wrote there.

    Raises:
      UserError: a path is not there, or a folder holds no images.
    """
    found: dict[str, Input] = {}
    passed_over: Counter[str] = Counter()
    for path in paths:
        if os.path.isdir(path):
            walk = walk_images(path)
            files = [file for file in walk.images if not is_ours(file)]
            others = walk.passed_over + Counter({MARK: len(walk.images) - len(files)})
            if not files:
                why = f"; {Walk([], others).describe()}" if others else ""
                raise UserError(f"{path}: holds no images ({', '.join(sorted(SUFFIXES))}){why}")
            images = [Input(file, file.relative_to(path)) for file in files]
            passed_over += others
        elif os.path.isfile(path):
            images = [Input(path, PurePath(path.name))]
        else:
            hint = "; name the images before options of several values, as --eval.window 513 513"
            number = str(path).replace(".", "", 1).isdigit()
            raise UserError(f"{path}: no such file or folder{hint if number else ''}")
        for image in images:
            found.setdefault(os.path.abspath(image.file), image)
    return Inputs([*found.values()], Walk([], passed_over).describe())


def is_ours(file: Path) -> bool:
    """Whether a file is a PNG that `predict` wrote, at any time: it may be written again."""
    if file.suffix.lower() != ".png":
        return False
    try:
        with file.open("rb") as f:
            return MARK.encode() in f.read(200)
    except OSError:
        return False


# ---- one image after the other


def predict_files(predictor: Predictor, inputs: Inputs, out: Path, form: Format = "index") -> int:
    """Write OUT/NAME.png (class ids, palette) and OUT/NAME_overlay.png for each image.

    A contact sheet of several goes to OUT/contact_sheet.png. The forms for the servers of VOC and
    Cityscapes are label files alone, named as these want them. A line is printed for each image.
    Returns how many could not be read.

    Raises:
      UserError: the network has not the server's classes; an output may not or cannot be written;
        no image could be read.
    """
    check_classes(predictor.class_names, form)
    plan = plan_outputs(inputs.images, out, form)
    index = form == "index"
    sheet = [out / SHEET] if index and len(plan) > 1 else []
    overlays = [overlay_of(label) for label in plan] if index else []
    check_outputs(inputs.images, [*plan, *overlays, *sheet], out)
    on_sheet = {*np.linspace(0, len(plan) - 1, min(len(plan), SHEET_IMAGES)).round().astype(int)}
    thumbnails: dict[str, Image.Image] = {}
    compiled: set[Size] = set()

    def segment(i: int, image: np.ndarray) -> str:
        size = predictor.input_size((image.shape[0], image.shape[1]))
        start = time.perf_counter()
        label = predictor.predict(image)
        milliseconds = 1000 * (time.perf_counter() - start)
        first = "" if size in compiled else " with compiling"
        compiled.add(size)
        save_label(label, plan[i], form, predictor.colors)
        name = str(plan[i].relative_to(out).with_suffix(""))
        if index:
            overlay = figures.overlay(image, label, predictor.colors, predictor.class_names)
            save(overlay, overlays[i])
            if i in on_sheet:
                thumbnails[name] = figures.fit(overlay, figures.CELL)
        where = "" if plan[i].stem == inputs.images[i].file.stem else f" (as {name}.png)"
        return f"{where}: {describe(label, predictor.class_names)}; {milliseconds:.0f} ms{first}"

    # A server compares with images as they are stored, not as a camera says to turn them.
    failed = for_each_image(predictor, inputs, segment, exif=index)
    if sheet and len(thumbnails) > 1:
        some = f"{len(thumbnails)} of {len(plan)} images" if len(plan) > SHEET_IMAGES else ""
        save(figures.contact_sheet([*thumbnails.values()], [*thumbnails], heading=some), sheet[0])
    return failed


def classify_files(predictor: Predictor, inputs: Inputs) -> int:
    """Print the five most likely classes of each image; return how many could not be read.

    Raises:
      UserError: no image could be read.
    """

    def classify(_: int, image: np.ndarray) -> str:
        p = predictor.predict(image, probabilities=True)[0, 0]
        best = [f"{predictor.class_names[i]} {100 * p[i]:.1f} %" for i in np.argsort(-p)[:5]]
        return f": {', '.join(best)}"

    return for_each_image(predictor, inputs, classify, exif=True)


def for_each_image(
    predictor: Predictor, inputs: Inputs, act: Callable[[int, np.ndarray], str], *, exif: bool
) -> int:
    """`act` on each image and its index, one in memory at a time; print what it says of it.

    Prints what cannot be read, what was passed over and how many failed; returns their number.

    Raises:
      UserError: no image could be read; what `act` raises.
    """
    total, failed, dark = len(inputs.images), 0, 0
    limit = MAX_WINDOW_PIXELS if predictor.protocol.window else MAX_PIXELS
    reading = reading_of(predictor.model, predictor.task)
    with Ticker("predict", total, unit="image") as ticker:
        for i, (file, name) in enumerate(inputs.images):
            try:
                data = read_file(file, limit)
                image = decode_image(data, str(file), exif=exif, reading=reading, max_pixels=limit)
                if why := warn_of_range(data, str(file), reading, limit):
                    dark += 1
                    if dark == 1:
                        print(f"warning: {file}: {why}", file=sys.stderr)
            except UserError as error:
                failed += 1
                print(f"error: {error}", file=sys.stderr)
            else:
                with sign_of_life(f"{name} ({image.shape[1]} x {image.shape[0]})"):
                    said = act(i, image)
                print(f"{name}{said}", flush=True)
            ticker.tick(i + 1)
    if dark > 1:
        print(f"warning: {dark} images use as little of their range", file=sys.stderr)
    if inputs.passed_over:
        print(inputs.passed_over)
    if failed == total:
        raise UserError("none of the images could be read")
    if failed:
        print(f"{failed} of {total} images could not be read", file=sys.stderr)
    return failed


def describe(label: np.ndarray, class_names: Sequence[str]) -> str:
    """'dog 31.2 %, cat 8.0 %': the classes found, by area, those under 0.1 % left out."""
    counts = Image.fromarray(label).histogram()  # np.bincount takes eight times the label's memory
    shares = 100 * np.array(counts[: len(class_names)]) / label.size
    largest_first = [i for i in np.argsort(-shares) if shares[i] >= 0.1]
    return ", ".join(f"{class_names[i]} {shares[i]:.1f} %" for i in largest_first)


# ---- what is written


def plan_outputs(images: Sequence[Input], out: Path, form: Format) -> list[Path]:
    """The label file of each image; none of these, of their overlays and the sheet is another's.

    Folders below a given one are kept below `out`. Where two images would write the same file, the
    later one's name gets a number: the label files of a.jpg and a.png are a.png and a_2.png.

    Raises:
      UserError: two images would write the same file for a server, which knows them by name.
    """
    plan: list[Path] = []
    taken: dict[str, Path] = {}
    if form != "index":
        folder = out / VOC_RESULTS if form == "voc" else out
        for file, _ in images:
            label = folder / f"{file.stem}.png"
            if (other := taken.setdefault(fold(label), file)) != file:
                raise UserError(
                    f"{other} and {file} would both be {label}, a name that the server fixes:"
                    " predict them into different folders"
                )
            plan.append(label)
        return plan
    names = [out / name.with_suffix("") for _, name in images]
    claimed = {fold(folder) for name in names for folder in name.parents} | {fold(out / SHEET)}
    for name in names:
        for i in count(1):
            label = name.with_name(f"{name.name}_{i}.png" if i > 1 else f"{name.name}.png")
            keys = {fold(label), fold(overlay_of(label))}
            if not keys & claimed:
                break
        claimed |= keys
        plan.append(label)
    return plan


def overlay_of(label: Path) -> Path:
    """The file of an overlay, beside its label file."""
    return label.with_name(f"{label.stem}_overlay.png")


def fold(path: Path | str) -> str:
    """Equal for paths that macOS or Windows may take for the same."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def check_outputs(images: Sequence[Input], files: Sequence[Path], out: Path) -> None:
    """Make the folder `out`, unless one of the files may not be written. Links are followed.

    Raises:
      UserError: a file would lie beside an image to predict, or in the place of another's.
    """
    inputs = {fold(os.path.realpath(f)) for f in {image.file.parent for image in images}}
    for folder in sorted({out, *(file.parent for file in files)}):
        if fold(os.path.realpath(folder)) in inputs:
            raise UserError(
                f"--out = {out}: {folder} holds images to predict; choose another folder, such as"
                f" --out {out / 'predicted'}"
            )
    writable_folder(out, "--out")
    for file in files:
        try:
            there = bool(file.lstat())
        except FileNotFoundError:
            there = False
        except OSError as error:
            raise unwritable(file, error) from error
        if there and not is_ours(file):
            raise UserError(
                f"{file} is there already, and this predict did not write it: choose another --out,"
                " or move it away"
            )


def save_label(label: np.ndarray, file: Path, form: Format, colors: Sequence[figures.RGB]) -> None:
    """Write a prediction u8[h, w] as its class ids with a palette, or as a server wants it.

    VOC: ids with VOC's palette. Cityscapes: the ids of its masks (`labelIds`) in grey; its script
    finds a file by the image's name at the beginning.
    """
    if form == "cityscapes":
        ids = np.array(cityscapes.TRAIN_ID_TO_ID, np.uint8)[label]
        save(Image.fromarray(ids), file)
    else:
        save(figures.index_image(label, voc.COLORS if form == "voc" else colors), file)


def save(image: Image.Image, file: Path) -> None:
    """Write a PNG that is known as `predict`'s: the whole file or, if that fails, nothing of it.

    Raises:
      UserError: it cannot be written.
    """
    mark, content = PngInfo(), io.BytesIO()
    mark.add_text("Software", MARK)
    image.save(content, format="PNG", pnginfo=mark, optimize=image.mode == "P")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content.getvalue())
    except OSError as error:
        raise unwritable(file, error) from error


def unwritable(file: Path, error: OSError) -> UserError:
    return UserError(
        f"{file}: cannot be written ({error.strerror}); make room, rename, or choose another --out"
    )


def check_classes(ours: tuple[str, ...], form: Format) -> None:
    """Raise UserError unless a network's classes can be those of the server, and in its order."""
    if form == "index":
        return
    theirs = voc.CLASS_NAMES if form == "voc" else cityscapes.CLASS_NAMES
    other, problem = other_names(ours, theirs), ""
    if len(ours) != len(theirs):
        problem = f" is for {len(theirs)} classes; these weights have {len(ours)}"
    elif other and {*ours} == {*theirs}:
        problem = f": these weights have the server's classes in another order ({other})"
    if problem:
        raise UserError(f"--format={form}{problem}")
    if other:
        warning = "the server has other names for these classes, which go by their ids"
        print(f"warning: --format={form}: {warning}: {other}", file=sys.stderr)
