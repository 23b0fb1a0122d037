"""From what a file holds, any number of channels of any type, to the network's bytes u8[h w c]."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab_jax.config import ModelConfig, TaskConfig
from deeplab_jax.errors import UserError

Range = tuple[float, float]
FULL: Range = (0.0, 65535.0)
BAND = 2**20  # values that are scaled at a time: as float64, a large image would fill the memory
EIGHT_BITS = "save it with 8 bits a channel, scaled to the full range"


class Unreadable(UserError):
    """One file or record that cannot be read at all: training ignores its pixels."""


class Reading(NamedTuple):
    """How images become u8[h w channels]: `range` is what is brought to 0 to 255.

    It is for images of more than 8 bits; None: what their type says.
    """

    channels: int = 3
    range: Range | None = None


def reading_of(model: ModelConfig, task: TaskConfig) -> Reading:
    """How a network wants its images read."""
    return Reading(model.image_channels, task.range)


def scale(
    values: np.ndarray, named: int | None, name: str, reading: Reading
) -> tuple[np.ndarray, int | None]:
    """Values [h w (c)] of any type as bytes, and the header's `peak`; `named`: the file's white."""
    if values.dtype == np.uint8:
        return values, None
    if values.dtype.kind == "f":
        if reading.range is None:
            raise UserError(
                f"{name}: a floating-point image has no known range: set task.range, such as"
                " --task.range 0 1, or save it as 8-bit PNG"
            )
        return to_bytes(values, reading.range), None
    peak = int(values.max())
    # 32 bits often hold what was 8: a table of integers, saved as it was.
    narrow = values.dtype.itemsize > 2 and peak <= 255
    full = (0.0, float(named)) if named else reading.range or (0.0, 255.0 if narrow else 65535.0)
    return to_bytes(values, full), None if named or narrow else peak


def to_bytes(values: np.ndarray, range: Range) -> np.ndarray:
    """Values of any type as u8 of the same shape: linearly from `range`, clipped.

    Whole numbers are rounded down, so that 16 bits give their upper 8; floats to the nearest. What
    is no number becomes 0.
    """
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        unsigned = np.uint16 if values.dtype.itemsize == 2 else np.uint8
        return _table(values.dtype.str, range)[values.view(unsigned)]
    out = np.empty(values.shape, np.uint8)
    flat, flat_out = values.reshape(-1), out.reshape(-1)
    for start in np.arange(0, flat.size, BAND):
        flat_out[start : start + BAND] = _linear(flat[start : start + BAND], range)
    return out


@lru_cache(maxsize=8)
def _table(dtype: str, range: Range) -> np.ndarray:
    """The bytes of every value of 8 or 16 bits, by its bits."""
    info = np.iinfo(dtype)
    return np.roll(_linear(np.arange(info.min, info.max + 1), range), info.min)


def _linear(values: np.ndarray, range: Range) -> np.ndarray:
    low, high = range
    # In this order the quotient of whole numbers is never rounded up to the next one.
    with np.errstate(over="ignore"):
        scaled = (values.astype(np.float64) - low) * 255 / (high - low)
    whole = np.floor(scaled) if values.dtype.kind in "iu" else np.rint(scaled)
    return np.nan_to_num(whole, nan=0.0).clip(0, 255).astype(np.uint8)


def convert(image: Image.Image, name: str, channels: int) -> np.ndarray:
    """An image of 8 bits as u8[h w channels]."""
    if channels == 3:
        return np.asarray(image.convert("RGB"))  # alpha channel or transparent colours dropped
    alpha = has_alpha(image)
    mode = ("L" if image.mode in ("1", "L", "LA") else "RGB") + "A" * alpha
    pixels = np.atleast_3d(np.asarray(image.convert(mode)))
    return fit_channels(pixels, alpha, channels, name)


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info


def fit_channels(pixels: np.ndarray, alpha: bool, channels: int, name: str) -> np.ndarray:
    """Pixels u8[h w k] as u8[h w channels]; `alpha`: the last of the k is an alpha channel.

    It is dropped where it is one too many. One channel is repeated for three, and of three the
    luminance taken for one. Raises UserError, naming `name`, where nothing of that fits.
    """
    if alpha and pixels.shape[2] != channels:
        pixels = pixels[..., :-1]
    there = pixels.shape[2]
    if there == channels:
        return pixels
    if (there, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=-1)
    if (there, channels) == (3, 1):
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    raise UserError(
        f"{name}: the image has {there} channels, and the network takes {channels}"
        f" (model.channels): save it with {channels}, or train one with --model.channels={there}"
    )


def likely_white(peak: float) -> int:
    """The largest value of the sensor whose images go up to `peak`."""
    return next(white for white in (255, 1023, 4095, 16383, 65535) if white >= peak)


def describe_range(peak: int, mode: str, range: Range | None = None) -> str:
    """What to tell of images of more than 8 bits whose `peak` is in `range`'s lowest quarter."""
    low, high = range or FULL
    if 4 * (peak - low) >= high - low:
        return ""
    advice = f"set --task.range 0 {likely_white(peak)}" if mode.startswith("I") else EIGHT_BITS
    share = f"{max(0, 100 * (peak - low) / (high - low)):.2g} % of the range up to {high:g}"
    return f"the image uses {share}, which looks nearly black: {advice}"
