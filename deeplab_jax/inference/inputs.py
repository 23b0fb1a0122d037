"""What is to be predicted: the images and videos of files and folders, and how each is read."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab_jax.data.decode import (
    FORMATS,
    MAX_PIXELS,
    MAX_WINDOW_PIXELS,
    ORIENTATION,
    Unreadable,
    decode_image,
    read_file,
    warn_of_range,
)
from deeplab_jax.data.pixels import Reading, reading_of
from deeplab_jax.data.raster import open_raster
from deeplab_jax.data.walk import SUFFIXES, Walk, walk_images
from deeplab_jax.errors import UserError
from deeplab_jax.inference import video
from deeplab_jax.inference.bands import Pixels, Raster
from deeplab_jax.inference.formats import MARK, is_ours, tiff_tags
from deeplab_jax.inference.predict import Predictor

WHOLE_PIXELS = 4 * MAX_PIXELS  # of an image that is decoded whole, without --eval.window

Content = np.ndarray | Path  # an image u8[h w c], or the file of a video or of a large TIFF


class Input(NamedTuple):
    """An image or video to predict; `name`: its path below the folder that was given, or its own.

    `large`: the image has more than MAX_PIXELS.
    """

    file: Path
    name: PurePath
    large: bool = False


class Inputs(NamedTuple):
    """The images of files and folders, each once; `passed_over`: in words, '' if nothing was."""

    images: list[Input]
    passed_over: str = ""


def find_images(paths: Sequence[Path], *, videos: bool = False) -> Inputs:
    """Find the images among files, folders and the folders in them, but what `predict` wrote there.

    With `videos`, also these: in folders, where PyAV is there to read them.

    Raises:
      UserError: a path is not there, a folder holds no images, or no video can be taken.
    """
    read_videos = videos and video.can_read()
    suffixes = SUFFIXES | video.SUFFIXES if read_videos else SUFFIXES
    found: dict[str, Input] = {}
    passed_over: Counter[str] = Counter()
    for path in paths:
        if os.path.isdir(path):
            walk = walk_images(path, suffixes)
            files = [file for file in walk.images if not is_ours(file)]
            others = walk.passed_over + Counter({MARK: len(walk.images) - len(files)})
            if not files:
                why = f"; {Walk([], others).describe()}" if others else ""
                raise UserError(f"{path}: holds no images ({', '.join(sorted(suffixes))}){why}")
            images = [Input(file, file.relative_to(path)) for file in files]
            passed_over += others
        elif os.path.isfile(path):
            if video.is_video(path) and not read_videos:
                why = video.INSTALL if videos else "of a video only overlays are drawn"
                raise UserError(f"{path}: {why}")
            images = [Input(path, PurePath(path.name))]
        else:
            hint = "; name the images before options of several values, as --eval.window 513 513"
            number = str(path).replace(".", "", 1).isdigit()
            raise UserError(f"{path}: no such file or folder{hint if number else ''}")
        for image in images:
            found.setdefault(os.path.abspath(image.file), image)
    said = Walk([], passed_over).describe()
    if videos and not read_videos and video.SUFFIXES & passed_over.keys():
        said += f"; {video.INSTALL}"
    return Inputs([*found.values()], said)


def measure(image: Input) -> Input:
    """Note whether an image is large, as its header says."""
    if video.is_video(image.file):
        return image
    try:
        if tags := tiff_tags(image.file):
            pixels = tags[256] * tags[257]
        else:
            with Image.open(image.file, formats=FORMATS) as opened:
                pixels = opened.width * opened.height
        return image._replace(large=bool(pixels > MAX_PIXELS))
    except Exception:  # Pillow raises anything; what is wrong is said when it is read
        return image


def read_image(predictor: Predictor, exif: bool, image: Input) -> tuple[Content, str]:
    """Decode an image, and what to warn of; what is read bit by bit is only named. `exif`: turned.

    Raises:
      Unreadable: the file cannot be read.
    """
    file = image.file
    if video.is_video(file):
        return file, ""
    reading = reading_of(predictor.model, predictor.task)
    if image.large and (tags := tiff_tags(file)) and not (exif and tags.get(ORIENTATION, 1) != 1):
        return file, ""
    largest = MAX_WINDOW_PIXELS if predictor.protocol.window else WHOLE_PIXELS
    limit = largest if image.large else MAX_PIXELS
    with as_unreadable():
        data = read_file(file, limit)
        pixels = decode_image(data, str(file), exif=exif, reading=reading, max_pixels=limit)
        return pixels, warn_of_range(data, str(file), reading, limit)


@contextmanager
def as_unreadable() -> Iterator[None]:
    """A fault of one file, which others need not suffer from."""
    try:
        yield
    except UserError as error:
        raise Unreadable(str(error)) from error


@contextmanager
def as_raster(content: Content, reading: Reading) -> Iterator[Raster]:
    """What was decoded; or a file of which windows are read."""
    if isinstance(content, np.ndarray):
        yield Pixels(content)
        return
    with open_raster(content, reading) as raster:
        yield raster
