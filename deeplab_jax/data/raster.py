"""Windows of an image that may be larger than memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from deeplab_jax.data.decode import RGB, TooLarge, decode_image, read_file
from deeplab_jax.data.pixels import Reading, fit_channels, scale
from deeplab_jax.data.tiff import ADVICE, Tiff, is_tiff, open_tiff
from deeplab_jax.errors import UserError


class Raster:
    """An image of `size` (h, w) in stored pixels, of which windows u8[h w channels] are read."""

    def __init__(self, name: str, reading: Reading, image: Tiff | np.ndarray) -> None:
        self._name, self._reading, self._image = name, reading, image
        self.channels = reading.channels
        self.size = image.size if isinstance(image, Tiff) else image.shape[:2]

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window of that height and width at (`top`, `left`), which must lie in the image.

        Raises:
          UserError: the file is damaged there, or packed in a way that takes another package.
        """
        if not isinstance(self._image, Tiff):
            return self._image[top : top + height, left : left + width]
        values, alpha = self._image.read(top, left, height, width), self._image.alpha
        pixels, _ = scale(values, None, self._name, self._reading)
        return fit_channels(pixels, alpha, self.channels, self._name)


@contextmanager
def open_raster(path: Path, reading: Reading = RGB) -> Iterator[Raster]:
    """Open an image to read windows of it, as `decode_image` reads the whole; never turned.

    Of a TIFF with tiles or strips no more is read than a window touches. Other files are decoded
    whole and kept, if they have no more than 64 megapixels.

    Raises:
      UserError: the file is no readable image; it would have to be decoded whole and is too large.
    """
    name = str(path)
    with ExitStack() as stack:
        image: Tiff | np.ndarray | None = None
        try:
            image = stack.enter_context(_open_windows(path, name, reading.channels))
        except UserError as refused:  # of palettes, single bits and more, which Pillow reads
            image = _decode(path, name, reading, refused)
        yield Raster(name, reading, image if image is not None else _decode(path, name, reading))


@contextmanager
def _open_windows(path: Path, name: str, bands: int) -> Iterator[Tiff | None]:
    """A TIFF of which windows are what Pillow makes of the whole; None: another format."""
    if not is_tiff(path):
        yield None
        return
    with open_tiff(path, name, bands) as tiff:
        tiff.read(0, 0, 1, 1)  # for the errors alone
        # Pillow divides by such an alpha.
        yield None if tiff.premultiplied and tiff.dtype == np.uint8 else tiff


def _decode(path: Path, name: str, reading: Reading, why: UserError | None = None) -> np.ndarray:
    """The whole image; `why` no windows of it are read, to say where it is too large."""
    try:
        return decode_image(read_file(path), name, reading=reading)
    except TooLarge as error:
        raise why or UserError(f"{error}; or {ADVICE}, of which windows are read") from error
