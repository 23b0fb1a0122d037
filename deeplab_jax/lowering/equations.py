"""What the equations of a jaxpr say, as the tables of every format read it.

Sizes are those of JAX; `BATCH` stands for any number of images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deeplab_jax.errors import UserError
from deeplab_jax.lowering.walk import BATCH, is_known


def rank_of(x: Any) -> int:
    """Of a variable of an equation."""
    return len(x.aval.shape)


def apply_rule(
    rules: Mapping[str, Callable[..., Any]], table: str, layer: str, name: str, *arguments: Any
) -> list[Any]:
    """What the rule for an operation, in a layer, makes of its arguments; `table` has the rules.

    A rule returns its result, or a list of several.

    Raises:
      UserError: it has none, or not for this form of it; with the layer.
    """
    try:
        if name not in rules:
            raise UserError(f"the operation {name!r} has no row in {table}: it cannot be exported")
        found = rules[name](*arguments)
    except UserError as error:
        raise UserError(f"{layer}: {error}") from error
    return found if isinstance(found, list) else [found]


def open_sizes(shape: Sequence[int]) -> list[int]:
    """A shape to bring an array to; -1: as many as there are images."""
    return [-1 if n % BATCH == 0 else n for n in shape]


def check_convolution(e: Any, table: str) -> None:
    """Raise UserError unless a convolution is of maps [b, h, w, c] by [kh, kw, in, out]."""
    d, ours = e.params["dimension_numbers"], ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    if (d.lhs_spec, d.rhs_spec, d.out_spec) != ours or set(e.params["lhs_dilation"]) != {1}:
        raise UserError(f"a convolution in a form that has no row in {table}")


def is_pixelwise(e: Any) -> bool:
    """Whether a product is that of a map's pixels by a matrix: a 1x1 convolution."""
    (sums_x, sums_y), _ = e.params["dimension_numbers"]
    return (*map(rank_of, e.invars), *sums_x, *sums_y) == (4, 2, 3, 0)


def terms_of_product(e: Any) -> tuple[str, str, str]:
    """A product in Einstein's notation: its operands and its result, a letter for each axis."""
    (sums_x, sums_y), (batch_x, batch_y) = e.params["dimension_numbers"]
    rank_x, rank_y = map(rank_of, e.invars)
    of_x = "abcdefghijkl"[:rank_x]
    shared = dict(zip((*sums_y, *batch_y), (*sums_x, *batch_x), strict=True))
    of_y = "".join(of_x[shared[i]] if i in shared else "mnopqrstuvwx"[i] for i in range(rank_y))
    free = [of_x[i] for i in range(rank_x) if i not in (*sums_x, *batch_x)]
    free += [of_y[i] for i in range(rank_y) if i not in shared]
    return of_x, of_y, "".join([*(of_x[i] for i in batch_x), *free])


def growth(e: Any) -> tuple[list[int], list[int]]:
    """A broadcast's operand with its new axes, of 1; and how often each axis is then repeated."""
    before, after = e.invars[0].aval.shape, e.params["shape"]
    ones = [1] * len(after)
    for axis, n in zip(e.params["broadcast_dimensions"], before, strict=True):
        ones[axis] = n
    return ones, [1 if n == have else n for n, have in zip(after, ones, strict=True)]


def parts(e: Any) -> tuple[slice, ...]:
    """What a slice takes of each axis; `slice(None)`: all."""
    shape, p = e.invars[0].aval.shape, e.params
    starts, ends, steps = p["start_indices"], p["limit_indices"], p["strides"] or (1,) * len(shape)
    cuts = list[slice]()
    for n, *cut in zip(shape, starts, ends, steps, strict=True):
        cuts.append(slice(None) if cut == [0, n, 1] else slice(*cut))
    return tuple(cuts)


def pick(which: Any, xs: Sequence[Any], table: str) -> Any:
    """One of xs by a condition that is known: files have no branches.

    Raises:
      UserError: it follows from the image.
    """
    if not is_known(which) or np.ndim(which):
        raise UserError(f"a choice by what is computed has no row in {table}")
    return xs[int(which)]
