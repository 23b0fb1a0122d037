"""From JAX's primitives to TensorFlow's operations: the table at the end, and what its rows do.

A rule takes the equation and its operands, and returns its result. An operand is a tensor, or an
array that is known already. Maps are [b, h, w, c] for both, and so every row is short. The rows are
chosen by what becomes of them in a TFLite file, where each should be one operation.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_jax.lowering.equations import (
    check_convolution,
    growth,
    is_pixelwise,
    open_sizes,
    parts,
    pick,
    terms_of_product,
)

Rule = Callable[..., Any]


def elementwise(operation: Callable[..., Any], e: Any, *xs: Any) -> Any:
    """What was repeated to the other's size need not have been: TensorFlow does so by itself."""
    if len(xs) == 2 and sum(map(is_repeated, xs)) == 1:
        xs = tuple(x.op.inputs[0] if is_repeated(x) else x for x in xs)
    return operation(*xs)


def is_repeated(x: Any) -> bool:
    return isinstance(x, tf.Tensor) and x.op.type == "Tile"


def divide(e: Any, x: Any, y: Any) -> Any:
    """What was just summed, by its number, is a mean."""
    if e.invars[0].aval.dtype.kind != "f":
        return tf.raw_ops.Div(x=x, y=y)
    total = x.op.inputs[0] if isinstance(x, tf.Tensor) and x.op.type == "Reshape" else x
    if isinstance(total, tf.Tensor) and total.op.type == "Sum" and not isinstance(y, tf.Tensor):
        terms, axes = total.op.inputs
        axes = tf.get_static_value(axes)
        if np.all(math.prod(terms.shape[axis] for axis in axes) == y):
            return tf.reshape(tf.reduce_mean(terms, axes), open_sizes(e.outvars[0].aval.shape))
    return elementwise(tf.divide, e, x, y)


def cast(e: Any, x: Any) -> Any:
    return tf.cast(x, e.params["new_dtype"])


def clip(e: Any, x: Any, low: Any, high: Any) -> Any:
    """relu6 by its name: it becomes part of the convolution before it."""
    if (float(low), float(high)) == (0, 6):
        return tf.nn.relu6(x)
    low, high = (np.asarray(bound, x.dtype.as_numpy_dtype) for bound in (low, high))
    return tf.clip_by_value(x, low, high)


def conv(e: Any, x: Any, kernel: Any) -> Any:
    """[b, h, w, c] by [kh, kw, in, out]; TensorFlow has depthwise kernels as [kh, kw, in, n]."""
    check_convolution(e, __name__)
    p, kernel = e.params, np.asarray(kernel)
    strides, rates = p["window_strides"], p["rhs_dilation"]
    window = [(k - 1) * rate + 1 for k, rate in zip(kernel.shape, rates, strict=False)]
    x, padding = pad(x, window, strides, p["padding"])
    options = {"strides": (1, *strides, 1), "dilations": (1, *rates, 1), "padding": padding}
    channels = x.shape[3]
    if p["feature_group_count"] == channels > 1:
        kernel = kernel.reshape(*kernel.shape[:2], channels, -1)
        return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=kernel, **options)
    return tf.raw_ops.Conv2D(input=x, filter=kernel, **options)


def pad(
    x: Any,
    window: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    value: float = 0,
) -> tuple[Any, str]:
    """x and the padding to compute a window of it by: TensorFlow's own, where it is that."""
    pads, same = [(int(low), int(high)) for low, high in pads], []
    for n, k, stride in zip(x.shape[1:3], window, strides, strict=True):
        total = max((-(-n // stride) - 1) * stride + k - n, 0)
        same.append((total // 2, total - total // 2))
    if pads == same:
        return x, "SAME"
    if any(map(any, pads)):
        x = tf.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)
    return x, "VALID"


def product(e: Any, x: Any, y: Any) -> Any:
    """Any product of two arrays; a map's pixels by a matrix are a 1x1 convolution."""
    if is_pixelwise(e) and not isinstance(y, tf.Tensor):
        return tf.nn.conv2d(x, np.asarray(y)[None, None], 1, "VALID")
    of_x, of_y, result = terms_of_product(e)
    return tf.einsum(f"{of_x},{of_y}->{result}", x, y)


def maximum_in_window(e: Any, x: Any) -> Any:
    window, strides, pads = window_of(e)
    x, padding = pad(x, window, strides, pads, x.dtype.min)
    return tf.nn.max_pool2d(x, window, strides, padding)


def sum_of_window(e: Any, x: Any) -> Any:
    window, strides, pads = window_of(e)
    if any(map(any, pads)):  # which a mean leaves out of its number
        x = tf.pad(x, [(0, 0), *pads, (0, 0)])
    return tf.nn.avg_pool2d(x, window, strides, "VALID") * float(math.prod(window))


def window_of(e: Any) -> tuple[Any, Any, Any]:
    """The window of height and width, its strides, its padding."""
    names = ("window_dimensions", "window_strides", "padding")
    window, strides, pads = (e.params[name][1:3] for name in names)
    return window, strides, pads


def reduce(operation: Callable[..., Any], e: Any, x: Any) -> Any:
    return operation(x, e.params["axes"])


def argmax(e: Any, x: Any) -> Any:
    (axis,) = e.params["axes"]
    return tf.argmax(x, axis, output_type=e.params["index_dtype"])


def broadcast(e: Any, x: Any) -> Any:
    """x with new axes of one pixel; those that are longer are repeated."""
    with_ones, times = growth(e)
    x = tf.reshape(x, open_sizes(with_ones))
    return x if set(times) == {1} else tf.tile(x, times)


def reshape(e: Any, x: Any) -> Any:
    return tf.reshape(x, open_sizes(e.outvars[0].aval.shape))


def resize(e: Any, x: Any) -> Any:
    """`ops/resize.py: resize_bilinear`, whose corners are aligned."""
    size = e.outvars[0].aval.shape[1:3]
    return tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True)


RULES: dict[str, Rule] = {
    "add": partial(elementwise, tf.add),
    "argmax": argmax,
    "broadcast_in_dim": broadcast,
    "concatenate": lambda e, *xs: tf.concat(xs, e.params["dimension"]),
    "conv_general_dilated": conv,
    "convert_element_type": cast,
    "div": divide,
    "dot_general": product,
    "exp": partial(elementwise, tf.exp),
    "floor": partial(elementwise, tf.floor),
    "jit clip": clip,
    "jit relu": partial(elementwise, tf.nn.relu),
    "jit resize_bilinear": resize,
    "logistic": partial(elementwise, tf.sigmoid),
    "max": partial(elementwise, tf.maximum),
    "min": partial(elementwise, tf.minimum),
    "mul": partial(elementwise, tf.multiply),
    "reduce_max": partial(reduce, tf.reduce_max),
    "reduce_sum": partial(reduce, tf.reduce_sum),
    "reduce_window_max": maximum_in_window,
    "reduce_window_sum": sum_of_window,
    "reshape": reshape,
    "rev": lambda e, x: tf.reverse(x, e.params["dimensions"]),
    "round": partial(elementwise, tf.round),
    "select_n": lambda e, which, *xs: pick(which, xs, __name__),
    "slice": lambda e, x: x[parts(e)],
    "squeeze": reshape,
    "stack": lambda e, *xs: tf.stack(xs),
    "stop_gradient": lambda e, x: x,
    "sub": partial(elementwise, tf.subtract),
    "transpose": lambda e, x: tf.transpose(x, e.params["permutation"]),
    "unstack": lambda e, x: tf.unstack(x, axis=e.params["axis"]),
}
