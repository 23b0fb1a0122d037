"""From JAX's primitives to ONNX's operators: the table at the end, and what its rows stand for.

A rule takes the graph, the equation and its operands, and returns the name of its result, or a list
of several. An operand is a name too, or an array that is known already. Shapes in equations are
those of JAX, with maps as [b, h, w, c]; in the graph they lie as `layout` says.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from onnx import TensorProto, helper

from deeplab_jax.lowering.equations import (
    check_convolution,
    growth,
    is_pixelwise,
    open_sizes,
    parts,
    pick,
    rank_of,
    terms_of_product,
)
from deeplab_jax.lowering.graph import Graph, Operand, layout

Rule = Callable[..., str | list[str]]
LAST = 2**63 - 1  # an end that stands for "to the end"


def places(axes: Sequence[int], rank: int) -> list[int]:
    """Where axes lie in the graph: 3, the channels of a map, is 1."""
    return [layout(rank).index(axis) for axis in axes]


def onnx_type(dtype: Any) -> int:
    """ONNX's type of JAX's: float16 for bfloat16."""
    half = dtype == jnp.bfloat16
    return TensorProto.FLOAT16 if half else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def elementwise(operator: str, g: Graph, e: Any, *xs: Operand) -> str:
    return g.add(operator, *xs)


def multiply(g: Graph, e: Any, x: Operand, y: Operand) -> str:
    """A gate of one pixel need not be repeated: ONNX does that as it multiplies."""
    node = g.nodes[-1]
    if node.op_type == "Expand" and node.output[0] == y and isinstance(x, str):
        y = node.input[0]
    return g.add("Mul", x, y)


def divide(g: Graph, e: Any, x: Operand, y: Operand) -> str:
    """What was just summed, by its number, is a mean: of however many."""
    for node in g.nodes[-2:]:
        of_sum = node.op_type == "ReduceSum" and x == g.nodes[-1].output[0]
        if of_sum and not isinstance(y, str) and np.all(g.counts[node.output[0]] == y):
            node.op_type = "ReduceMean"
            return g.place(x)
    return g.add("Div", x, y)


def cast(g: Graph, e: Any, x: str) -> str:
    before, after = onnx_type(e.invars[0].aval.dtype), onnx_type(e.params["new_dtype"])
    return x if before == after else g.add("Cast", x, to=after)


def clip(g: Graph, e: Any, x: str, low: Operand, high: Operand) -> str:
    dtype = helper.tensor_dtype_to_np_dtype(onnx_type(e.invars[0].aval.dtype))
    return g.add("Clip", x, *(np.asarray(bound).astype(dtype) for bound in (low, high)))


def conv(g: Graph, e: Any, x: str, kernel: Operand) -> str:
    """[b, h, w, c] by [kh, kw, in, out]; ONNX has kernels as [out, in, kh, kw]."""
    check_convolution(e, __name__)
    p = e.params
    return g.add(
        "Conv",
        x,
        g.constant(np.asarray(kernel).transpose(3, 2, 0, 1), "kernel"),
        kernel_shape=np.shape(kernel)[:2],
        strides=p["window_strides"],
        pads=both_ends(p["padding"]),
        dilations=p["rhs_dilation"],
        group=p["feature_group_count"],
    )


def both_ends(padding: Sequence[tuple[int, int]]) -> list[int]:
    """((top, bottom), (left, right)) as ONNX has it: top, left, bottom, right."""
    return [int(pads[end]) for end in (0, 1) for pads in padding]


def product(g: Graph, e: Any, x: Operand, y: Operand) -> str:
    """Any product of two arrays; a map's pixels by a matrix are a 1x1 convolution."""
    if is_pixelwise(e) and not isinstance(y, str):
        kernel = g.constant(np.asarray(y).T[:, :, None, None], "kernel")
        return g.add("Conv", x, kernel, kernel_shape=(1, 1))
    terms = ["".join(term[i] for i in layout(len(term))) for term in terms_of_product(e)]
    return g.add("Einsum", x, y, equation=f"{terms[0]},{terms[1]}->{terms[2]}")


def window(operator: str, g: Graph, e: Any, x: str) -> str:
    """The maximum or the mean over a window of height and width."""
    p = e.params
    return g.add(
        operator,
        x,
        kernel_shape=p["window_dimensions"][1:3],
        strides=p["window_strides"][1:3],
        pads=both_ends(p["padding"][1:3]),
    )


def window_sum(g: Graph, e: Any, x: str) -> str:
    count = np.prod(e.params["window_dimensions"])
    mean = window("AveragePool", g, e, x)
    return g.add("Mul", mean, np.asarray(count, e.invars[0].aval.dtype))


def reduce(operator: str, g: Graph, e: Any, x: str) -> str:
    """Over axes that are then gone."""
    rank, axes = rank_of(e.invars[0]), e.params["axes"]
    where = places(axes, rank)
    if operator == "ArgMax":  # of int64, as ONNX has it; what follows is a cast
        y = g.add(operator, x, axis=where[0], keepdims=0)
    else:
        y = g.add(operator, x, g.integers(where), keepdims=0)
        g.counts[y] = math.prod(e.invars[0].aval.shape[axis] for axis in axes)
    return without(g, y, rank, axes)


def without(g: Graph, y: str, rank: int, axes: Sequence[int]) -> str:
    """y, from an array of `rank` whose `axes` are gone, as an array of its rank lies."""
    left = [axis for axis in layout(rank) if axis not in axes]
    return g.arrange(y, left, [sorted(left)[i] for i in layout(len(left))])


