"""The one decoder of images and masks, used in training, evaluation and prediction alike."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab_jax.config import Color
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
EIGHT_BITS = "save it with 8 bits a channel, scaled to the full range"

# PIL warns of odd metadata and large sizes: what matters of it is checked here. For good, because
# `catch_warnings` around each call is not safe among the loader's threads.
warnings.filterwarnings("ignore", module="PIL")
Image.MAX_IMAGE_PIXELS = MAX_WINDOW_PIXELS // 2  # PIL refuses twice as many


class Held(NamedTuple):
    """What a refused mask holds: how many pixels of each value.

    `colors` are those of a palette image's indices; `gray`: the values are those of each channel.
    """

    pixels: dict[int, int]
    colors: dict[int, Color] | None = None
    gray: bool = False


class MaskError(UserError):
    """A mask whose values are no class ids; what would help depends on what all masks hold."""

    def __init__(self, message: str, held: Held | None = None) -> None:
        super().__init__(message)
        self.held = held


class Unreadable(UserError):
    """One file or record that cannot be read at all: training ignores its pixels."""


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
    return _read_header(data, name, lambda image: (image.height, image.width))


def read_orientation(data: bytes | Path, name: str) -> int:
    """Read the EXIF orientation, 1 to 8; where a PNG has none this reads the whole file."""
    return _read_header(data, name, _orientation)


def _read_header(data: bytes | Path, name: str, get: Callable[[Image.Image], T]) -> T:
    def read() -> T:
        with _open(data, name) as image:
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
def _open(
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


def _too_large(what: str, max_pixels: int) -> Unreadable:
    small = max_pixels < MAX_WINDOW_PIXELS
    larger = " (predict reads larger ones with --eval.window)" if small else ""
    return Unreadable(f"{what} are read{larger}: scale it down or cut it first")


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
    white: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode an image to RGB u8[h w 3]; a u8[h w 3] array is handed through.

    Grayscale is repeated, an alpha channel dropped. More than 8 bits are scaled to 8, so that
    `white` and all above it become 255; None: what the file names, else 65535. `exif` turns the
    image as its EXIF tag says: right for users' photos, but not below masks that are drawn on the
    stored pixels. Raises Unreadable, naming `name`, for what is broken, above `max_pixels` or a
    pixel wide, and UserError for pixels of a type that has no known range.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
            raise UserError(f"{name}: expected uint8 [h, w, 3], got {data.dtype} {data.shape}")
        return data
    with _open(data, name, exif=exif, max_pixels=max_pixels) as image:
        return _to_rgb(ImageOps.exif_transpose(image) if exif else image, name, white)[0]


def examine_image(data: bytes | np.ndarray, name: str, white: int | None = None) -> Header:
    """Decode an image as `decode_image` does, raising what it raises, and return its header."""
    if isinstance(data, np.ndarray):
        height, width = decode_image(data, name).shape[:2]
        return Header((height, width), "array", "RGB")
    with _open(data, name) as image:
        size, mode, kind = (image.height, image.width), image.mode, image.format or ""
        _, peak = _to_rgb(image, name, white)
        # Asked for last: it moves an animation to its end, and a PNG may hold EXIF at its end.
        frames = getattr(image, "n_frames", 1)
        return Header(size, kind, mode, frames, _orientation(image), peak)


def _to_rgb(image: Image.Image, name: str, white: int | None) -> tuple[np.ndarray, int | None]:
    """RGB u8[h w 3], and the header's `peak`."""
    (w, h), mode = image.size, image.mode
    if min(w, h) < MIN_SIDE:
        raise Unreadable(
            f"{name}: the image is {w} x {h}; each side needs at least {MIN_SIDE} pixels"
        )
    if mode.startswith("I"):  # 16 bits; PIL's own convert() would clip instead of scale
        gray = np.asarray(image).astype(np.int64)
        peak, named = int(gray.max()), _named_white(image)
        # 32 bits often hold what was 8: a table of integers, saved as it was.
        narrow = mode == "I" and peak <= 255
        full = named or white or (255 if narrow else 65535)
        np.clip(gray, 0, full, out=gray)  # in place: of 64 megapixels each copy takes 512 MB
        gray *= 255
        gray //= full
        rgb = np.repeat(gray.astype(np.uint8)[..., None], 3, axis=-1)
        return rgb, None if named or narrow else peak
    if mode == "F":
        raise UserError(f"{name}: a floating-point image has no known range; save it as 8-bit PNG")
    if _is_deep(image) and white is not None:
        raise UserError(
            f"{name}: task.white = {white} is for grayscale images; of 16-bit colour only the "
            f"upper 8 bits can be read: {EIGHT_BITS}"
        )
    rgb = np.asarray(image.convert("RGB"))  # an alpha channel or transparent colours dropped
    return rgb, int(rgb.max()) * 257 if _is_deep(image) else None


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or ";16" in image.info[LAYOUT]


