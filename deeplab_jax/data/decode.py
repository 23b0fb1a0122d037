"""The one decoder of images and masks, used in training, evaluation and prediction alike."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Transpose

from deeplab_jax.data.colors import Color
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
ORIENTATION = 0x0112  # the EXIF tag, and what undoes its values from 2 to 8
TURN_BACK = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}
TURNING = (5, 6, 7, 8)  # those that exchange width and height
LAYOUT = "layout"  # where, in an opened image's `info`, it is kept how its file holds the pixels

# PIL warns of odd metadata and large sizes: what matters of it is checked here. Once and for all,
# because `catch_warnings` around each call is not safe among the loader's threads.
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
    """A mask that could be decoded, but whose values are not taken for class ids.

    What would help depends on all masks: `data.checks` decides by what each of them has `held`.
    """

    def __init__(self, message: str, held: Held | None = None) -> None:
        super().__init__(message)
        self.held = held


class Unreadable(UserError):
    """One file or record that cannot be read at all: training ignores its pixels.

    What can be read and does not fit, as ids without a class, is a UserError of another kind.
    """


class Header(NamedTuple):
    """What an image's file says of itself; `size` (h, w) in stored pixels."""

    size: tuple[int, int]
    format: str
    mode: str
    frames: int = 1
    orientation: int = 1
    """EXIF: 1 is upright, 2 to 8 are mirrored or turned."""
    peak: int | None = None
    """The largest value, of 65535, of an image of more than 8 bits whose file names no range."""


def read_file(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """The content of an image's file.

    Raises Unreadable if it cannot be read or has more than 4 bytes for each of `max_pixels`.
    """
    try:
        size, limit = with_retries(path.stat).st_size, BYTES_PER_PIXEL * max_pixels
        if size > limit:
            raise Unreadable(
                f"{path}: the file has {size / 2**20:.0f} MB; at most {limit // 2**20} MB are "
                f"read{_larger(max_pixels)}: scale the image down or cut it first"
            )
        return with_retries(path.read_bytes)
    except OSError as error:
        raise Unreadable(f"{path}: the file cannot be read ({error.strerror})") from error


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
    `white` becomes 255 and so does all above it; None: what the file names, else 65535. `exif`
    turns the image as its EXIF tag says: right for users' photos; the masks of data sets are
    often drawn on the stored pixels.
    Raises Unreadable, naming `name`, for what is broken, above `max_pixels` or a pixel wide, and
    UserError for pixels of a type that has no known range.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
            raise UserError(f"{name}: expected a uint8 array [h, w, 3], got {_describe(data)}")
        return data
    with _opened(data, name, exif=exif, max_pixels=max_pixels) as image:
        return _to_rgb(ImageOps.exif_transpose(image) if exif else image, name, white)


def examine_image(data: bytes | np.ndarray, name: str) -> Header:
    """Decode an image as `decode_image` does, raising what it raises, and return its header."""
    if isinstance(data, np.ndarray):
        height, width = decode_image(data, name).shape[:2]
        return Header((height, width), "array", "RGB")
    with _opened(data, name) as image:
        size, mode = (image.height, image.width), image.mode
        peak = _peak(image, _to_rgb(image, name))
        # Asked for last: it moves an animation to its end, and a PNG may hold EXIF at its end.
        frames = getattr(image, "n_frames", 1)
        return Header(size, image.format or "TIFF", mode, frames, _orientation(image), peak)


def likely_white(peak: int) -> int:
    """The largest value of the sensor whose images go up to `peak`."""
    return next(white for white in (255, 1023, 4095, 16383, 65535) if white >= peak)


def describe_range(peak: int, mode: str, white: int | None = None) -> str:
    """What to tell of images of more than 8 bits whose largest value is `peak`, and which are
    therefore nearly black where `white` becomes 255; "" of others.

    `mode` is that of the header.
    """
    full = white or 65535
    if 4 * peak >= full:
        return ""
    advice = f"set --task.white={likely_white(peak)}"
    if not mode.startswith("I"):
        advice = "save it with 8 bits a channel, scaled to the full range"
    share = f"{100 * peak / full:.2g} % of the range up to {full}"
    return f"the image uses {share}, which looks nearly black: {advice}"


def warn_of_range(data: bytes, name: str, white: int | None, max_pixels: int) -> str:
    """`describe_range` of an image's content; "" of 8 bits, of which only the header is read."""
    with _opened(data, name, max_pixels=max_pixels) as image:
        deep = image.mode.startswith("I") or _is_deep_colour(image)
        if not deep or image.width * image.height > MAX_PIXELS:
            return ""
    header = examine_image(data, name)
    return "" if header.peak is None else describe_range(header.peak, header.mode, white)


def _to_rgb(image: Image.Image, name: str, white: int | None = None) -> np.ndarray:
    if min(image.size) < MIN_SIDE:
        raise Unreadable(
            f"{name}: the image is {image.width} x {image.height}; each side needs at least "
            f"{MIN_SIDE} pixels: remove it"
        )
    if image.mode.startswith("I"):  # 16 bits; PIL's own convert() would clip instead of scale
        gray = np.asarray(image).astype(np.int64)
        named = _named_white(image)
        # 32 bits often hold what was 8: a table of integers, saved as it was.
        usual = 255 if image.mode == "I" and named is None and gray.max() <= 255 else 65535
        full = usual if white is None else white
        full = full if named is None else named
        np.clip(gray, 0, full, out=gray)  # in place: of 64 megapixels each copy takes 512 MB
        gray *= 255
        gray //= full
        return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=-1)
    if white is not None and _is_deep_colour(image):
        raise UserError(
            f"{name}: task.white = {white} is for grayscale images; of 16-bit colour only the "
            "upper 8 bits can be read: save it with 8 bits a channel, scaled to the full range"
        )
    if image.mode == "F":
        raise UserError(f"{name}: a floating-point image has no known range; save it as 8-bit PNG")
    return np.asarray(image.convert("RGB"))  # an alpha channel or transparent colours dropped


