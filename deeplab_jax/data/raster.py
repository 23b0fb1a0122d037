"""Windows of an image that may be larger than memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_jax.config import Size
from deeplab_jax.data.decode import Unreadable


class Raster:
    """An image of `size` (h, w) in stored pixels, of which windows u8[h w channels] are read."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self.size: Size = (pixels.shape[0], pixels.shape[1])
        self.channels: int = pixels.shape[2]

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window of that height and width at (`top`, `left`), which must lie in the image."""
        return np.array(self._pixels[top : top + height, left : left + width])


@contextmanager
def open_raster(path: Path) -> Iterator[Raster]:
    """Open an uncompressed RGB TIFF whose strips follow one another; raises Unreadable."""
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            (w, h), tiles = image.size, image.tile
            last = tiles[-1].offset + 3 * w * (h - int((tiles[-1].extents or [0, 0])[1]))
            if image.mode != "RGB" or tiles[0].codec_name != "raw":
                raise OSError("it is compressed, or not RGB")
            if last - tiles[0].offset != 3 * w * h:
                raise OSError("its strips lie apart")
            pixels = np.memmap(path, np.uint8, "r", tiles[0].offset, (h, w, 3))
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path}: not a TIFF that is read by windows ({error})") from error
    yield Raster(pixels)
