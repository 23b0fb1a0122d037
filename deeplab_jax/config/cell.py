"""Dense prediction cells in the official JSON language (arXiv 1809.04184)."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from deeplab_jax.config.checks import check_fields, limited
from deeplab_jax.config.values import from_value
from deeplab_jax.errors import UserError

Pair = tuple[int, int]


def pair_field(most: int) -> Pair:
    """A field of a number for height and one for width, 1 by default."""
    allowed = f"two numbers from 1 to {most}, for height and width"
    pair: Pair = limited((1, 1), allowed, lambda p: all(1 <= n <= most for n in p))
    return pair


@dataclass(frozen=True)
class Branch:
    """An operation of a cell: a separable or a 1x1 convolution, or the pooled features."""

    op: Literal["conv", "pyramid_pooling"] = "conv"
    input: int = limited(-1, "an earlier branch, or -1: the features", lambda i: i >= -1)
    kernel: Pair = pair_field(7)
    rate: Pair = pair_field(256)
    """At output stride 16: twice as much at 8."""
    grid_size: Pair = pair_field(64)
    """Of pyramid_pooling: how often its window fits into the features, in height and width."""

    def __post_init__(self) -> None:
        check_fields(self, "model.dense_prediction_cell")


Cell = tuple[Branch, ...]


def read_cell(value: Any, where: str) -> Cell:
    """A cell from the official JSON, as text or as what it holds; a kernel may be one number.

    Raises:
      UserError: it is no cell.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except (ValueError, RecursionError) as e:
            raise UserError(f"{where} = {value!r:.80}: expected a JSON list ({e})") from e
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} = {value!r:.80}: expected a list of branches")
    cell: Cell = from_value(tuple[Branch, ...], [_with_pairs(branch) for branch in value], where)
    return cell


def _with_pairs(branch: Any) -> Any:
    kernel = branch.get("kernel") if isinstance(branch, dict) else None
    return {**branch, "kernel": [kernel, kernel]} if type(kernel) is int else branch
