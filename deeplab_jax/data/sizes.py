"""From the sizes of images to those that the network gets: its input, and a crop for training."""

from collections.abc import Sequence

import numpy as np

from deeplab_jax.config import PAPER_CROP, ModelConfig, TaskConfig, round_up
from deeplab_jax.data.transforms import Size, fit_size


def input_size(size: Size, model: ModelConfig, task: TaskConfig) -> Size:
    """Height and width that the network gets for an image of `size`: by that image alone.

    The one rule of prediction and evaluation, so that neither an image's neighbours in a batch nor
    the rest of its split change what is predicted: `task.eval_size` where the image fits into it or
    is scaled to fit; else its own size, rounded up to k * output_stride + 1, k from 2. What the
    image does not fill is padded at the bottom and on the right, and image pooling sees that.
    A classifier sees the centre of an image in one size: `task.eval_size`, or ImageNet's usual one.
    """
    if model.head == "classifier":
        side = 299 if model.backbone.startswith("xception") else 224
        return task.eval_size or (side, side)
    if task.eval_size is not None and (task.resize == "fit" or fits(size, task.eval_size)):
        return task.eval_size
    stride = model.output_stride
    h, w = (max(round_up(n, stride), 2 * stride + 1) for n in size)
    return (h, w)


def fits(size: Size, box: Size) -> bool:
    """Whether an image of `size` fits into `box` as it is."""
    return size[0] <= box[0] and size[1] <= box[1]


def fit_box(sizes: Sequence[Size], crop: Size, model: ModelConfig) -> Size | None:
    """Height and width to scale images of these sizes into, where most are far above the crop.

    That is, where the median's longer side is above twice the crop's, which it then has; None
    elsewhere. The box has the median's shape, and is square where some images are upright and some
    lie.
    """
    side = round_up(2 * max(crop) - 1, model.output_stride)
    h, w = _typical(sizes) if sizes else (0, 0)
    if max(h, w) <= side:
        return None
    h, w = (round_up(max(17, n * side // max(h, w)), model.output_stride) for n in (h, w))
    return (h, w)


def _typical(sizes: Sequence[Size]) -> Size:
    """The median height and width; the larger of both where some images are upright, some lie."""
    h, w = (int(side) for side in np.median(sizes, axis=0))
    if any(a > b for a, b in sizes) and any(a < b for a, b in sizes):
        h = w = max(h, w)
    return (h, w)


def crop_size(sizes: Sequence[Size], model: ModelConfig, task: TaskConfig) -> Size:
    """A crop k * output_stride + 1 for training images of these sizes, as they are scaled to fit.

    Its sides are the medians of theirs, at most the paper's 513. It is square where some images
    are upright and some lie, as the paper's for VOC: of 375 x 500 and 500 x 375 it is 513 x 513.
    """
    if task.resize == "fit" and task.eval_size is not None:
        sizes = [fit_size(size, task.eval_size) for size in sizes]
    h, w = (
        round_up(min(max(n, 17), most), model.output_stride)  # a crop has 17 pixels or more
        for n, most in zip(_typical(sizes), PAPER_CROP, strict=True)
    )
    return (h, w)
