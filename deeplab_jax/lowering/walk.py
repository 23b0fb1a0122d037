"""The walk through what a function computes: each operation once, in its order.

A network is defined once, in `models/`. JAX traces it to a jaxpr, a list of primitive operations,
and whoever walks through it says what becomes of each: nodes of a graph, or values (`lower.py`).
What follows from the weights alone is computed on the way, so that BatchNorm is folded as the
network itself folds it.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from deeplab_jax.errors import UserError

IMAGE = "image"  # the name of an exported file's input
# The number of images in what is walked through, where any number is meant: a prime that no other
# size has. (With JAX's symbolic sizes a slice becomes a gather.)
BATCH = 1_000_003
Function = Callable[[Array], Array]
# What is known of the weights in NumPy: JAX would compile each operation for each shape.
NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "mul": np.multiply,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sub": np.subtract,
}


class Walk(NamedTuple):
    """What is done with equations that are not known: `emit`, to one at a time.

    It takes the layer, the operation's name, the equation and its operands, and returns the
    results. `whole`: functions inside that are one operation, such as "jit relu".
    """

    emit: Callable[[str, str, Any, list[Any]], list[Any]]
    whole: Container[str] = ()

    def through(
        self, jaxpr: ClosedJaxpr | Jaxpr, operands: Sequence[Any], layer: str = ""
    ) -> list[Any]:
        """Walk through the equations of a jaxpr, which `layer` calls; returns its results.

        Loops are unrolled. Of an operation's forms by platform the default is taken, which is the
        plain one (`ops/dispatch.py`), whatever the host.
        """
        consts = jaxpr.consts if isinstance(jaxpr, ClosedJaxpr) else []
        inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
        values = dict(zip([*inner.constvars, *inner.invars], [*consts, *operands], strict=True))

        def read(x: Any) -> Any:
            literal = isinstance(x, Literal)
            return as_half(np.asarray(x.val, dtype_of(x))) if literal else values[x]

        for equation in inner.eqns:
            scope = "/".join(filter(None, (layer, str(equation.source_info.name_stack))))
            results = self.apply(equation, [read(x) for x in equation.invars], scope)
            values.update(zip(equation.outvars, results, strict=True))
        return [read(x) for x in inner.outvars]

    def apply(self, equation: Any, operands: list[Any], layer: str) -> list[Any]:
        """The results of one equation."""
        name, p = equation.primitive.name, equation.params
        if name == "platform_index":
            return [np.int32(len(p["platforms"]) - 1)]
        if name == "cond" and is_known(operands[0]):
            return self.through(p["branches"][int(operands[0])], operands[1:], layer)
        if name == "scan":
            return self.unroll(p, operands, layer)
        inner = p.get("jaxpr") or p.get("call_jaxpr")
        known = all(map(is_known, operands))
        called = f"{name} {p['name']}" if inner and "name" in p else name
        if inner and (known or called not in self.whole):
            return self.through(inner, operands, layer)
        return fold(equation, operands) if known else self.emit(layer, called, equation, operands)

    def unroll(self, p: dict[str, Any], operands: list[Any], layer: str) -> list[Any]:
        """A loop as its rounds one after the other: mirror images."""
        consts, carry = carried_by(p)
        values, rows = operands[consts : consts + carry], operands[consts + carry :]
        steps = list[list[Any]]()
        if p["reverse"] or not all(map(is_known, rows)):
            raise UserError(f"{layer}: a loop over what is computed cannot be unrolled")
        for i in range(p["length"]):
            inputs = [*operands[:consts], *values, *(row[i] for row in rows)]
            results = self.through(p["jaxpr"], inputs, layer)
            values, step = results[:carry], results[carry:]
            steps.append(step)
        stacked = list[Any]()
        for parts in zip(*steps, strict=True):
            known = all(map(is_known, parts))
            stacked += [np.stack(parts)] if known else self.emit(layer, "stack", None, list(parts))
        return [*values, *stacked]


def carried_by(p: dict[str, Any]) -> tuple[int, int]:
    """How many constants a loop has, and how many values each round hands to the next."""
    if "ft_in" in p:  # since JAX 0.12
        consts, carry, _ = map(len, p["ft_in"].unpack())
        return consts, carry
    return p["num_consts"], p["num_carry"]


def is_known(x: Any) -> bool:
    """Whether an operand is an array: it does not follow from the image."""
    return isinstance(x, np.ndarray | np.generic | jax.Array)


def dtype_of(x: Any) -> Any:
    """Of a variable of an equation."""
    return x.aval.dtype


def as_half(x: np.ndarray) -> np.ndarray:
    """float16 for bfloat16, which exported files have in its place."""
    return x.astype(np.float16) if x.dtype == jnp.bfloat16 else x


def fold(equation: Any, operands: list[Any]) -> list[Any]:
    """The results of an equation all of whose operands are known."""
    name, p = equation.primitive.name, equation.params
    if name in NUMPY:
        return [NUMPY[name](*map(np.asarray, operands))]
    if name == "stack":
        return [np.stack(operands, p["axis"])]
    if name == "convert_element_type":
        half = p["new_dtype"] == jnp.bfloat16
        return [np.asarray(operands[0]).astype(np.float16 if half else p["new_dtype"])]
    if name == "broadcast_in_dim" and np.ndim(operands[0]) > 0:
        shape = np.ones(len(p["shape"]), int)
        shape[[*p["broadcast_dimensions"]]] = np.shape(operands[0])
        array = np.reshape(operands[0], shape)
        # For each image: whoever reads it repeats it.
        return [array if BATCH in p["shape"] else np.broadcast_to(array, p["shape"])]
    results = equation.primitive.bind(*operands, **p)
    return list(results) if equation.primitive.multiple_results else [results]


class Live(NamedTuple):
    """An array that follows from the image."""

    array: Any


def each_layer(function: Function, image: np.ndarray) -> dict[str, np.ndarray]:
    """The last value of each layer of `function` for images [b, h, w, c], by its plain forms."""
    layers: dict[str, np.ndarray] = {}

    def compute(layer: str, name: str, equation: Any, operands: list[Any]) -> list[Any]:
        arrays = [x if is_known(x) else x.array for x in operands]
        results = equation.primitive.bind(*arrays, **equation.params)
        results = results if equation.primitive.multiple_results else [results]
        layers[layer] = np.asarray(results[0])
        return [Live(x) for x in results]

    Walk(compute).through(jax.make_jaxpr(function)(image), [Live(image)])
    return layers