def _named_white(image: Image.Image) -> int | None:
    """The white that a file of more than 8 bits names itself, as PIL gives it; None: it does not.

    A PGM names its largest value, which PIL scales to 65535; the other is a TIFF of 12 bits.
    """
    layout = image.info[LAYOUT]
    return 65535 if "'ppm'" in layout else 4095 if "I;12" in layout else None


def _is_deep_colour(image: Image.Image) -> bool:
    return not image.mode.startswith("I") and ";16" in image.info[LAYOUT]


def _peak(image: Image.Image, rgb: np.ndarray) -> int | None:
    if _is_deep_colour(image):
        return int(rgb.max()) * 257
    if not image.mode.startswith("I") or _named_white(image) is not None:
        return None
    peak = int(np.asarray(image).max())
    return None if image.mode == "I" and peak <= 255 else peak


def decode_label(data: bytes | np.ndarray, name: str, *, palette: bool = False) -> np.ndarray:
    """Decode a mask to class ids u8[h w].

    `palette` takes the indices of a palette image as the ids, as PASCAL VOC does. Raises
    UserError, naming `name` and what to do, for a colour mask, a JPEG, ids above 255, and the
    unreadable; MaskError for a palette image without `palette` and a gray image saved as colour.
    """
    if isinstance(data, np.ndarray):
        return _as_ids(data, name)
    with _opened(data, name) as image:
        if image.format in ("JPEG", "MPO"):
            raise UserError(
                f"{name}: a mask must not be JPEG, which changes the class ids; save it as PNG"
            )
        if image.mode == "P" and not palette:
            raise _palette_error(image, name)
        if image.mode in ("LA", "RGB", "RGBA"):
            _refuse_gray(image, name)
        if image.mode == "F":
            raise UserError(
                f"{name}: the mask holds floating-point numbers; save its class ids as uint8"
            )
        if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
            raise UserError(
                f"{name}: the mask is a colour image (PIL mode {image.mode}); a mask has one "
                "channel whose values are class ids. Map each colour to its class id, as in\n"
                "  ids[(rgb == (128, 0, 0)).all(-1)] = 1\n"
                "and save the uint8 array: Image.fromarray(ids).save('mask.png')"
            )
        return _as_ids(np.asarray(image), name)


def count_values(label: np.ndarray) -> dict[int, int]:
    """How many pixels have each value of a mask."""
    values, counts = np.unique_counts(label)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _palette_error(image: Image.Image, name: str) -> MaskError:
    pixels = count_values(np.asarray(image))
    palette = np.array(image.getpalette() or []).reshape(-1, 3).tolist()
    colors = {i: tuple(palette[i]) for i in pixels if i < len(palette)}
    return MaskError(
        f"{name}: the mask is a palette image: its pixels are indices, here {min(pixels)} to "
        f"{max(pixels)}, that stand for colours. --data.palette_masks=True takes the indices for "
        "class ids (not image.convert('L'), which turns colours to gray levels)",
        Held(pixels, colors),
    )


