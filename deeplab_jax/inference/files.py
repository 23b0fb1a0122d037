"""Prediction of files: every output is planned before the first image, and memory stays flat."""

import io
import os
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
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
from deeplab_jax.data.transforms import Size
from deeplab_jax.data.walk import SUFFIXES, Walk, walk_images
from deeplab_jax.errors import UserError
from deeplab_jax.files import writable_folder
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.progress import Ticker, sign_of_life
from deeplab_jax.reporting import figures

Format = Literal["index", "voc", "cityscapes"]
# Where the evaluation server of VOC looks, segmentation by methods trained on any data.
VOC_RESULTS = "results/VOC2012/Segmentation/comp6_test_cls"
SHEET = "contact_sheet.png"
SHEET_IMAGES = 48  # at most so many are shown on it
# By this text near its beginning, a PNG is known as one that `predict` wrote.
MARK = "written by deeplab_jax predict"


class Source(NamedTuple):
    """An image to predict; `name`: its path below the folder that was given, or its file name."""

    file: Path
    name: PurePath


class Found(NamedTuple):
    """The images of files and folders, each once; `passed_over`: in words, '' if nothing was."""

    sources: list[Source]
    passed_over: str = ""


class Outputs(NamedTuple):
    """The files written for one image; a server wants no overlay."""

    label: Path
    overlay: Path | None = None


def find_images(paths: Sequence[Path]) -> Found:
    """Files, and all images of folders and of the folders in them, but what predict drew there.

    Raises:
      UserError: a path is not there, or a folder holds no images.
    """
    found: dict[str, Source] = {}
    passed_over: Counter[str] = Counter()
    for path in paths:
        if os.path.isdir(path):
            walk = _undrawn(walk_images(path))
            passed_over += walk.passed_over
            if not walk.images:
                why = f"; {walk.describe()}" if walk.passed_over else ""
                raise UserError(f"{path}: holds no images ({', '.join(sorted(SUFFIXES))}){why}")
            sources = [Source(file, file.relative_to(path)) for file in walk.images]
        elif os.path.isfile(path):
            sources = [Source(path, PurePath(path.name))]
        else:
            raise UserError(f"{path}: no such file or folder{_is_a_value(path)}")
        for source in sources:
            found.setdefault(os.path.abspath(source.file), source)
    return Found(list(found.values()), Walk([], passed_over).describe())


def _undrawn(walk: Walk) -> Walk:
    """A walk without the images that `predict` wrote: a second run would predict its drawings."""
    images = [file for file in walk.images if not drawn_by_predict(file)]
    drawn = Counter({MARK: len(walk.images) - len(images)})
    return Walk(images, walk.passed_over + drawn)


def _is_a_value(path: Path) -> str:
    if not str(path).replace(".", "", 1).isdigit():
        return ""
    return "; name the images before options of several values, such as --eval.window 513 513"


def drawn_by_predict(file: Path) -> bool:
    """Whether a file is a PNG that `predict` wrote, at any time."""
    if file.suffix.lower() != ".png":
        return False
    try:
        with file.open("rb") as f:
            return MARK.encode() in f.read(200)
    except OSError:
        return False


