"""Prediction of images too large for memory: a band of rows is read, summed and labelled at a time.

Scales, mirror images, windows and their mean are those of `tta.py`: labels are what it gives with
the whole image in memory, up to rounding. What is held at once follows from the image's width and
the window's height: of the pixels, and of the logits of each view, at the network's own stride.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import Array
from PIL import Image

from deeplab_jax.config import EvalConfig, ModelConfig, Size
from deeplab_jax.data.transforms import pad, resample
from deeplab_jax.inference.step import most_likely
from deeplab_jax.inference.tta import scaled_size, times_seen, window_starts

WINDOW = (1025, 1025)  # where none is set: k * stride + 1 of every output stride
BLOCK = 2**23  # logits f32 that are upsampled at a time: 32 MB, and a few times that in between
READ_ROWS = 512  # at a time, where an image is reduced

Network = Callable[[np.ndarray], Array]  # f32[1 h w c] -> logits f32[1 h' w' c]


class Raster(Protocol):
    """An image of `size` (h, w) of which windows can be read."""

    @property
    def size(self) -> Size: ...

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window u8[height width c] at (top, left), which must lie in the image."""


class Pixels(NamedTuple):
    """An image u8[h w c] in memory as a raster."""

    array: np.ndarray

    @property
    def size(self) -> Size:
        return (self.array.shape[0], self.array.shape[1])

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self.array[top : top + height, left : left + width]


class Canvas(NamedTuple):
    """A raster padded with `fill` at the bottom and on the right, to `size`."""

    raster: Raster
    size: Size
    fill: tuple[int, ...]

    def rows(self, top: int, count: int) -> np.ndarray:
        """Read u8[count w c]."""
        (h, w), inside = self.raster.size, np.empty((0, 0, len(self.fill)), np.uint8)
        if top < h:
            inside = self.raster.read(top, 0, min(count, h - top), w)
        return pad(inside, (count, self.size[1]), self.fill)


class Places(NamedTuple):
    """Positions among the pixels of an axis: int32[n], the pixel before, and f32[n], the way on."""

    before: np.ndarray
    way: np.ndarray


def places(positions: np.ndarray, size: int) -> Places:
    """Positions f64 of 0 to size - 1, size from 2."""
    before = np.clip(positions.astype(np.int32), 0, size - 2)
    return Places(before, (positions - before).astype(np.float32))


def interpolate(x: Any, rows: Places, columns: Places) -> Any:
    """NumPy's or JAX's x [h w c] at these rows and columns, linear, as `ops/resize.py`."""
    (i, s), (j, t) = rows, columns
    x = x.take(i, 0) * (1 - s)[:, None, None] + x.take(i + 1, 0) * s[:, None, None]
    return x.take(j, 1) * (1 - t)[:, None] + x.take(j + 1, 1) * t[:, None]


