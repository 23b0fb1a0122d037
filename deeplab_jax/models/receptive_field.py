"""Receptive fields, read from a traced network: which rows of the image a feature map's rows see.

A convolution says which rows of its input each of its rows reads. In the program, `mark` names its
input and its output; from mark to mark a row's view of the image passes unchanged, but for sums and
concatenations, pooling, strided slices and resizing. Rows stand for columns too: kernels are
square.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

MARK = "receptive field "  # before the names that `mark` gives


class View(NamedTuple):
    """First and last row of the image that each row of a feature map sees: int [height] each."""

    first: np.ndarray
    last: np.ndarray

    def through(self, reads: np.ndarray) -> "View":
        """The view of a map each of whose rows reads some rows of this one: int [height', k]."""
        return View(self.first[reads].min(axis=1), self.last[reads].max(axis=1))

    def at(self, height: int) -> "View":
        """The view when the map was resized, or pooled to a grid, on the way to where it is read.

        What is pooled counts as seeing everything.
        """
        n = len(self.first)
        if height < n:
            return self.through(np.tile([0, n - 1], (height, 1)))
        position, step = np.arange(height) * (n - 1), max(height - 1, 1)
        return self.through(np.stack([position // step, -(-position // step)], axis=1))


def window(n_in: int, n_out: int, size: int, stride: int, rate: int, before: int) -> np.ndarray:
    """The rows that a sliding window reads, `before` rows being padded: int [n_out, size]."""
    rows = np.arange(n_out)[:, None] * stride - before + np.arange(size) * rate
    return rows.clip(0, n_in - 1)


def mark(x: Array, convolution: int, side: Literal["in", "out"]) -> Array:
    """x [b, h, w, c] unchanged, named in the program as a convolution's input or output."""
    return checkpoint_name(x, f"{MARK}{convolution} {side}")


def receptive_fields(
    program: core.ClosedJaxpr, height: int, reads: Sequence[np.ndarray]
) -> list[int | None]:
    """The most rows of the image that a row of each marked convolution's output sees; None: all.

    The last argument of `program` is the image [b, height, w, c], which should be higher than any
    receptive field; `reads[i]` are the rows that convolution i reads of its input, int [h, k].
    """
    rows = np.arange(height)
    views = {program.jaxpr.invars[-1]: View(rows, rows)}
    inputs: dict[str, View] = {}
    fields: list[int | None] = []
    for eqn in program.jaxpr.eqns:
        seen = [views[v] for v in eqn.invars if not isinstance(v, core.Literal) and v in views]
        if not seen:  # made of parameters alone
            continue
        view = pass_through(eqn, seen)
        if eqn.primitive.name == "name" and eqn.params["name"].startswith(MARK):
            i, side = eqn.params["name"].removeprefix(MARK).split()
            if side == "in":
                inputs[i] = view
            else:
                view = inputs[i].through(reads[int(i)])
                most = int((view.last - view.first).max()) + 1
                fields.append(most if most < height else None)
        views[eqn.outvars[0]] = view
    return fields


def pass_through(eqn: Any, seen: Sequence[View]) -> View:
    """The view of an operation's output from those of its inputs."""
    kind, p = eqn.primitive.name, eqn.params
    given, made = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if len(given) != 4 or len(made) != 4:  # inside a matrix product; the next sum or mark tells
        return seen[0]
    n_in, n_out = given[1], made[1]
    if kind in ("reduce_window_max", "reduce_window_sum"):
        size, stride, pads = (p[k][1] for k in ("window_dimensions", "window_strides", "padding"))
        return seen[0].at(n_in).through(window(n_in, n_out, size, stride, 1, pads[0]))
    if kind == "slice":
        stride = p["strides"][1] if p["strides"] else 1
        start = p["start_indices"][1]
        return seen[0].at(n_in).through(window(n_in, n_out, 1, stride, 1, -start))
    if len(seen) == 1 and kind != "name":
        return seen[0]
    fitted = [view.at(n_out) for view in seen]
    return View(
        np.min([view.first for view in fitted], axis=0),
        np.max([view.last for view in fitted], axis=0),
    )
