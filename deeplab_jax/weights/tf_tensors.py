"""What both kinds of TensorFlow's checkpoints say of a variable: type, shape, and its parts.

The messages: tensorflow/core/framework/{types,tensor_shape,tensor_slice}.proto. What is wrong is a
ValueError.
"""

import math
from collections.abc import Iterable, Sequence

import ml_dtypes
import numpy as np

from deeplab_jax.weights.claims import MAX_BYTES
from deeplab_jax.weights.tf_tables import number, parse, parts

STRING = 7
# TensorFlow's numbers of the types that variables have.
DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    STRING: np.dtype(object),  # of bytes
    8: np.dtype("<c8"),
    9: np.dtype("<i8"),
    10: np.dtype(bool),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype("<u2"),
    18: np.dtype("<c16"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
MAX_STRINGS = 2**17  # in a checkpoint: Python's own objects are many times larger than a byte

Shape = tuple[int, ...]
Extents = tuple[tuple[int, int], ...]  # of a part: start and length on each axis; length -1: all
Place = tuple[slice, ...]  # of a part, as NumPy's indices


def find_dtype(code: int, name: str) -> np.dtype:
    """NumPy's type for TensorFlow's number of it."""
    if code not in DTYPES:
        raise ValueError(f"{name} has TensorFlow's type {code}, which no weights have")
    return DTYPES[code]


def read_shape(data: memoryview) -> Shape:
    """The shape in a TensorShapeProto."""
    message = parse(data)
    shape = tuple(number(parse(axis), 1) for axis in parts(message, 2))
    if number(message, 3) or any(size < 0 for size in shape):
        raise ValueError(f"a shape is not known: {list(shape)}")
    return shape


def read_extents(data: memoryview) -> Extents:
    """The place of a part in a TensorSliceProto."""
    axes = [parse(axis) for axis in parts(parse(data), 1)]
    return tuple((number(axis, 1), number(axis, 2) if 2 in axis else -1) for axis in axes)


def locate(extents: Extents, shape: Shape) -> Place:
    """The place of a part in the whole; without extents it is the whole."""
    extents = extents or ((0, -1),) * len(shape)
    where = [
        slice(start, start + length if length >= 0 else size)
        for (start, length), size in zip(extents, shape, strict=True)
    ]
    if any(not 0 <= w.start <= w.stop <= size for w, size in zip(where, shape, strict=True)):
        raise ValueError(f"a part at {list(extents)} is not inside {list(shape)}")
    return tuple(where)


def part_shape(where: Sequence[slice]) -> Shape:
    """The shape of a part from its place."""
    return tuple(w.stop - w.start for w in where)


def check_total(claimed: int, limit: int, strings: int) -> None:
    """Raise ValueError if all variables together are larger than that, or than is allowed."""
    limit = min(limit, MAX_BYTES)
    if claimed > limit:
        raise ValueError(f"its variables claim {claimed} bytes of {limit}")
    if strings > MAX_STRINGS:
        raise ValueError(f"it has more than {MAX_STRINGS} strings")


def check_parts(name: str, shape: Shape, places: Iterable[Sequence[slice]]) -> None:
    """Raise ValueError unless the parts have as many values as the whole."""
    if sum(math.prod(part_shape(where)) for where in places) != math.prod(shape):
        raise ValueError(f"{name}: its parts do not make up the whole, {list(shape)}")


def assemble(name: str, shape: Shape, pieces: Sequence[tuple[Place, np.ndarray]]) -> np.ndarray:
    """The whole from its parts, which must not overlap; they were counted (`check_parts`)."""
    if len(pieces) == 1:
        return pieces[0][1]
    whole, covered = np.empty(shape, pieces[0][1].dtype), np.zeros(shape, bool)
    for where, array in pieces:
        if covered[where].any():
            raise ValueError(f"{name}: its parts overlap")
        whole[where], covered[where] = array, True
    return whole
