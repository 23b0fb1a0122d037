"""TIFFs of any number and type of channels, whole or by windows, through `tifffile`.

Pillow reads the common ones, and of the others drops bands, or bits, unsaid. A window is read from
the tiles or strips that it touches, so an image may be larger than memory.
"""

import io
import logging
import math
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from deeplab_jax.data.pixels import Unreadable
from deeplab_jax.errors import UserError

# What it logs of odd tags is no news to a user; what matters raises.
logging.getLogger("tifffile").disabled = True
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
GDAL_NODATA = 42113
SEGMENT_BYTES = 2**28  # a tile or strip, unpacked, at most
KEPT_BYTES = 2**27  # of tiles and strips that the next window may touch again
MOST_CHANNELS = 1024
DEFLATE, JPEG = (8, 32946), 7
COMPRESSIONS = (1, 5, JPEG, *DEFLATE, 32773, 50000)  # 5, 32773, 50000: LZW, PackBits, Zstandard
WHITE_IS_0, BLACK_IS_0, COLOUR, YCBCR = 0, 1, 2, 6
PHOTOMETRICS = (WHITE_IS_0, BLACK_IS_0, COLOUR, YCBCR)
ADVICE = "save it as a tiled one of 8 or 16 bits: gdal_translate -co TILED=YES IN.tif OUT.tif"


def is_tiff(data: bytes | Path) -> bool:
    """Whether a file begins as a TIFF does."""
    if isinstance(data, bytes):
        return data[:4] in MAGIC
    with data.open("rb") as file:
        return file.read(4) in MAGIC


def parse_nodata(text: object) -> float | None:
    """The number of GDAL's nodata tag, such as "255", "-9999" or "nan"; None: there is none."""
    try:
        return float(str(text).strip().strip("\0"))
    except ValueError:
        return None


def equals(values: np.ndarray, nodata: float) -> np.ndarray:
    """Where all channels of values [h w (c)] are `nodata`, which may be nan: bool[h w]."""
    same = np.isnan(values) if math.isnan(nodata) else values == nodata
    return same if same.ndim == 2 else same.all(axis=-1)


def suits_pillow(data: bytes | Path, bands: int) -> bool:
    """Whether Pillow reads all of a TIFF: one channel, or 8 bits interleaved with known extras."""
    try:
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        with Image.open(file, formats=("TIFF",)) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            samples, kind = tags.get(277, 1), tags.get(262)
            if samples == 1:
                return bands in (1, 3) or image.n_frames != bands  # type: ignore[attr-defined]
            extra = samples - {2: 3, 5: 4, 6: 3, 8: 3}.get(kind, 1)
            known = extra == 0 or (extra == 1 and tuple(tags.get(338, ())) in ((1,), (2,)))
            return known and max(tags.get(258, (8,))) <= 8 and tags.get(284, 1) == 1
    except UnidentifiedImageError:
        return False
    except Exception:  # whatever is wrong with it, Pillow says it again
        return True


