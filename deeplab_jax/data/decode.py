"""The one decoder of images, used in training, evaluation and prediction alike."""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab_jax.data.pixels import (
    EIGHT_BITS,
    FULL,
    Reading,
    Unreadable,
    convert,
    describe_range,
    fit_channels,
    has_alpha,
    scale,
)
from deeplab_jax.data.tiff import (
    GDAL_NODATA,
    Tiff,
    equals,
    is_tiff,
    open_tiff,
    parse_nodata,
    suits_pillow,
)
from deeplab_jax.errors import UserError
from deeplab_jax.files import with_retries

T = TypeVar("T")

# 64 megapixels decode to 192 MB of RGB; a header may claim far more than the file holds.
MAX_PIXELS = 64 * 2**20
MAX_WINDOW_PIXELS = 2**30  # where a window slides over the image
BYTES_PER_PIXEL = 4  # at most, of a file: raw RGB has 3
MIN_SIDE = 2  # what counts visits to web pages has 1 x 1 pixels, and is downloaded with images
# PIL knows more, some of which start other programs (EPS): not for images from anywhere.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ORIENTATION = 0x0112  # the EXIF tag: 1 is upright, 2 to 8 are mirrored or turned
TURNING = (5, 6, 7, 8)  # those that exchange width and height
LAYOUT = "layout"  # where, in an opened image's `info`, it is kept how its file holds the pixels
RGB = Reading()

# PIL warns of odd metadata and large sizes: what matters of it is checked here. For good, because
# `catch_warnings` around each call is not safe among the loader's threads.
warnings.filterwarnings("ignore", module="PIL")
Image.MAX_IMAGE_PIXELS = MAX_WINDOW_PIXELS // 2  # PIL refuses twice as many


class TooLarge(Unreadable):
    """An image of too many pixels to be decoded whole."""


class Header(NamedTuple):
    """What an image's file says of itself; `size` (h, w) in stored pixels.

    `peak` is the largest value, of 65535, of more than 8 bits whose range the file does not name.
    """

    size: tuple[int, int]
    format: str
    mode: str
    frames: int = 1
    orientation: int = 1
    peak: int | None = None


# ---- files and headers


