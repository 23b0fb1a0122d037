"""Arrays of a file into our variable tree, or one message about all that does not fit.

A format (`tf_names.py`, `timm.py`) is a table of slots: where its files keep each of our leaves.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from deeplab_jax.config import ModelConfig
from deeplab_jax.errors import UserError

Path = tuple[str, ...]  # ("params" | "batch_stats", module, ..., leaf)
SHOWN = 20  # names of a kind in a message


class Slot(NamedTuple):
    """Where a file keeps a leaf of ours, and how.

    `axes` are those of our array in the file's order; axes of length 1 may be left out.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape that the file's array must have."""
        return tuple(self.shape[axis] for axis in self.axes)

    def ours(self, array: np.ndarray) -> np.ndarray:
        """The file's array as ours, float32."""
        return as_float32(array).transpose(np.argsort(self.axes)).reshape(self.shape)


def as_float32(array: np.ndarray) -> np.ndarray:
    """The array as our variables are; what is too large for float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def fill(
    arrays: Mapping[str, np.ndarray],
    slots: Mapping[Path, Slot],
    config: ModelConfig,
    skip: Collection[str] = (),
) -> dict[str, Any]:
    """Our variables from a file's arrays, without the top-level modules `skip` ("logits").

    Raises:
      UserError: an array is missing or has another shape: every such name is listed with its
        shapes, and those that have no place in the network; or one is not finite.
    """
    wanted = {path: slot for path, slot in slots.items() if path[1] not in skip}
    missing = [path for path, slot in wanted.items() if slot.name not in arrays]
    wrong = [
        path
        for path, slot in wanted.items()
        if slot.name in arrays and arrays[slot.name].shape != slot.file_shape
    ]
    if missing or wrong:
        raise UserError(report(arrays, slots, missing, wrong, config))
    flat = {path: slot.ours(arrays[slot.name]) for path, slot in wanted.items()}
    check_finite({slot.name: flat[path] for path, slot in wanted.items()}, "the weights")
    tree: dict[str, Any] = unflatten_dict(flat)
    return tree


def check_finite(arrays: Mapping[str, np.ndarray], where: object) -> None:
    """Raise UserError, naming `where` and the arrays, if one holds NaN or infinity as float32."""
    counts = {name: array.size - int(np.isfinite(array).sum()) for name, array in arrays.items()}
    bad = [f"{name}: {n} of {arrays[name].size}" for name, n in sorted(counts.items()) if n]
    if bad:
        lines = [f"{where}: values that are not finite (NaN, infinity, above 3e38):"]
        lines += [f"  {line}" for line in shorten(bad)]
        raise UserError("\n".join([*lines, "Is the file damaged, or did its training diverge?"]))


def unused(arrays: Mapping[str, np.ndarray], slots: Mapping[Path, Slot]) -> list[str]:
    """Arrays that no slot takes, with their shapes; PyTorch's counts of batches are no weights."""
    names = set(arrays) - {slot.name for slot in slots.values()}
    names = {name for name in names if not name.endswith(".num_batches_tracked")}
    return [f"{name} {list(arrays[name].shape)}" for name in sorted(names)]


def report(
    arrays: Mapping[str, np.ndarray],
    slots: Mapping[Path, Slot],
    missing: list[Path],
    wrong: list[Path],
    config: ModelConfig,
) -> str:
    """What does not fit, and what to do."""
    sections = {
        "missing": [f"{slots[p].name} {list(slots[p].file_shape)}" for p in missing],
        "wrong shape": [
            f"{slot.name}: file {list(arrays[slot.name].shape)}, model {list(slot.file_shape)}"
            for slot in (slots[path] for path in wrong)
        ],
        "without a place in the network": unused(arrays, slots),
    }
    lines = [f"the arrays do not fit {config.backbone} with head {config.head}:"]
    for title, names in sections.items():
        if names:
            lines += [f"  {title} ({len(names)}):", *(f"    {n}" for n in shorten(names))]
    return "\n".join([*lines, "  " + advice({path[1] for path in (*missing, *wrong)})])


def advice(modules: set[str]) -> str:
    """What to do when these top-level modules do not fit."""
    if modules == {"logits"}:
        return (
            "Another number of classes? Keep the file's by --model.num_classes, or start the last"
            " layer afresh with --fresh-logits."
        )
    if "backbone" in modules:
        return "Does the model's configuration (backbone, head, width) match the file?"
    return (
        "The backbone fits: take it alone with --backbone-only, or does the rest of the"
        " configuration (head, rates, decoder) match the file?"
    )


def shorten(names: list[str]) -> list[str]:
    """The first names, and how many more there are."""
    more = len(names) - SHOWN
    return [*names[:SHOWN], *([f"... and {more} more"] if more > 0 else [])]
