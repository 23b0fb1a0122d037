"""From a decoded image to the fixed size that the network sees; on the host, in uint8.

Training: random scale, random crop and padding are *one* resample from the source to the crop, so
that nothing is computed that the crop then throws away (official order: `input_preprocess.py`;
PIL's pixel centres instead of aligned corners, which shifts by less than half a pixel).
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

Size = tuple[int, int]  # (height, width)
Pixel = int | tuple[int, ...]
GREY = 127  # of every channel: 0 (to 1/255) in [-1, 1]; official 127.5, but pixels are uint8


class Crop(NamedTuple):
    """An image scaled to `scaled`, of which the window at `offset` is taken (both in pixels)."""

    scaled: Size
    offset: Size


def fit_size(size: Size, box: Size) -> Size:
    """The size of an image scaled, aspect kept, to fit `box`; floored as in the official demo."""
    ratio = min(box[0] / size[0], box[1] / size[1])
    return (max(1, int(size[0] * ratio)), max(1, int(size[1] * ratio)))


def random_scale(rng: np.random.Generator, low: float, high: float, step: float) -> float:
    """Uniform among low, low + step, ..., high; continuous where step is 0.

    As the official `get_random_scale`.
    """
    if step == 0:
        return float(rng.uniform(low, high))
    count = round((high - low) / step) + 1
    return low + step * int(rng.integers(count))


def random_crop(rng: np.random.Generator, size: Size, scale: float, crop_size: Size) -> Crop:
    """A window of at most crop_size in the image scaled by `scale` (truncated, as official)."""
    scaled = (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))
    room = [max(0, n - c) for n, c in zip(scaled, crop_size, strict=True)]
    return Crop(scaled, (int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))))


def class_crop(
    rng: np.random.Generator, label: np.ndarray, crop: Crop, crop_size: Size, ignore_label: int
) -> Crop:
    """The window of `crop` moved so that it shows a class drawn evenly from those of the image.

    A pixel of the class is drawn evenly, of the scaled label map, and then a window that has it.
    """
    sides = zip(crop.scaled, label.shape, strict=True)
    places = [((np.arange(n) + 0.5) * m / n).astype(int) for n, m in sides]
    scaled = label[np.ix_(*places)]  # as `cut` has it
    classes = np.flatnonzero(np.bincount(scaled.ravel()))
    classes = classes[classes != ignore_label]
    if not len(classes):
        return crop
    pixels = np.flatnonzero(scaled == rng.choice(classes))
    pixel = np.unravel_index(rng.choice(pixels), scaled.shape)
    ranges = (
        (max(0, at - c + 1), min(at, max(0, n - c)))
        for at, n, c in zip(map(int, pixel), crop.scaled, crop_size, strict=True)
    )
    top, left = (int(rng.integers(low, high + 1)) for low, high in ranges)
    return Crop(crop.scaled, (top, left))


def inception_crop(rng: np.random.Generator, size: Size, crop_size: Size) -> Crop:
    """A window of 8 to 100 % of the image, of aspect 3/4 to 4/3, that is scaled to crop_size.

    Szegedy et al. 2015, section 6. A window that does not fit is shrunk until it does.
    """
    area = rng.uniform(0.08, 1.0) * size[0] * size[1]
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))  # width / height
    h, w = np.sqrt(area / aspect), np.sqrt(area * aspect)
    fit = min(1.0, size[0] / h, size[1] / w)
    scaled = (
        max(crop_size[0], round(size[0] * crop_size[0] / (h * fit))),
        max(crop_size[1], round(size[1] * crop_size[1] / (w * fit))),
    )
    return random_crop(rng, scaled, 1.0, crop_size)


def central_crop(crop_size: Size) -> Crop:
    """The central 87.5 % of an image's height and width, scaled to crop_size.

    As slim's `inception_preprocessing.preprocess_for_eval`.
    """
    h, w = round(crop_size[0] / 0.875), round(crop_size[1] / 0.875)
    return Crop((h, w), ((h - crop_size[0]) // 2, (w - crop_size[1]) // 2))


def cut(pixels: np.ndarray, crop: Crop, out_size: Size, fill: Pixel, *, smooth: bool) -> np.ndarray:
    """Resample u8 [h, w(, c)] to the crop's window and pad it bottom and right to `out_size`.

    `smooth`: bilinear for images; else nearest, for labels.
    """
    (sh, sw), (oy, ox) = crop
    h, w = min(out_size[0], sh - oy), min(out_size[1], sw - ox)
    if (sh, sw) == pixels.shape[:2]:
        window = pixels[oy : oy + h, ox : ox + w]
    else:
        fy, fx = pixels.shape[0] / sh, pixels.shape[1] / sw
        method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        box = (ox * fx, oy * fy, (ox + w) * fx, (oy + h) * fy)
        window = resample(pixels, (h, w), box, method)
    return pad(window, out_size, fill)


def resample(
    pixels: np.ndarray, size: Size, box: tuple[float, float, float, float], method: Image.Resampling
) -> np.ndarray:
    """A box (left, top, right, bottom) of u8 [h, w(, c)] at `size`.

    Pillow would weigh four channels by the last, as alpha: others than RGB are resampled each.
    """
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        channels = [resample(pixels[..., i], size, box, method) for i in range(pixels.shape[2])]
        return np.stack(channels, axis=-1)
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], method, box=box))


def pad(pixels: np.ndarray, out_size: Size, fill: Pixel) -> np.ndarray:
    """Pad [h, w(, c)] bottom and right to `out_size` (official: offset 0, 0)."""
    h, w = pixels.shape[:2]
    if (h, w) == out_size:
        return pixels
    out = np.empty((*out_size, *pixels.shape[2:]), pixels.dtype)
    row = np.full(out.shape[1:], fill, out.dtype)
    out[:h, :w], out[:h, w:] = pixels, row[w:]
    out[h:] = row  # whole rows: filling pixel by pixel takes as long as decoding a JPEG
    return out


def whole(
    pixels: np.ndarray, scaled: Size, out_size: Size, fill: Pixel, *, smooth: bool
) -> np.ndarray:
    """The whole image scaled to `scaled` and padded to `out_size`."""
    return cut(pixels, Crop(scaled, (0, 0)), out_size, fill, smooth=smooth)


def bring_to_input(
    image: np.ndarray, box: Size, fill: Pixel, *, fit: bool, centre: bool
) -> tuple[np.ndarray, Size]:
    """An image u8[h, w, c] as the network gets it, u8[*box, c], and its size (h, w) in there.

    It lies in the upper left, scaled to `fit` or as it is; of a classifier its `centre` is cut out.
    """
    size = (image.shape[0], image.shape[1])
    scaled = fit_size(size, box) if fit else size
    crop = central_crop(box) if centre else Crop(scaled, (0, 0))
    return cut(image, crop, box, fill, smooth=True), scaled
