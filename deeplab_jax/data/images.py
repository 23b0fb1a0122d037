"""What the images themselves say: how many channels they have, and what their values mean."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deeplab_jax.config import Config
from deeplab_jax.data.decode import named_white, open_image, open_whole, read_file
from deeplab_jax.data.layouts import Tile
from deeplab_jax.data.pixels import FULL, Range, likely_white
from deeplab_jax.data.source import Source, evenly_spread
from deeplab_jax.data.tiff import Tiff, open_tiff
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
    a folder's images alone. What cannot be read is passed over, and refused when it is read.
    """
    channels, range = config.model.channels, config.task.range
    if config.data.source != "folder":
        return channels or 3, range
    looks = []
    for index in evenly_spread(len(source), SAMPLES):
        try:
            _, image, _ = source.records[index]
            if isinstance(image, Tile):
                with open_tiff(image.file, str(image), channels or 1) as tiff:
                    looks.append(_look_at_tiff(tiff, image[1:]))
                continue
            content = image if isinstance(image, bytes) else read_file(image)
            looks.append(look_at(content, source.name(index), channels or 1))
        except UserError:
            continue
    return channels or find_channels(looks), range or find_range(looks)


def find_channels(looks: Sequence[Look]) -> int:
    """How many channels most images have; of RGB and gray ones three, as gray is read as RGB."""
    counts = Counter(look.channels for look in looks) or Counter([3])
    ((most, _),) = counts.most_common(1)
    return 3 if most == 1 and 3 in counts else most


def find_range(looks: Sequence[Look]) -> Range | None:
    """The values to bring to 0 and 255, from samples of the images.

    Of whole numbers from 0 on: 0 to the smallest of 255, 1023, 4095, 16383, 65535 that is not below
    the largest value, if one value in a thousand comes up to a quarter of it. Of floats in 0 to 1:
    this. Of others, or where single values are far above the rest: the 0.1 and 99.9 percentiles.
    None: all have 8 bits, or some whole numbers and some floats, of which one range is not right.
    """
    found = [look.values for look in looks if look.values is not None and look.values.size]
    floats = {values.dtype.kind == "f" for values in found}
    if len(floats) != 1:
        return None
    values = np.concatenate([part.astype(np.float64) for part in found])
    least, most = float(values.min()), float(values.max())
    low, high = (float(p) for p in np.percentile(values, PERCENTILES))
    if True in floats and least >= 0 and most <= 1:
        return 0.0, 1.0
    if False in floats and least >= 0 and most <= FULL[1]:
        full = float(likely_white(most))
        if 4 * high >= full:
            return 0.0, full
    return low, high if high > low else low + 1


def look_at(data: bytes, name: str, bands: int = 1) -> Look:
    """Look at an image; so many pages of one channel are taken for channels (`Tiff`)."""
    with open_whole(data, name, bands) as tiff:
        if tiff is not None:
            return _look_at_tiff(tiff, (0, 0, *tiff.size))
    with open_image(data, name) as image:
        if image.mode[0] in "IF":
            values = None if named_white(image) else _thin(np.asarray(image), None)
            return Look(name, 1, values)
        gray = image.mode in ("1", "L", "LA")
        return Look(name, 1 if gray else 3)


def _look_at_tiff(tiff: Tiff, box: tuple[int, int, int, int]) -> Look:
    channels = tiff.channels - tiff.alpha
    if tiff.dtype.itemsize == 1:
        return Look(tiff.name, channels)
    pixels = tiff.read(*box)[..., :channels]
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