def read_file(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """The content of a file; raises Unreadable, also for over 4 bytes for each of `max_pixels`."""

    def read() -> bytes:
        size, limit = path.stat().st_size / 2**20, BYTES_PER_PIXEL * max_pixels // 2**20
        if size > limit:
            raise _too_large(f"{path}: the file has {size:.0f} MB; at most {limit} MB", max_pixels)
        return path.read_bytes()

    return _retry(read, str(path))


def image_size(data: bytes | Path, name: str) -> tuple[int, int]:
    """Read (h, w), in stored pixels, from the header alone; raises Unreadable, naming `name`."""
    return _read_header(data, name, lambda image: (image.height, image.width), lambda t: t.size)


def read_orientation(data: bytes | Path, name: str) -> int:
    """Read the EXIF orientation, 1 to 8; where a PNG has none this reads the whole file."""
    return _read_header(data, name, _orientation, lambda _: 1)


def _read_header(
    data: bytes | Path, name: str, get: Callable[[Image.Image], T], get_of_tiff: Callable[[Tiff], T]
) -> T:
    def read() -> T:
        with open_whole(data, name) as tiff:
            if tiff is not None:
                return get_of_tiff(tiff)
        with open_image(data, name) as image:
            return get(image)

    return _retry(read, name)


def _retry(read: Callable[[], T], name: str) -> T:
    try:
        return with_retries(read)
    except OSError as error:
        raise Unreadable(f"{name}: the file cannot be read ({error.strerror})") from error


def _orientation(image: Image.Image) -> int:
    tag: Any = image.getexif().get(ORIENTATION)
    return tag if tag in range(1, 9) else 1  # others mean nothing


@contextmanager
def open_image(
    data: bytes | Path, name: str, *, exif: bool = False, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    most = f"at most {max_pixels // 2**20} megapixels"
    try:
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        with Image.open(file, formats=FORMATS) as image:
            w, h = image.size
            if w * h > max_pixels:
                raise _too_large(f"{name}: the image is {w} x {h}; {most}", max_pixels)
            # Loading forgets it. BMP's "BGR;16" are 16 bits for all three channels.
            image.info[LAYOUT] = "" if image.format == "BMP" else str(image.tile[:1])
            if image.format == "TIFF" and not exif:
                _turn_back(image)
            yield image
    except (UserError, MemoryError):  # too little memory is no fault of the file
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(f"{name}: the image is far too large; {most}", max_pixels) from error
    except Exception as error:  # of broken files PIL raises OSError, SyntaxError, struct.error ...
        if isinstance(data, Path) and isinstance(error, OSError) and error.errno:
            raise  # a fault of the disk
        what = str(error)
        if isinstance(error, UnidentifiedImageError):  # which tells the address of a buffer
            what = "the file is empty" if data == b"" else "its content is of another kind"
        kinds = ", ".join(FORMATS)
        raise Unreadable(f"{name}: not a readable image ({what}); formats: {kinds}") from error


@contextmanager
def open_whole(
    data: bytes | Path, name: str, bands: int = 1, max_pixels: int = MAX_PIXELS
) -> Iterator[Tiff | None]:
    """A TIFF that Pillow would refuse or cut down unsaid, opened otherwise; None: Pillow's."""
    if not is_tiff(data) or suits_pillow(data, bands):
        yield None
        return
    with open_tiff(data, name, bands) as tiff:
        h, w = tiff.size
        if h * w * max(1, tiff.channels * tiff.dtype.itemsize // 8) > max_pixels:
            size = f"{w} x {h} with {tiff.channels} channels of {tiff.dtype}"
            most = f"at most {max_pixels // 2**20} megapixels, of 8 bytes each,"
            raise _too_large(f"{name}: the image is {size}; {most}", max_pixels)
        if min(h, w) < MIN_SIDE:
            raise _too_small(name, (w, h))
        yield tiff


def _too_small(name: str, size: tuple[int, int]) -> Unreadable:
    what = f"the image is {size[0]} x {size[1]}"
    return Unreadable(f"{name}: {what}; each side needs at least {MIN_SIDE} pixels")


def _too_large(what: str, max_pixels: int) -> TooLarge:
    small = max_pixels < MAX_WINDOW_PIXELS
    larger = " (predict reads larger ones with --eval.window)" if small else ""
    return TooLarge(f"{what} are read{larger}: scale it down or cut it first")


def _turn_back(tiff: Image.Image) -> None:
    """Undo what PIL does to a TIFF, unasked, when it loads it: turning it as its EXIF tag says."""
    orientation = _orientation(tiff)
    if orientation != 1:
        tiff.load()
        tiff.getexif()[ORIENTATION] = {6: 8, 8: 6}.get(orientation, orientation)
        ImageOps.exif_transpose(tiff, in_place=True)
        tiff.getexif()[ORIENTATION] = orientation  # which turning takes away


# ---- images


def decode_image(
    data: bytes | np.ndarray,
    name: str,
    *,
    exif: bool = False,
    reading: Reading = RGB,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode an image to u8[h w channels]; an array of that kind is handed through.

    `reading` says how many channels, and what is scaled to 0 to 255 of images of more than 8 bits;
    without a range: what the file names, else 65535 of whole numbers. One channel is repeated for
    three, an alpha channel dropped unless there shall be four. `exif` turns the image as its EXIF
    tag says: right for users' photos, but not below masks that are drawn on the stored pixels.
    Raises Unreadable, naming `name`, for what is broken, above `max_pixels` or a pixel wide, and
    UserError for another number of channels, or pixels that have no known range.
    """
    if isinstance(data, np.ndarray):
        wanted = reading.channels
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != wanted:
            found = f"{data.dtype} {data.shape}"
            raise UserError(f"{name}: expected uint8 [h, w, {wanted}], got {found}")
        return data
    with open_whole(data, name, reading.channels, max_pixels) as tiff:
        if tiff is not None:
            return _read_tiff(tiff, name, reading)[0]
    with open_image(data, name, exif=exif, max_pixels=max_pixels) as image:
        return _read(ImageOps.exif_transpose(image) if exif else image, name, reading)[0]


def examine_image(data: bytes | np.ndarray, name: str, reading: Reading = RGB) -> Header:
    """Decode an image as `decode_image` does, raising what it raises, and return its header."""
    if isinstance(data, np.ndarray):
        height, width = decode_image(data, name, reading=reading).shape[:2]
        return Header((height, width), "array", "RGB")
    with open_whole(data, name, reading.channels) as tiff:
        if tiff is not None:
            _, peak = _read_tiff(tiff, name, reading)
            mode = "I;16" if tiff.dtype.itemsize > 1 else "RGB"
            frames = 1 if tiff.stacked else tiff.frames
            return Header(tiff.size, "TIFF", mode, frames, peak=peak)
    with open_image(data, name) as image:
        size, mode, kind = (image.height, image.width), image.mode, image.format or ""
        _, peak = _read(image, name, reading)
        # Asked for last: it moves an animation to its end, and a PNG may hold EXIF at its end.
        frames = getattr(image, "n_frames", 1)
        return Header(size, kind, mode, frames, _orientation(image), peak)


def _read(image: Image.Image, name: str, reading: Reading) -> tuple[np.ndarray, int | None]:
    """u8[h w channels], and the header's `peak`."""
    if min(image.size) < MIN_SIDE:
        raise _too_small(name, image.size)
    if image.mode[0] in "IF":  # more than 8 bits; PIL's own convert() would clip instead of scale
        pixels, peak = scale(np.asarray(image), named_white(image), name, reading)
        return fit_channels(pixels[..., None], False, reading.channels, name), peak
    deep = is_deep(image)
    if deep and reading.range not in (None, FULL):
        raise UserError(
            f"{name}: task.range = {reading.range} cannot be had of 16-bit colour in this format,"
            f" of which only the upper 8 bits can be read: save it as TIFF, or {EIGHT_BITS}"
        )
    pixels = convert(image, name, reading.channels)
    return pixels, int(pixels.max()) * 257 if deep else None


def _read_tiff(tiff: Tiff, name: str, reading: Reading) -> tuple[np.ndarray, int | None]:
    """u8[h w channels], and the header's `peak`."""
    pixels, peak = scale(tiff.read(0, 0, *tiff.size), None, name, reading)
    return fit_channels(pixels, tiff.alpha, reading.channels, name), peak


def is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or ";16" in image.info[LAYOUT]


def named_white(image: Image.Image) -> int | None:
    """The white that a file names: a PGM's, which PIL scales to 65535, or that of 12 bits."""
    layout = image.info[LAYOUT]
    return 65535 if "'ppm'" in layout else 4095 if "I;12" in layout else None


def ignored_pixels(
    data: bytes, name: str, *, transparent: bool = False, exif: bool = False
) -> np.ndarray | None:
    """Pixels bool[h w] of an image that hold nothing; None: the file names none.

    They have GDAL's nodata value in all channels (of floats without one: nan), or, with
    `transparent`, an alpha of 0. `exif` as in `decode_image`.
    """
    if not transparent and data.startswith((b"\xff\xd8", b"\x89PNG")):
        return None  # most images: JPEG and PNG have neither tags nor floats
    with open_whole(data, name) as tiff:
        if tiff is not None:
            nodata = math.nan if tiff.nodata is None and tiff.dtype.kind == "f" else tiff.nodata
            hidden = transparent and tiff.alpha
            if nodata is None and not hidden:
                return None
            values = tiff.read(0, 0, *tiff.size)
            empty = values[..., -1] == 0 if hidden else np.zeros(tiff.size, bool)
            return empty if nodata is None else empty | equals(values, nodata)
    with open_image(data, name, exif=exif) as image:
        tags: Any = getattr(image, "tag_v2", {})
        nodata = parse_nodata(tags.get(GDAL_NODATA, ""))
        nodata = math.nan if nodata is None and image.mode == "F" else nodata
        hidden = transparent and has_alpha(image)
        if nodata is None and not hidden:
            return None
        shown = ImageOps.exif_transpose(image) if exif else image
        empty = np.zeros((shown.height, shown.width), bool)
        if hidden:
            empty |= np.asarray(shown.convert("RGBA"))[..., 3] == 0
        return empty if nodata is None else empty | equals(np.asarray(shown), nodata)


def warn_of_range(data: bytes, name: str, reading: Reading, max_pixels: int) -> str:
    """`describe_range` of an image's content; "" of 8 bits, of which only the header is read."""
    with open_whole(data, name, reading.channels, max_pixels) as tiff:
        if tiff is not None and (tiff.dtype.kind == "f" or tiff.dtype.itemsize == 1):
            return ""
        deep = tiff is not None
    if not deep:
        with open_image(data, name, max_pixels=max_pixels) as image:
            if not is_deep(image) or image.width * image.height > MAX_PIXELS:
                return ""
    header = examine_image(data, name, reading)
    return "" if header.peak is None else describe_range(header.peak, header.mode, reading.range)