def _refuse_gray(image: Image.Image, name: str) -> None:
    """Raise MaskError if the colour channels of a mask with several are all equal."""
    channels = np.asarray(image)
    gray = channels[..., 0]
    if image.mode != "LA" and (channels[..., 1:3] != gray[..., None]).any():
        return
    raise MaskError(
        f"{name}: the mask is saved as colours (PIL mode {image.mode}), but all of them are gray, "
        f"{gray.min()} to {gray.max()}; a mask has one channel. If these are class ids, save one "
        "of the equal channels alone:\n"
        '  Image.fromarray(numpy.asarray(Image.open("mask.png"))[..., 0]).save("mask.png")',
        Held(count_values(gray), gray=True),
    )


def image_size(data: bytes | Path, name: str) -> tuple[int, int]:
    """Read (h, w), in stored pixels, from the header alone; `data` is the content or the path.

    Raises Unreadable, naming `name`, for what is broken or above 64 megapixels.
    """

    def read() -> tuple[int, int]:
        with _opened(data, name) as image:
            return image.height, image.width

    return _retried(read, name)


def read_orientation(data: bytes | Path, name: str) -> int:
    """Read the EXIF orientation, 1 to 8; where a PNG has none this reads the whole file."""

    def read() -> int:
        with _opened(data, name) as image:
            return _orientation(image)

    return _retried(read, name)


def _retried(read: Callable[[], T], name: str) -> T:
    try:
        return with_retries(read)
    except OSError as error:
        raise Unreadable(f"{name}: the file cannot be read ({error.strerror})") from error


def _orientation(image: Image.Image) -> int:
    tag = image.getexif().get(ORIENTATION)
    return next((k for k in TURN_BACK if k == tag), 1)


def _as_stored(tiff: Image.Image) -> Image.Image:
    """A TIFF turned back: PIL turns it as its EXIF tag says, unasked, when it loads it."""
    orientation = _orientation(tiff)
    if orientation == 1:
        return tiff
    tiff.load()
    stored = tiff.transpose(TURN_BACK[orientation])
    stored.getexif()[ORIENTATION] = orientation  # which loading takes away
    return stored


def _as_ids(ids: np.ndarray, name: str) -> np.ndarray:
    if ids.ndim == 3 and ids.shape[2] == 1:
        ids = ids[..., 0]
    if ids.ndim != 2 or ids.dtype.kind not in "bui":
        raise UserError(
            f"{name}: expected an integer array [h, w] of class ids, got {_describe(ids)}"
        )
    if ids.size and (ids.min() < 0 or ids.max() > 255):
        raise MaskError(
            f"{name}: class ids go from {ids.min()} to {ids.max()}; allowed are 0 to 255",
            Held(count_values(ids)) if ids.min() >= 0 else None,
        )
    return ids.astype(np.uint8, copy=False)


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


@contextmanager
def _opened(
    data: bytes | Path, name: str, *, exif: bool = False, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    try:
        with Image.open(
            io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS
        ) as image:
            if image.width * image.height > max_pixels:
                raise Unreadable(_too_large(name, f"{image.width} x {image.height}", max_pixels))
            # Loading forgets it. BMP's "BGR;16" are 16 bits for all three channels.
            image.info[LAYOUT] = "" if image.format == "BMP" else str(image.tile[:1])
            yield image if exif or image.format != "TIFF" else _as_stored(image)
    except (UserError, MemoryError):  # too little memory is no fault of the file
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(_too_large(name, "far too large", max_pixels)) from error
    except (
        Exception
    ) as error:  # on broken files PIL raises OSError, SyntaxError, ValueError, struct.error ...
        of_the_disk = isinstance(data, Path) and isinstance(error, OSError) and error.errno
        if of_the_disk:
            raise
        what: object = error
        if isinstance(error, UnidentifiedImageError):  # which tells the address of a buffer
            what = "the file is empty" if data == b"" else "its content is of another kind"
        raise Unreadable(
            f"{name}: not a readable image ({what}); formats: {', '.join(FORMATS)}"
        ) from error


def _too_large(name: str, size: str, max_pixels: int) -> str:
    limit = f"at most {max_pixels // 2**20} megapixels are read{_larger(max_pixels)}"
    return f"{name}: the image is {size}; {limit}: scale it down or cut it first"


def _larger(max_pixels: int) -> str:
    return " (predict reads larger ones with --eval.window)" if max_pixels == MAX_PIXELS else ""