def predict_files(predictor: Predictor, found: Found, out: Path, form: Format = "index") -> int:
    """Write OUT/NAME.png (class ids, palette) and OUT/NAME_overlay.png for each image.

    A contact sheet of several goes to OUT/contact_sheet.png. The forms for the servers of VOC and
    Cityscapes are label files alone, named as these want them. Prints a line for each image; one
    that cannot be read is reported and passed over. Returns how many these were.

    Raises:
      UserError: the network has not the server's number of classes; an output may not or cannot be
        written; no image could be read.
    """
    check_form(predictor, form)
    plan = plan_outputs(found.sources, out, form)
    check_apart(found.sources, plan, out)
    writable_folder(out, "--out")
    sheet = out / SHEET if form == "index" and len(plan) > 1 else None
    check_free([file for file in (*(file for outputs in plan for file in outputs), sheet) if file])
    shown = set(np.linspace(0, len(plan) - 1, min(len(plan), SHEET_IMAGES)).round().astype(int))
    thumbnails: dict[str, Image.Image] = {}
    compiled: set[Size] = set()

    def segment(i: int, image: np.ndarray) -> str:
        size = predictor.input_size((image.shape[0], image.shape[1]))
        start = time.perf_counter()
        label = predictor.predict(image)
        milliseconds = 1000 * (time.perf_counter() - start)
        first = "" if size in compiled else " with compiling"
        compiled.add(size)
        save_label(label, plan[i].label, form, predictor.colors)
        name = str(plan[i].label.relative_to(out).with_suffix(""))
        if overlay := plan[i].overlay:
            drawn = figures.overlay(image, label, predictor.colors, predictor.class_names)
            save(drawn, overlay)
            if i in shown:
                thumbnails[name] = figures.fit(drawn, figures.CELL)
        renamed = plan[i].label.stem != found.sources[i].file.stem
        where = f" (as {name}.png)" if renamed else ""
        return f"{where}: {describe(label, predictor)}; {milliseconds:.0f} ms{first}"

    # A server compares with images as they are stored, not as a camera says to turn them.
    failed = for_each_image(predictor, found, segment, exif=form == "index")
    if sheet and len(thumbnails) > 1:
        some = f"{len(thumbnails)} of {len(plan)} images"
        heading = some if len(plan) > SHEET_IMAGES else ""
        save(figures.contact_sheet([*thumbnails.values()], [*thumbnails], heading=heading), sheet)
    return failed


def classify_files(predictor: Predictor, found: Found) -> int:
    """Print a line for each image: its five most likely classes, or what is wrong with it.

    `predictor` is of a classifier. Returns how many images could not be read.

    Raises:
      UserError: no image could be read.
    """

    def classify(_: int, image: np.ndarray) -> str:
        p = predictor.predict(image, probabilities=True)[0, 0]
        best = [f"{predictor.class_names[i]} {100 * p[i]:.1f} %" for i in np.argsort(-p)[:5]]
        return f": {', '.join(best)}"

    return for_each_image(predictor, found, classify, exif=True)


def for_each_image(
    predictor: Predictor, found: Found, act: Callable[[int, np.ndarray], str], *, exif: bool
) -> int:
    """`act` on each image and its index, one in memory at a time; print what it says of it.

    Prints what cannot be read, what was passed over and how many failed; returns their number.

    Raises:
      UserError: no image could be read; what `act` raises.
    """
    total, failed, dark = len(found.sources), 0, 0
    limit = MAX_WINDOW_PIXELS if predictor.protocol.window else MAX_PIXELS
    white = predictor.task.white
    with Ticker("predict", total, unit="image") as ticker:
        for i, (file, name) in enumerate(found.sources):
            try:
                data = read_file(file, limit)
                image = decode_image(data, str(file), exif=exif, white=white, max_pixels=limit)
                if why := warn_of_range(data, str(file), white, limit):
                    dark += 1
                    if dark == 1:
                        print(f"warning: {file}: {why}", file=sys.stderr, flush=True)
            except UserError as error:
                failed += 1
                print(f"error: {error}", file=sys.stderr, flush=True)
            else:
                with sign_of_life(f"{name} ({image.shape[1]} x {image.shape[0]})"):
                    said = act(i, image)
                print(f"{name}{said}", flush=True)
            ticker.tick(i + 1)
    if dark > 1:
        print(f"warning: {dark} images use as little of their range", file=sys.stderr)
    if found.passed_over:
        print(found.passed_over)
    if failed == total:
        raise UserError("none of the images could be read")
    if failed:
        print(f"{failed} of {total} images could not be read", file=sys.stderr)
    return failed


def check_form(predictor: Predictor, form: Format) -> None:
    """Raise UserError unless the network's classes can be those of the server, and in its order."""
    if form == "index":
        return
    ours = predictor.class_names
    theirs = voc.CLASS_NAMES if form == "voc" else cityscapes.CLASS_NAMES
    if len(ours) != len(theirs):
        raise UserError(
            f"--format={form} is for {len(theirs)} classes; these weights have {len(ours)}"
        )
    if not (other := other_names(ours, theirs)):
        return
    if set(ours) == set(theirs):
        raise UserError(
            f"--format={form}: these weights have the server's classes in another order ({other})"
        )
    print(
        f"warning: --format={form}: the server has other names for these classes, which go by"
        f" their ids: {other}",
        file=sys.stderr,
    )