class Tiff:
    """The first page of a TIFF; with `bands`, so many pages of one channel as the channels of one.

    `size` (h, w) in stored pixels; `channels`, the last of which is an alpha channel where `alpha`
    says so, by which the others may be `premultiplied`; `frames`: how many pages are like the
    first, and whether they are `stacked` as channels; `nodata`: the value that stands for none.
    """

    def __init__(self, file: Any, name: str, bands: int = 1) -> None:
        page = file.pages.first
        self.name, self._file = name, file
        self.size = (int(page.imagelength), int(page.imagewidth))
        check_page(page, name)
        self.dtype = np.dtype(page.dtype).newbyteorder("=")
        samples = int(page.samplesperpixel)
        pages = [p for p in islice(file.pages, MOST_CHANNELS) if alike(p, page)]
        self.frames = len(pages)
        # Where three are wanted, pages are rather frames than red, green and blue.
        self.stacked = stacked = samples == 1 and bands not in (1, 3) and len(pages) == bands
        planar = samples > 1 and page.planarconfig == 2
        self.channels = bands if stacked else samples
        # Each plane: where its tiles or strips are listed, and the first of them.
        self._planes = [(page, 0)]
        if stacked:
            self._planes = [(p, 0) for p in pages]
        elif planar:
            each = math.prod(grid(page))
            self._planes = [(page, i * each) for i in range(samples)]
        for other in pages[1:] if stacked else ():
            check_page(other, name)
        extra = tuple(page.extrasamples)[:1]
        self.alpha, self.premultiplied = samples in (2, 4) and extra in ((1,), (2,)), extra == (1,)
        tag = page.tags.get(GDAL_NODATA)
        self.nodata = None if tag is None else parse_nodata(tag.value)
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window [height width channels] at (`top`, `left`), of the file's own type.

        Raises:
          UserError: the file is damaged, or packed in a way that takes another package.
        """
        out = np.empty((height, width, self.channels), self.dtype)
        gap = 0 if self.nodata is None else np.float64(self.nodata).astype(self.dtype)
        for plane, (page, first) in enumerate(self._planes):
            part = out if len(self._planes) == 1 else out[..., plane : plane + 1]
            th, tw = segment_size(page)
            _, across = grid(page)
            for y in range(top // th, -(-(top + height) // th)):
                rows = max(top - y * th, 0), min(top + height - y * th, th)
                to = slice(y * th + rows[0] - top, y * th + rows[1] - top)
                for x in range(left // tw, -(-(left + width) // tw)):
                    columns = max(left - x * tw, 0), min(left + width - x * tw, tw)
                    found = self._rows(page, first + y * across + x, rows)
                    at = slice(x * tw + columns[0] - left, x * tw + columns[1] - left)
                    part[to, at] = gap if found is None else found[:, slice(*columns)]
        if self._planes[0][0].photometric == WHITE_IS_0 and self.dtype == np.uint8:
            np.invert(out, out=out)  # white is 0, as in a fax
        return out

    def _rows(self, page: Any, index: int, rows: tuple[int, int]) -> np.ndarray | None:
        """These rows of a tile or strip, [n w samples]; None: a gap in the file, without data."""
        key, plain = (page.offset, index), page.compression == page.predictor == 1
        try:
            if int(page.databytecounts[index]) == 0:
                return None
            if plain and not page.is_tiled:  # in one strip may be all of the image
                return self._unpack(page, index, rows)
            if key not in self._kept:
                self._kept[key] = self._unpack(page, index, (0, self._last_row(page, index)))
        except (UserError, MemoryError):
            raise
        except Exception as error:  # tifffile, imagecodecs and zlib each have their own
            raise self._unreadable(error) from error
        self._kept.move_to_end(key)
        while len(self._kept) > max(1, KEPT_BYTES // segment_bytes(page)):
            self._kept.popitem(last=False)
        return self._kept[key][slice(*rows)]

    def _last_row(self, page: Any, index: int) -> int:
        """How many rows a tile or strip has: the last strip ends with the image."""
        (down, across), (rows, _) = grid(page), segment_size(page)
        if page.is_tiled or index // across % down < down - 1:
            return rows
        return self.size[0] - (down - 1) * rows

    def _unpack(self, page: Any, index: int, rows: tuple[int, int]) -> np.ndarray:
        """Rows of a tile or strip, [n w samples]; of those that are packed, from the first on."""
        count, size = int(page.databytecounts[index]), segment_bytes(page)
        row = size // segment_size(page)[0]
        if page.compression == page.predictor == 1:
            content = self._content(
                page.dataoffsets[index] + rows[0] * row, (rows[1] - rows[0]) * row
            )
            return unpredict(content, page)
        if max(size, count // 2) > SEGMENT_BYTES:
            what = f"a tile or strip of {max(size, count) >> 20} MB, at most {SEGMENT_BYTES >> 20}"
            raise UserError(f"{self.name}: {what} are read; {ADVICE}")
        content = self._content(page.dataoffsets[index], count)
        if page.compression == 1:
            return unpredict(content[: rows[1] * row], page)
        if page.compression in DEFLATE:  # no more than fits, whatever it would inflate to
            content = zlib.decompressobj().decompress(content, rows[1] * row)
            if len(content) < rows[1] * row:
                raise ValueError("it ends too early")
            return unpredict(content, page)
        values, _, _ = page.decode(content, index, jpegtables=page.jpegtables)
        return np.asarray(values[0])

    def _content(self, offset: int, count: int) -> bytes:
        self._file.filehandle.seek(int(offset))
        content: bytes = self._file.filehandle.read(count)
        if len(content) < count:
            raise ValueError("it ends too early")
        return content

    def _unreadable(self, error: Exception) -> UserError:
        what = str(error)
        if "imagecodecs" in what:
            packed = f"the TIFF is packed ({what.partition(' requires')[0]})"
            return UserError(
                f"{self.name}: {packed}, which takes one more package: pip install imagecodecs"
            )
        return Unreadable(f"{self.name}: not a readable image ({what})")


@contextmanager
def open_tiff(data: bytes | Path, name: str, bands: int = 1) -> Iterator[Tiff]:
    """Open a TIFF by its content or file.

    Raises:
      UserError: it is no TIFF that can be read.
    """
    from tifffile import TiffFile  # takes a tenth of a second

    try:
        file = TiffFile(io.BytesIO(data) if isinstance(data, bytes) else data)
    except MemoryError:
        raise
    except Exception as error:  # TiffFileError, struct.error, ...
        raise Unreadable(f"{name}: not a readable TIFF ({error})") from error
    with file:
        try:
            tiff = Tiff(file, name, bands)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a first page without what it needs
            raise Unreadable(f"{name}: not a readable TIFF ({error})") from error
        yield tiff


def check_page(page: Any, name: str) -> None:
    """Raise UserError for a page that is not read."""
    kind, bits, compression = int(page.photometric), page.bitspersample, int(page.compression)
    dtype = np.dtype(page.dtype or "V")
    why = ""
    if dtype.kind not in "uif" or dtype.itemsize * 8 != bits:
        why = f"{bits} bits of sample format {page.sampleformat}"
    elif kind not in PHOTOMETRICS or (kind == YCBCR and compression != JPEG):
        why = f"photometric interpretation {kind}"
    elif compression not in COMPRESSIONS or page.fillorder != 1:
        why = f"compression {compression}, fill order {page.fillorder}"
    elif page.imagedepth != 1 or not 0 < page.samplesperpixel <= MOST_CHANNELS:
        why = f"{page.samplesperpixel} channels, depth {page.imagedepth}"
    elif len(page.dataoffsets) < (segments := count_segments(page)):
        raise Unreadable(f"{name}: not a readable TIFF ({segments} tiles or strips are not there)")
    if why:
        raise UserError(f"{name}: a TIFF of {why} is not read; {ADVICE}")


def alike(one: Any, other: Any) -> bool:
    """Whether two pages have one size and type; an overview or a GDAL mask has not."""
    return (one.shape, one.dtype) == (other.shape, other.dtype)


def segment_size(page: Any) -> tuple[int, int]:
    """Rows and columns of a tile or strip."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def grid(page: Any) -> tuple[int, int]:
    """How many tiles or strips a plane has, down and across."""
    rows, columns = segment_size(page)
    return -(-int(page.imagelength) // rows), -(-int(page.imagewidth) // columns)


def count_segments(page: Any) -> int:
    """How many a page has in all."""
    return math.prod(grid(page)) * (page.samplesperpixel if page.planarconfig == 2 else 1)


def segment_bytes(page: Any) -> int:
    """The size of a tile or strip, unpacked."""
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return math.prod(segment_size(page)) * int(samples) * np.dtype(page.dtype).itemsize


def unpredict(content: bytes, page: Any) -> np.ndarray:
    """Whole rows of a tile or strip from its bytes: [n w samples]."""
    samples, columns = page.samplesperpixel if page.planarconfig == 1 else 1, segment_size(page)[1]
    stored = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    if (
        page.predictor == 3
    ):  # of floats: rows of their first bytes, then second ones, as differences
        steps = np.frombuffer(content, np.uint8).reshape(-1, columns * stored.itemsize, samples)
        planes = np.cumsum(steps, axis=1, dtype=np.uint8)
        planes = planes.reshape(len(planes), stored.itemsize, columns * samples)
        values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(stored.newbyteorder(">"))
        return values.reshape(-1, columns, samples)
    values = np.frombuffer(content, stored).reshape(-1, columns, samples)
    if page.predictor != 2:
        return values
    whole = np.dtype(f"u{stored.itemsize}")  # of floats it takes the bits for numbers
    steps = values.astype(stored.newbyteorder("=")).view(whole)
    return np.cumsum(steps, axis=1, dtype=whole).view(stored.newbyteorder("="))
