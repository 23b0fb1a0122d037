"""Arrays of a file into our variable tree, or one message about all that does not fit.

A format (`files.py`, `tf_names.py`, `torch_names.py`) is a table of slots: where its files keep
each leaf.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from deeplab_jax.config import ModelConfig
from deeplab_jax.errors import UserError
from deeplab_jax.models.heads import class_layers

Path = tuple[str, ...]  # ("params" | "batch_stats", module, ..., leaf)
Shape = tuple[int, ...]
SHOWN = 20  # names of a kind in a message


class Slot(NamedTuple):
    """Where a file keeps a leaf of ours: under what name, and how.

    `axes` are those of our array in the file's order; axes of length 1 may be left out.
    """

    name: str
    shape: Shape
    axes: Shape

    @property
    def file_shape(self) -> Shape:
        """The shape that the file's array must have."""
        return tuple(self.shape[axis] for axis in self.axes)

    def to_leaf(self, array: np.ndarray) -> np.ndarray:
        """The file's array as ours, float32; what is too large for that becomes infinite."""
        with np.errstate(over="ignore"):
            floats = np.asarray(array, np.float32)
        return floats.transpose(np.argsort(self.axes)).reshape(self.shape)


def fill(
    arrays: Mapping[str, np.ndarray],
    slots: Mapping[Path, Slot],
    config: ModelConfig,
    *,
    where: object = "the file",
    skip: Collection[str] = (),
) -> dict[str, Any]:
    """Our variables from a file's arrays, without the top-level modules `skip` ("logits").

    Raises:
      UserError: the arrays do not fit (`check_fit`), or one is not finite.
    """
    slots = {path: slot for path, slot in slots.items() if path[1] not in skip}
    check_fit({name: array.shape for name, array in arrays.items()}, slots, config, where=where)
    leaves = {path: slot.to_leaf(arrays[slot.name]) for path, slot in slots.items()}
    bad = {path: leaf.size - int(np.isfinite(leaf).sum()) for path, leaf in leaves.items()}
    names = [f"{slots[path].name}: {n} of {leaves[path].size}" for path, n in bad.items() if n]
    if names:
        kind = "values that are not finite (NaN, infinity, above 3e38), as of a damaged file"
        raise UserError("\n".join([f"{where}: {kind}", *shorten(names)]))
    tree: dict[str, Any] = unflatten_dict(leaves)
    return tree


def check_fit(
    shapes: Mapping[str, Shape],
    slots: Mapping[Path, Slot],
    config: ModelConfig,
    *,
    where: object,
    advice: str = "",
) -> None:
    """Raise UserError if an array of a file is missing or has another shape: with all such names.

    With `advice`, which ends the message, also if an array has no place in the network.
    """
    wrong = {path: slot for path, slot in slots.items() if shapes.get(slot.name) != slot.file_shape}
    unused = find_unused(shapes, {slot.name for slot in slots.values()})
    if not wrong and not (advice and unused):
        return
    shown = {name: list(shape) for name, shape in shapes.items()}
    misfits = [
        f"{slot.name}: file {shown.get(slot.name, 'has none')}, model {list(slot.file_shape)}"
        for slot in wrong.values()
    ]
    lines = [f"{where}: the arrays do not fit {config.backbone} with head {config.head}:"]
    for kind, names in (("missing or of another shape", misfits), ("without a place", unused)):
        lines += [f"  {kind} ({len(names)}):", *shorten(names)] if names else []
    advice = advice or advise({path[1] for path in wrong}, config)
    raise UserError("\n".join([*lines, f"  {advice}"]))


def find_unused(shapes: Mapping[str, Shape], names: Collection[str]) -> list[str]:
    """The arrays other than `names`, with shapes; PyTorch's counts of batches are no weights."""
    left = {name for name in shapes if not name.endswith(".num_batches_tracked")} - set(names)
    return [f"{name} {list(shapes[name])}" for name in sorted(left)]


def shorten(names: list[str]) -> list[str]:
    """The first names, indented, and how many more there are."""
    more = [f"... and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"    {name}" for name in [*names[:SHOWN], *more]]


def advise(modules: Collection[str], config: ModelConfig) -> str:
    """What to do when these top-level modules do not fit."""
    if set(modules) <= set(class_layers(config)):
        return "Keep the file's classes by --model.num_classes, or start anew by --fresh-logits."
    if "backbone" in modules:
        return "Does the model's configuration (backbone, head, width) match the file?"
    return "Do head, rates and decoder match the file? --backbone-only takes the backbone alone."