def plan_outputs(sources: Sequence[Source], out: Path, form: Format) -> list[Outputs]:
    """The files that are written for each image, none of them twice.

    Folders below a given one are kept below `out`. Names are compared as macOS and Windows do it.
    Where two images would write the same file, the later one's name gets a number.

    Raises:
      UserError: two images would write the same file for a server, which knows them by name.
    """
    plan: list[Outputs] = []
    if form != "index":
        folder = out / VOC_RESULTS if form == "voc" else out
        first: dict[str, Path] = {}
        for file, _ in sources:
            label = folder / f"{file.stem}.png"
            if (other := first.setdefault(_key(label), file)) != file:
                raise UserError(
                    f"{other} and {file} would both be {label}, a name that the server fixes:"
                    " predict them into different folders"
                )
            plan.append(Outputs(label))
        return plan
    names = [name.with_suffix("") for _, name in sources]
    folders = {_key(out / folder) for name in names for folder in name.parents}
    taken = {_key(out / SHEET), *folders}
    for name in names:
        for candidate in _numbered(name):
            label = out / candidate.with_name(f"{candidate.name}.png")
            overlay = out / candidate.with_name(f"{candidate.name}_overlay.png")
            keys = {_key(label), _key(overlay)}
            if not keys & taken:
                break
        taken |= keys
        plan.append(Outputs(label, overlay))
    return plan


def _numbered(name: PurePath) -> Iterator[PurePath]:
    yield name
    i = 2
    while True:
        yield name.with_name(f"{name.name}_{i}")
        i += 1


def _key(path: Path) -> str:
    """Equal for paths that a file system may take for the same."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def check_apart(sources: Sequence[Source], plan: Sequence[Outputs], out: Path) -> None:
    """Raise UserError if an output would lie in the folder of an input, also through links."""
    inputs = {_identity(folder) for folder in {source.file.parent for source in sources}} - {None}
    for folder in sorted({out, *(outputs.label.parent for outputs in plan)}):
        if _identity(folder) in inputs:
            raise UserError(
                f"--out = {out}: {folder} holds images to predict; choose another folder, such as"
                f" --out {out / 'predicted'}"
            )


def _identity(folder: Path) -> tuple[int, int] | None:
    """The same for all paths of one folder; None if it is not there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_free(files: Sequence[Path]) -> None:
    """Raise UserError if one of the files is there and was not written by `predict`."""
    for file in files:
        try:
            file.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unwritable(file, error) from error
        if not drawn_by_predict(file):
            raise UserError(
                f"{file} is there already, and this predict did not write it: choose another --out,"
                " or move it away"
            )


def save_label(label: np.ndarray, file: Path, form: Format, colors: Sequence[figures.RGB]) -> None:
    """Write a prediction u8 [h w] as its class ids with a palette, or as a server wants it.

    VOC: ids with VOC's palette. Cityscapes: the ids of its masks (`labelIds`) in grey; its script
    finds a file by the image's name at the beginning.
    """
    if form == "cityscapes":
        ids = np.array(cityscapes.TRAIN_ID_TO_ID, np.uint8)[label]
        save(Image.fromarray(ids), file)
    else:
        indices = figures.index_image(label, voc.COLORS if form == "voc" else colors)
        save(indices, file, optimize=True)


def save(image: Image.Image, file: Path, *, optimize: bool = False) -> None:
    """Write a PNG that is known as `predict`'s: the whole file or, if that fails, nothing of it.

    Raises:
      UserError: it cannot be written.
    """
    mark, content = PngInfo(), io.BytesIO()
    mark.add_text("Software", MARK)
    image.save(content, format="PNG", pnginfo=mark, optimize=optimize)
    staging = file.with_name(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staging.write_bytes(content.getbuffer())
        os.replace(staging, file)
    except OSError as error:
        with suppress(OSError):
            staging.unlink()
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> UserError:
    return UserError(
        f"{file}: cannot be written ({error.strerror}); make room, rename, or choose another --out"
    )


def describe(label: np.ndarray, predictor: Predictor) -> str:
    """'dog 31.2 %, cat 8.0 %': the classes found, by area, those under 0.1 % left out."""
    counts = np.array(Image.fromarray(label).histogram()[: len(predictor.class_names)])
    shares = 100 * counts / label.size
    order = [i for i in np.argsort(-shares) if shares[i] >= 0.1]
    return ", ".join(f"{predictor.class_names[i]} {shares[i]:.1f} %" for i in order)
