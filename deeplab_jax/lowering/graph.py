"""An ONNX graph that is being built: nodes, and the arrays that they read."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from jax import Array
from onnx import helper, numpy_helper

from deeplab_jax.errors import UserError
from deeplab_jax.lowering.walk import IMAGE

OPSET = 18  # of 2022-12: read by every runtime of today
IR_VERSION = 9
MOST_BYTES = 2**31 - 2**24
Operand = str | np.ndarray | Array  # a value by its name; or an array that is known already


def layout(rank: int) -> tuple[int, ...]:
    """The axes of an array of JAX in the order in which they lie in the graph.

    Feature maps [b, h, w, c] lie there as [b, c, h, w], which is what ONNX convolves.
    """
    return (0, 3, 1, 2) if rank == 4 else tuple(range(rank))


class Graph:
    """Nodes in their order, and the arrays that they read.

    `scope` is the layer that nodes are named after; `layers` has the last value of each, in order.
    `traced` is the image's size in the equations, where the graph takes any other too: then sizes
    in the graph follow from the image's.
    """

    def __init__(self, traced: tuple[int, int] | None = None) -> None:
        self.traced = traced
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.scope = ""
        self.counts: dict[str, int] = {}  # of what stands in a sum
        self.layers: dict[str, str] = {}
        self._names: Counter[str] = Counter()

    def name(self, kind: str) -> str:
        """A new name, such as backbone/Conv/Relu."""
        name = f"{self.scope}/{kind}".lstrip("/")
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}_{self._names[name]}"

    def add(self, operator: str, *inputs: Operand, **attributes: Any) -> str:
        """Add a node of one output, and return its name. Maps lie as `layout` says."""
        output = self.name(operator)
        names = [self.place(x) for x in inputs]
        self.nodes.append(helper.make_node(operator, names, [output], output, **attributes))
        return output

    def place(self, x: Operand) -> str:
        """The name of an operand: one that is known becomes an array of the graph, laid out."""
        if isinstance(x, str):
            return x
        array = np.asarray(x)
        return self.constant(array.transpose(layout(array.ndim)))

    def constant(self, array: Any, kind: str = "constant") -> str:
        """The name of an array that lies as it is given; 16 bits are float16."""
        array = np.asarray(array)
        name = self.name(kind)
        half = array.dtype == jnp.bfloat16
        self.arrays[name] = np.asarray(array.astype(np.float16) if half else array, order="C")
        return name

    def integers(self, values: Sequence[int]) -> str:
        """The name of a list of whole numbers: axes, sizes."""
        return self.constant(np.array(values, np.int64), "integers")

    def arrange(self, x: str, have: Sequence[int], want: Sequence[int]) -> str:
        """x with its axes, called `have`, in the order `want`: (0, 1, 2), (0, 2, 1) swaps two."""
        order = [list(have).index(axis) for axis in want]
        return x if order == sorted(order) else self.add("Transpose", x, perm=order)

    def size(self, height: int, width: int) -> str:
        """The name of a height and width: of the image, or at a stride, as (n - 1) / stride + 1."""
        if self.traced is None:
            return self.integers([height, width])
        strides = {(n - 1) / (m - 1) for n, m in zip(self.traced, (height, width), strict=True)}
        stride = strides.pop()
        if strides or stride != int(stride):
            raise UserError("a size that does not follow from the image's")
        less = self.add("Sub", self.add("Shape", IMAGE, start=1, end=3), np.array(1))
        return self.add("Add", self.add("Div", less, np.array(int(stride))), np.array(1))

    def natural(self, x: Operand, rank: int) -> str:
        """x with its axes as JAX has them."""
        return self.arrange(self.place(x), layout(rank), range(rank))

    def laid_out(self, x: str, rank: int) -> str:
        """x, whose axes are as JAX has them, as it lies in the graph."""
        return self.arrange(x, range(rank), layout(rank))

    def tidy(self, output: str) -> None:
        """Leave out what `output` does not need, and give convolutions the sums behind them."""
        self._fuse_biases()
        needed, kept = {output}, list[onnx.NodeProto]()
        for node in reversed(self.nodes):
            if needed & {*node.output}:
                kept.insert(0, node)
                needed |= {*node.input} - {""}
        self.nodes = kept
        self.arrays = {name: array for name, array in self.arrays.items() if name in needed}
        there = {node.output[0] for node in kept}
        self.layers = {layer: name for layer, name in self.layers.items() if name in there}

    def _fuse_biases(self) -> None:
        readers = Counter(name for node in self.nodes for name in node.input)
        convs = {n.output[0]: n for n in self.nodes if n.op_type == "Conv" and len(n.input) == 2}
        for node in self.nodes:
            conv = convs.get(node.input[0]) if node.op_type == "Add" else None
            bias = self.arrays.get(node.input[1]) if conv else None
            if conv is None or bias is None or readers[conv.output[0]] > 1:
                continue
            if bias.shape == (1, len(self.arrays[conv.input[1]]), 1, 1):
                self.arrays[node.input[1]] = bias.reshape(-1)
                conv.input.append(node.input[1])
                conv.output[0] = node.output[0]  # and what summed is nobody's: the later one
                node.output[0] = ""

    def model(
        self, image: onnx.ValueInfoProto, output: onnx.ValueInfoProto, metadata: dict[str, str]
    ) -> onnx.ModelProto:
        """The graph as a file of ONNX, from `image` to `output`.

        Raises:
          UserError: it is larger than 2 GB, which no such file is.
        """
        if sum(array.nbytes for array in self.arrays.values()) > MOST_BYTES:
            raise UserError("the weights are above 2 GB, which an ONNX file cannot hold")
        arrays = [numpy_helper.from_array(array, name) for name, array in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "prediction", [image], [output], arrays)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="deeplab_jax",
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model
