"""A function of images as a file of ONNX."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import onnx
from onnx import helper

from deeplab_jax.errors import UserError
from deeplab_jax.lowering import table
from deeplab_jax.lowering.equations import apply_rule
from deeplab_jax.lowering.graph import Graph
from deeplab_jax.lowering.table import RULES, onnx_type
from deeplab_jax.lowering.walk import BATCH, IMAGE, Function, Walk

NONE: Mapping[str, str] = {}
FEW, MANY = (3, 4), (70, 67)  # strides in the height and width of two images


class Lowered(NamedTuple):
    """The file, and the name of each layer's last value in it, in their order."""

    model: onnx.ModelProto
    layers: dict[str, str]


def lower(
    function: Function,
    image: jax.ShapeDtypeStruct,
    output: str = "result",
    metadata: Mapping[str, str] = NONE,
    *,
    any_size: bool = False,
) -> Lowered:
    """Write `function` of any number of such images [h, w, c] as ONNX; its result is `output`.

    Raises:
      UserError: it has an operation without a rule, which is named.
    """
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((BATCH, *image.shape), image.dtype))
    (aval,), size = traced.out_avals, image.shape[:2]
    graph = Graph(size if any_size else None)
    entry = graph.laid_out(IMAGE, 1 + len(image.shape))
    (result,) = Walk(partial(emit_nodes, graph), RULES).through(traced, [entry])
    graph.scope = ""
    graph.nodes.append(
        helper.make_node("Identity", [graph.natural(result, len(aval.shape))], [output], output)
    )
    graph.tidy(output)

    def describe(name: str, shape: tuple[Any, ...], dtype: Any) -> onnx.ValueInfoProto:
        sides = ("height", "width") if shape[:2] == size else ("rows", "columns")
        sizes = ["batch", *(sides if any_size else shape[:2]), *shape[2:]]
        return helper.make_tensor_value_info(name, onnx_type(dtype), sizes)

    values = describe(IMAGE, image.shape, image.dtype), describe(output, aval.shape[1:], aval.dtype)
    return Lowered(graph.model(*values, dict(metadata)), graph.layers)


def lower_for_any_size(
    function: Function,
    image: jax.ShapeDtypeStruct,
    stride: int,
    output: str = "result",
    metadata: Mapping[str, str] = NONE,
) -> Lowered:
    """As `lower`, for every height and width k * stride + 1, k from 2; only image[2] counts.

    Every size that the graph has must be the image's at some stride. That is so where the graphs of
    a small and a large image are the same, byte for byte; what else depends on a size differs.

    Raises:
      UserError: it does, as PSPNet's grids do.
    """

    def at(strides: tuple[int, int]) -> Lowered:
        shape = (*(stride * k + 1 for k in strides), *image.shape[2:])
        example = jax.ShapeDtypeStruct(shape, image.dtype)
        return lower(function, example, output, metadata, any_size=True)

    small, large = at(FEW), at(MANY)
    if small.model != large.model:
        raise UserError(
            "this network depends on the image's size in a way that ONNX cannot follow: set one"
            " size by --task.eval_size H W, without --any-size"
        )
    return small


def emit_nodes(
    graph: Graph, layer: str, name: str, equation: Any, operands: list[Any]
) -> list[Any]:
    """What becomes of an equation in the graph: the nodes that its rule in the table adds."""
    graph.scope = layer
    results = apply_rule(RULES, table.__name__, layer, name, graph, equation, *operands)
    if layer:
        graph.layers.pop(layer, None)  # the order is that of the last values
        graph.layers[layer] = results[0]
    return results