def squeeze(g: Graph, e: Any, x: str) -> str:
    rank, axes = rank_of(e.invars[0]), e.params["dimensions"]
    return without(g, g.add("Squeeze", x, g.integers(places(axes, rank))), rank, axes)


def broadcast(g: Graph, e: Any, x: str) -> str:
    """x with new axes of one pixel; those that are longer are repeated."""
    before, after = e.invars[0].aval.shape, e.params["shape"]
    kept, rank = e.params["broadcast_dimensions"], len(after)
    y = g.arrange(x, [kept[i] for i in layout(len(before))], [i for i in layout(rank) if i in kept])
    if new := sorted(places(sorted({*range(rank)} - {*kept}), rank)):
        y = g.add("Unsqueeze", y, g.integers(new))
    _, times = growth(e)
    if set(times) == {1}:
        return y
    return g.add("Expand", y, g.integers([times[i] for i in layout(rank)]))


def reshape(g: Graph, e: Any, x: str) -> str:
    before, after = e.invars[0].aval.shape, e.params["new_sizes"]
    y = g.add("Reshape", g.natural(x, len(before)), g.integers(open_sizes(after)))
    return g.laid_out(y, len(after))


def transpose(g: Graph, e: Any, x: str) -> str:
    order = e.params["permutation"]
    return g.arrange(x, layout(len(order)), [order[i] for i in layout(len(order))])


def concatenate(g: Graph, e: Any, *xs: Operand) -> str:
    rank = rank_of(e.outvars[0])
    return g.add("Concat", *xs, axis=places([e.params["dimension"]], rank)[0])


def stack(g: Graph, e: Any, *xs: Operand) -> str:
    """Arrays along a new axis; without an equation the results of a loop's rounds, maps."""
    rank, axis = (rank_of(e.invars[0]), e.params["axis"]) if e else (4, 0)
    parts = [g.add("Unsqueeze", g.natural(x, rank), g.integers([axis])) for x in xs]
    return g.laid_out(g.add("Concat", *parts, axis=axis), rank + 1)


def unstack(g: Graph, e: Any, x: str) -> list[str]:
    """What lies along an axis, each by itself: since JAX 0.12 an operation of its own."""
    rank, axis = rank_of(e.invars[0]), e.params["axis"]
    (at,) = places([axis], rank)
    parts = (g.add("Gather", x, np.array(i), axis=at) for i in range(len(e.outvars)))
    return [without(g, part, rank, [axis]) for part in parts]


def slice_(g: Graph, e: Any, x: str) -> str:
    shape = e.invars[0].aval.shape
    cut = {axis: part for axis, part in enumerate(parts(e)) if part != slice(None)}
    if not cut:
        return x
    ends = [(part.stop, shape[axis]) for axis, part in cut.items()]
    lists = (
        [part.start for part in cut.values()],
        [LAST if end == n else end - n for end, n in ends],  # from the end
        places([*cut], len(shape)),
        [part.step for part in cut.values()],
    )
    return g.add("Slice", x, *map(g.integers, lists))


def mirror(g: Graph, e: Any, x: str) -> str:
    axes = places(e.params["dimensions"], rank_of(e.invars[0]))
    backwards = [-1] * len(axes)
    return g.add("Slice", x, *map(g.integers, (backwards, [-LAST] * len(axes), axes, backwards)))


def select(g: Graph, e: Any, which: Operand, *xs: Operand) -> str:
    return g.place(pick(which, xs, __name__))


def resize(g: Graph, e: Any, x: str) -> str:
    """`ops/resize.py: resize_bilinear`, whose corners are aligned; of one pixel, copies."""
    if e.invars[0].aval.shape == e.outvars[0].aval.shape:
        return x
    size = g.size(*e.outvars[0].aval.shape[1:3])
    if e.invars[0].aval.shape[1:3] == (1, 1):
        return g.add("Expand", x, g.add("Concat", g.integers([1, 1]), size, axis=0))
    # Of all four axes: onnxruntime 1.32 cannot load int8 files where `axes` names two.
    sizes = g.add("Concat", g.add("Shape", x, end=2), size, axis=0)
    align = "align_corners"
    return g.add("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode=align)


def identity(g: Graph, e: Any, x: str) -> str:
    return x


OPERATORS = {
    "add": "Add",
    "sub": "Sub",
    "max": "Max",
    "min": "Min",
    "exp": "Exp",
    "floor": "Floor",
    "round": "Round",
    "logistic": "Sigmoid",
    "jit relu": "Relu",
}
RULES: dict[str, Rule] = {
    **{name: partial(elementwise, operator) for name, operator in OPERATORS.items()},
    "argmax": partial(reduce, "ArgMax"),
    "broadcast_in_dim": broadcast,
    "concatenate": concatenate,
    "conv_general_dilated": conv,
    "convert_element_type": cast,
    "div": divide,
    "dot_general": product,
    "jit clip": clip,
    "jit resize_bilinear": resize,
    "mul": multiply,
    "reduce_max": partial(reduce, "ReduceMax"),
    "reduce_sum": partial(reduce, "ReduceSum"),
    "reduce_window_max": partial(window, "MaxPool"),
    "reduce_window_sum": window_sum,
    "reshape": reshape,
    "rev": mirror,
    "select_n": select,
    "slice": slice_,
    "squeeze": squeeze,
    "stack": stack,
    "stop_gradient": identity,
    "transpose": transpose,
    "unstack": unstack,
}