class View:
    """One view of a canvas, at a scale and perhaps mirrored: its logits, rows after rows.

    The sums of windows lie in a ring of rows, as long as a window and what `block` rows of the
    canvas need.
    """

    def __init__(
        self,
        network: Network,
        canvas: Canvas,
        block: int,
        scale: float,
        mirrored: bool,
        stride: int,
        protocol: EvalConfig,
    ) -> None:
        self._network, self._canvas, self._mirrored = network, canvas, mirrored
        self._size = scaled_size(canvas.size, scale, stride)
        h, w = (min(a, b) for a, b in zip(protocol.window or WINDOW, self._size, strict=True))
        self._window = (h, w)
        self._ys = window_starts(self._size[0], h, protocol.overlap, stride)
        self._xs = window_starts(self._size[1], w, protocol.overlap, stride)
        shape = jax.eval_shape(
            network, jax.ShapeDtypeStruct((1, h, w, len(canvas.fill)), np.float32)
        ).shape
        self._part = (shape[1], shape[2])
        self._stride = (h - 1) // (shape[1] - 1)  # of the logits
        self._seen = times_seen(self._ys, h, self._stride), times_seen(self._xs, w, self._stride)
        rows, columns = (len(seen) for seen in self._seen)
        self._kept = min(rows, (block - 1) * (rows - 1) // (canvas.size[0] - 1) + 3)
        self._ring = np.zeros((self._kept + shape[1], columns, shape[3]), np.float32)
        self._first = self._windows = self._final = 0  # rows dropped, rows of windows, rows summed
        self.columns = self._place(np.arange(canvas.size[1]), 1)

    def rows(self, pixels: np.ndarray) -> tuple[np.ndarray, Places]:
        """Logits f32[k w' c] and where among them these rows of the canvas lie, in order."""
        place, n = self._place(pixels, 0), len(self._seen[0])
        first = min(int(place.before[0]), n - self._kept)
        self._ring[np.arange(self._first, first) % len(self._ring)] = 0
        self._first, last = first, first + self._kept
        while self._final < last:
            self._add_windows()
        logits = self._ring[np.arange(first, last) % len(self._ring)]
        logits /= self._seen[0][first:last, None, None] * self._seen[1][:, None]
        logits = logits[:, ::-1] if self._mirrored else logits
        return logits, Places(place.before - first, place.way)

    def _place(self, pixels: np.ndarray, axis: int) -> Places:
        """Where pixels of the canvas lie among the logits."""
        n = len(self._seen[axis])
        return places(pixels * ((n - 1) / (self._canvas.size[axis] - 1)), n)

    def _add_windows(self) -> None:
        """Run the next row of windows."""
        y, (h, w), (part_h, part_w) = self._ys[self._windows], self._window, self._part
        self._windows += 1
        following = [*self._ys[self._windows :], self._stride * len(self._seen[0])]
        self._final = following[0] // self._stride
        at = (y // self._stride + np.arange(part_h)) % len(self._ring)
        scaled, size = self._size != self._canvas.size, self._canvas.size
        ratios = [(a - 1) / (b - 1) for a, b in zip(size, self._size, strict=True)]
        rows = places((y + np.arange(h)) * ratios[0], size[0])
        top = int(rows.before[0])
        band = self._canvas.rows(top, int(rows.before[-1]) + 2 - top)
        band = band[:, ::-1] if self._mirrored else band
        for x in self._xs:
            if scaled:
                columns = places((x + np.arange(w)) * ratios[1], size[1])
                window = interpolate(band, rows._replace(before=rows.before - top), columns)
            else:
                window = band[y - top :][:h, x : x + w].astype(np.float32)
            left = x // self._stride
            self._ring[at, left : left + part_w] += np.asarray(self._network(window[None]))[0]


def label_bands(
    networks: Mapping[float, Network],
    canvas: Canvas,
    model: ModelConfig,
    protocol: EvalConfig,
) -> Iterator[np.ndarray]:
    """Labels u8[rows w] of a canvas's raster, top to bottom, by the network for each scale."""
    (h, w), (height, width) = canvas.raster.size, canvas.size
    block = min(h, max(1, BLOCK // (width * model.classes)))
    views = [
        View(network, canvas, block, scale, mirrored, model.output_stride, protocol)
        for scale, network in networks.items()
        for mirrored in ((False, True) if protocol.flip else (False,))
    ]

    @jax.jit
    def label(maps: Sequence[Array], rows: Sequence[Places]) -> Array:
        columns = [view.columns for view in views]
        return most_likely([*map(interpolate, maps, rows, columns)])

    for top in range(0, h, block):
        pixels = np.minimum(np.arange(top, top + block), height - 1)
        maps, rows = zip(*(view.rows(pixels) for view in views), strict=True)
        yield np.asarray(label(maps, rows))[: h - top, :w]


def reduce_raster(raster: Raster, size: Size) -> np.ndarray:
    """The whole raster scaled down to u8[*size c], as PIL's bilinear filter does it."""
    (h, w), (rows, columns) = raster.size, size
    scale, parts = h / rows, []
    step = max(1, int(READ_ROWS / scale))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        # The filter reaches `scale` pixels over a pixel's centre.
        top = max(0, int((first - 1) * scale) - 1)
        bottom = min(h, int((last + 1) * scale) + 2)
        strip = raster.read(top, 0, bottom - top, w)
        box = (0, first * scale - top, w, min(last * scale - top, len(strip)))
        parts.append(resample(strip, (last - first, columns), box, Image.Resampling.BILINEAR))
    return np.concatenate(parts)


def choose_nearest(size: Size, of: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of an array that make one of `size` of it, as PIL's nearest does."""
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(size, of, strict=True))
    return rows, columns


def enlarge_bands(label: np.ndarray, size: Size) -> Iterator[np.ndarray]:
    """A label map as one of `size`, a band of rows at a time."""
    rows, columns = choose_nearest(size, label.shape)
    for top in range(0, size[0], READ_ROWS):
        yield label[rows[top : top + READ_ROWS, None], columns]
