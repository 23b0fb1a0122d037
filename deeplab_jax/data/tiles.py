"""Images too large for memory, as tiles that are read from their files one by one."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from deeplab_jax.config import Size
from deeplab_jax.data.decode import MAX_PIXELS
from deeplab_jax.data.layouts import Item, Tile
from deeplab_jax.data.masks import Mask
from deeplab_jax.data.pixels import Reading
from deeplab_jax.data.raster import open_raster
from deeplab_jax.data.tiff import ADVICE, open_tiff
from deeplab_jax.errors import UserError

TILE = 1024  # pixels a side
READERS = 8  # threads, where many small files are read at once
SUFFIXES = (".tif", ".tiff")  # of other formats no windows can be read


def cut_large(items: Iterable[Item]) -> tuple[tuple[Item, ...], int]:
    """Items with TIFFs of more than 64 megapixels cut into tiles, and how many of these were cut.

    A tile has at most 1024 x 1024 pixels; its id ends in its place, as in map@0,1024.

    Raises:
      UserError: a large image and its mask have different sizes, or it is labelled by shapes.
    """

    def cut(item: Item) -> list[Item]:
        size = _large_size(item.image)
        return [item] if size is None else list(_cut(item, size))

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(cut, items))
    return tuple(tile for tiles in found for tile in tiles), sum(len(tiles) > 1 for tiles in found)


def _large_size(file: object) -> Size | None:
    """The size of a TIFF of more than 64 megapixels, by its header; None: another file."""
    if not isinstance(file, Path) or file.suffix.lower() not in SUFFIXES:
        return None
    try:
        with open_tiff(file, str(file)) as tiff:
            h, w = tiff.size
    except UserError:  # which is said when it is read
        return None
    return (h, w) if h * w > MAX_PIXELS else None


def _cut(item: Item, size: Size) -> Iterable[Item]:
    image, label = item.image, item.label
    assert isinstance(image, Path), "of which the size was read"
    if not isinstance(label, Path | None):
        raise UserError(f"{image}: shapes on an image above 64 megapixels; give it a TIFF as mask")
    if label is not None and (theirs := _large_size(label)) != size:
        shown = "no TIFF as large" if theirs is None else f"{theirs[1]} x {theirs[0]}"
        raise UserError(
            f"{label}: the image is {size[1]} x {size[0]} and its mask {shown}; they must be equal:"
            f" {ADVICE}"
        )
    for top in range(0, size[0], TILE):
        for left in range(0, size[1], TILE):
            box = top, left, min(TILE, size[0] - top), min(TILE, size[1] - left)
            mask = None if label is None else Tile(label, *box)
            yield Item(f"{item.id}@{top},{left}", Tile(image, *box), mask)


def read_image_tile(tile: Tile, reading: Reading) -> np.ndarray:
    """The tile u8[h w c] of an image; raises UserError where the file is damaged."""
    with open_raster(tile.file, reading) as raster:
        return raster.read(*tile[1:])


def read_mask_tile(tile: Tile) -> Mask:
    """The tile of a mask, of one channel; raises UserError for others, or where it is damaged."""
    with open_tiff(tile.file, str(tile)) as tiff:
        if tiff.channels != 1 or tiff.dtype.kind != "u" or tiff.dtype.itemsize > 2:
            what = f"a mask of {tiff.channels} channels of {tiff.dtype}"
            raise UserError(f"{tile}: {what}, so large; allowed is one of uint8 or uint16")
        nodata = None if tiff.nodata is None else int(tiff.nodata)
        return Mask(tiff.read(*tile[1:])[..., 0], "gray", nodata=nodata)
