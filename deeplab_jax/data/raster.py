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

    channels = 3

    def __init__(self, path: Path, size: Size, offset: int) -> None:
        self._path, self._offset, self.size = path, offset, size

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window of that height and width at (`top`, `left`), which must lie in the image."""
        row = 3 * self.size[1]
        begin = self._offset + top * row
        rows = np.fromfile(self._path, np.uint8, height * row, offset=begin)
        if len(rows) < height * row:
            raise Unreadable(f"{self._path}: not a readable image (it ends too early)")
        return rows.reshape(height, -1, 3)[:, left : left + width]


@contextmanager
def open_raster(path: Path) -> Iterator[Raster]:
    """Open an uncompressed RGB TIFF whose strips follow one another; raises Unreadable."""
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            tiles, tags = image.tile, image.tag_v2  # type: ignore[attr-defined]
            h, w = tags[257], tags[256]  # Pillow turns `size`
            last = tiles[-1].offset + 3 * w * (h - int((tiles[-1].extents or [0, 0])[1]))
            if image.mode != "RGB" or tiles[0].codec_name != "raw":
                raise OSError("it is compressed, or not RGB")
            if last - tiles[0].offset != 3 * w * h:
                raise OSError("its strips lie apart")
            raster = Raster(path, (h, w), tiles[0].offset)
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path}: not a TIFF that is read by windows ({error})") from error
    yield raster
