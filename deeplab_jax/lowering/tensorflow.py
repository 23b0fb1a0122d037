"""A function of images as a function of TensorFlow, from which a TFLite file is converted."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import tensorflow as tf

from deeplab_jax.lowering import tensorflow_table
from deeplab_jax.lowering.equations import apply_rule
from deeplab_jax.lowering.walk import BATCH, IMAGE, Function, Walk


def lower(
    function: Function, image: jax.ShapeDtypeStruct, outputs: Sequence[str], *, layers: bool = False
) -> tuple[Any, list[str]]:
    """`function` of any number of such images [h, w, c], whose results are `outputs`.

    Returns a `ConcreteFunction` from `image` to a dictionary, and its layers by their names, in
    their order. `layers`: the dictionary has the last value of each.

    Raises:
      UserError: it has an operation without a rule, which is named.
    """
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((BATCH, *image.shape), image.dtype))
    last = dict[str, Any]()

    @tf.function(autograph=False)
    def compute(image: Any) -> dict[str, Any]:
        emit = partial(emit_operations, last)
        results = Walk(emit, tensorflow_table.RULES).through(traced, [image])
        return {**(last if layers else {}), **dict(zip(outputs, results, strict=True))}

    shape = (None, *image.shape)
    concrete = compute.get_concrete_function(tf.TensorSpec(shape, image.dtype, IMAGE))
    return concrete, [*last]


def emit_operations(
    last: dict[str, Any], layer: str, name: str, equation: Any, operands: list[Any]
) -> list[Any]:
    """What becomes of an equation: the operations that its rule in the table adds."""
    rules, table = tensorflow_table.RULES, tensorflow_table.__name__
    with tf.name_scope(re.sub(r"[^\w./-]", "_", layer) or "prediction"):
        results = apply_rule(rules, table, layer, name, equation, *operands)
    if layer:
        last.pop(layer, None)  # the order is that of the last values
        last[layer] = results[0]
    return results
