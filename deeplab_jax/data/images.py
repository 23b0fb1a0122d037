"""What the images themselves say: how many channels they have, and what their values mean."""

from typing import NamedTuple

import numpy as np

from deeplab_jax.config import Config
from deeplab_jax.data.decode import named_white, open_image, open_whole, read_file
from deeplab_jax.data.pixels import FULL, Range, Unreadable, likely_white
from deeplab_jax.data.source import Source, evenly_spread
from deeplab_jax.data.tiff import Tiff
from deeplab_jax.errors import UserError

SAMPLES = 64
VALUES = 2**16  # of an image, evenly spread over its pixels
PERCENTILES = (0.1, 99.9)


class Look(NamedTuple):
    """An image's channels without alpha, and some of its values where their type names no range."""

    name: str
    channels: int
    values: np.ndarray | None = None


def find_channels_and_range(config: Config, source: Source) -> tuple[int, Range | None]:
    """What `model.channels` and `task.range` are for the images of a source, if they say nothing.

    Found in samples that are evenly spread over the training split, in the same way every time; of
    a folder's images alone. Unreadable ones are passed over.

    Raises:
      UserError: images have different numbers of channels, or whole numbers here and floats there.
    """
    channels, range = config.model.channels, config.task.range
    if config.data.source != "folder":
        return channels or 3, range
    looks = []
    for index in evenly_spread(len(source), SAMPLES):
        try:
            _, image, _ = source.records[index]
            content = image if isinstance(image, bytes) else read_file(image)
            looks.append(look_at(content, source.name(index), channels or 1))
        except Unreadable:
            continue
    return channels or find_channels(looks), range or find_range(looks)


def find_channels(looks: list[Look]) -> int:
    """How many channels all images have: gray ones among RGB count as RGB."""
    first = {look.channels: look for look in reversed(looks)}
    if set(first) == {1, 3} or not first:
        return 3
    if len(first) > 1:
        found = ", ".join(f"{n} in {look.name}" for n, look in sorted(first.items()))
        raise UserError(
            f"the images have different numbers of channels: {found}; give all of them the same,"
            " or say by --model.channels which are right"
        )
    return next(iter(first))


def find_range(looks: list[Look]) -> Range | None:
    """The values to bring to 0 and 255, from samples of the images; None: all have 8 bits.

    Of whole numbers from 0 on: 0 to the smallest of 255, 1023, 4095, 16383, 65535 that is not below
    the largest value, if one value in a thousand comes up to a quarter of it. Of floats in 0 to 1:
    this. Of others, or where single values are far above the rest: the 0.1 and 99.9 percentiles.
    """
    found = {
        look.name: look.values for look in looks if look.values is not None and look.values.size
    }
    if not found:
        return None
    kinds = {values.dtype.kind == "f": name for name, values in found.items()}
    if len(kinds) > 1:
        raise UserError(
            f"{kinds[True]} holds floating-point numbers and {kinds[False]} whole ones: save all"
            " images in one type, or set --task.range LOW HIGH"
        )
    values = np.concatenate([v.astype(np.float64) for v in found.values()])
    low, high = (float(p) for p in np.percentile(values, PERCENTILES))
    least, most = float(values.min()), float(values.max())
    if True in kinds and least >= 0 and most <= 1:
        return 0.0, 1.0
    if False in kinds and least >= 0 and most <= FULL[1]:
        full = float(likely_white(most))
        if 4 * high >= full:
            return 0.0, full
    return low, high if high > low else low + 1


def look_at(data: bytes, name: str, bands: int = 1) -> Look:
    """Look at an image; so many pages of one channel are taken for channels (`Tiff`)."""
    with open_whole(data, name, bands) as tiff:
        if tiff is not None:
            return _look_at_tiff(tiff)
    with open_image(data, name) as image:
        if image.mode[0] in "IF":
            values = None if named_white(image) else _thin(np.asarray(image), None)
            return Look(name, 1, values)
        gray = image.mode in ("1", "L", "LA")
        return Look(name, 1 if gray else 3)


def _look_at_tiff(tiff: Tiff) -> Look:
    channels = tiff.channels - tiff.alpha
    if tiff.dtype.itemsize == 1:
        return Look(tiff.name, channels)
    pixels = tiff.read(0, 0, *tiff.size)[..., :channels]
    return Look(tiff.name, channels, _thin(pixels, tiff.nodata))


def _thin(pixels: np.ndarray, nodata: float | None) -> np.ndarray:
    """Some of the values, evenly spread, the smallest and the largest among them."""
    flat = pixels.reshape(-1)
    good = np.isfinite(flat)
    if nodata is not None:
        good &= flat != nodata
    flat = flat[good]
    if not flat.size:
        return flat
    # An odd step does not keep to one channel of a few.
    step = max(1, flat.size // VALUES) | 1
    return np.concatenate([flat[::step], [flat.min(), flat.max()]]).astype(flat.dtype)