def _named_white(image: Image.Image) -> int | None:
    """The white that a file names: a PGM's, which PIL scales to 65535, or that of 12 bits."""
    layout = image.info[LAYOUT]
    return 65535 if "'ppm'" in layout else 4095 if "I;12" in layout else None


def likely_white(peak: int) -> int:
    """The largest value of the sensor whose images go up to `peak`."""
    return next(white for white in (255, 1023, 4095, 16383, 65535) if white >= peak)


def describe_range(peak: int, mode: str, white: int | None = None) -> str:
    """What to tell of images of more than 8 bits whose `peak` is below a quarter of `white`."""
    full = white or 65535
    if 4 * peak >= full:
        return ""
    advice = f"set --task.white={likely_white(peak)}" if mode.startswith("I") else EIGHT_BITS
    share = f"{100 * peak / full:.2g} % of the range up to {full}"
    return f"the image uses {share}, which looks nearly black: {advice}"


def warn_of_range(data: bytes, name: str, white: int | None, max_pixels: int) -> str:
    """`describe_range` of an image's content; "" of 8 bits, of which only the header is read."""
    with _open(data, name, max_pixels=max_pixels) as image:
        if not _is_deep(image) or image.width * image.height > MAX_PIXELS:
            return ""
    header = examine_image(data, name)
    return "" if header.peak is None else describe_range(header.peak, header.mode, white)


# ---- masks


def decode_label(data: bytes | np.ndarray, name: str, *, palette: bool = False) -> np.ndarray:
    """Decode a mask to class ids u8[h w].

    `palette` takes the indices of a palette image as the ids, as PASCAL VOC does. Raises
    UserError, naming `name` and what to do; MaskError where that depends on all masks.
    """
    if isinstance(data, np.ndarray):
        return _as_ids(data, name)
    with _open(data, name) as image:
        if image.format in ("JPEG", "MPO"):
            raise UserError(f"{name}: a mask must not be JPEG, which changes ids; save it as PNG")
        pixels, mode, colors = np.asarray(image), image.mode, image.getpalette() or []
    if mode == "P" and not palette:
        counts = count_values(pixels)
        table = dict(enumerate(zip(colors[::3], colors[1::3], colors[2::3], strict=True)))
        raise MaskError(
            f"{name}: the mask is a palette image, whose pixels are indices, {min(counts)} to "
            f"{max(counts)}, of colours: --data.palette_masks=True takes them for class ids",
            Held(counts, {i: table[i] for i in counts if i in table}),
        )
    if pixels.ndim == 2:
        return _as_ids(pixels, name)
    gray = pixels[..., 0]
    if mode == "LA" or (pixels[..., 1:3] == gray[..., None]).all():
        raise MaskError(
            f"{name}: the mask is saved as colours (PIL mode {mode}), but all of them are gray, "
            f"{gray.min()} to {gray.max()}; if these are class ids, keep one channel: "
            'Image.fromarray(numpy.asarray(Image.open("mask.png"))[..., 0]).save("mask.png")',
            Held(count_values(gray), gray=True),
        )
    raise UserError(
        f"{name}: the mask is a colour image (PIL mode {mode}), not one channel of class ids; map "
        "each colour to its id, as in ids[(rgb == (128, 0, 0)).all(-1)] = 1"
    )


def count_values(label: np.ndarray) -> dict[int, int]:
    """How many pixels have each value of a mask."""
    values, counts = np.unique_counts(label)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _as_ids(ids: np.ndarray, name: str) -> np.ndarray:
    if ids.ndim == 3 and ids.shape[2] == 1:
        ids = ids[..., 0]
    if ids.ndim != 2 or ids.dtype.kind not in "bui":
        raise UserError(
            f"{name}: expected integers [h, w] of class ids, got {ids.dtype} {ids.shape}"
        )
    low, high = ids.min(), ids.max()
    if low < 0 or high > 255:
        held = Held(count_values(ids)) if low >= 0 else None
        raise MaskError(f"{name}: class ids go from {low} to {high}; allowed are 0 to 255", held)
    return ids.astype(np.uint8, copy=False)
