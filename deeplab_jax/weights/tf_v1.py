"""TensorFlow's checkpoints of 2015 to 2017 (V1): tables that hold the values themselves.

"" -> what variables there are, and a key for each variable, or part of one, -> its values as
protobuf numbers (tensorflow/core/util/saved_tensor_slice.proto, core/framework/tensor.proto). What
is wrong is a ValueError.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_jax.weights.claims import MAX_BYTES, MAX_MEMBERS
from deeplab_jax.weights.tf_tables import (
    MAX_FIELDS,
    Message,
    number,
    parse,
    part,
    parts,
    read_table,
)
from deeplab_jax.weights.tf_tensors import (
    Place,
    Shape,
    assemble,
    check_parts,
    check_total,
    find_dtype,
    locate,
    part_shape,
    read_extents,
    read_shape,
)

PLAIN = {"f4": 5, "f8": 6, "c8": 9, "b1": 11}  # fields of TensorProto with values as they lie
STRINGS = 8
INT64, INTEGERS = 10, 7  # the latter for all shorter ones
MAX_PARTS = 1000  # of a variable
MAX_INTEGERS = 2**22  # of a variable: each is a number of its own length, slow to read

Types = dict[str, tuple[Shape, np.dtype]]
Pieces = dict[str, list[tuple[Place, np.ndarray]]]


def read_v1(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """All variables by name of a checkpoint in one file or several."""
    size = sum(file.stat().st_size for file in files)
    types: Types = {}
    pieces: Pieces = {}
    for file in files:
        with file.open("rb") as stream:
            if size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES >> 30} GB")
            table = read_table(stream)
            key, value = next(table, (None, memoryview(b"")))
            if key != b"":
                raise ValueError("it does not say what variables it has")
            for name, claim in read_types(value).items():
                if types.setdefault(name, claim) != claim:
                    raise ValueError(f"{name} is of another kind in another file")
            check_claims(types, size)
            for _, value in table:
                read_piece(value, types, pieces)
    arrays = {}
    for name, (shape, _) in sorted(types.items()):
        found = pieces.get(name, [])
        check_parts(name, shape, [where for where, _ in found])
        arrays[name] = assemble(name, shape, found)
    return arrays


def check_claims(types: Types, size: int) -> None:
    """Raise ValueError if the variables are larger than files of that size can say."""
    counts = [(math.prod(shape), dtype) for shape, dtype in types.values()]
    claimed = sum(count * dtype.itemsize for count, dtype in counts)
    strings = sum(count for count, dtype in counts if dtype.hasobject)
    check_total(claimed, 8 * size, strings)  # an integer of 8 bytes may take one there


def read_types(value: memoryview) -> Types:
    """Shape and type of each variable, from a SavedTensorSlices with `meta`."""
    types = {}
    for data in parts(parse(part(parse(value), 1), MAX_MEMBERS), 1):
        message = parse(data, MAX_PARTS)
        name = str(part(message, 1), "utf-8")
        types[name] = read_shape(part(message, 2)), find_dtype(number(message, 3), name)
    return types


def read_piece(value: memoryview, types: Types, pieces: Pieces) -> None:
    """Add the values in a SavedTensorSlices with `data` to those of their variable."""
    saved = parse(part(parse(value), 2))
    name = str(part(saved, 1), "utf-8")
    if name not in types:
        raise ValueError(f"{name} has values and no shape")
    shape, dtype = types[name]
    where = locate(read_extents(part(saved, 2)), shape)
    size = part_shape(where)
    count = math.prod(size)
    tensor = parse(part(saved, 3), MAX_FIELDS + (count if dtype.hasobject else 0))
    array = read_values(name, tensor, dtype, count)
    pieces.setdefault(name, []).append((where, array.reshape(size)))


def read_values(name: str, tensor: Message, dtype: np.dtype, count: int) -> np.ndarray:
    """So many values [count] of a TensorProto."""
    if dtype.hasobject:
        values: Any = np.empty(count, object)
        values[:] = [bytes(text) for text in parts(tensor, STRINGS)]
        return values
    field = PLAIN.get(dtype.str[1:], INT64 if dtype == np.int64 else INTEGERS)
    data = b"".join(parts(tensor, field))
    if dtype.kind == "b":
        values = np.frombuffer(data, np.uint8) != 0
    elif field in PLAIN.values():
        values = np.frombuffer(data, dtype).copy()
    elif dtype.kind in "iu":
        wide = read_integers(data)
        values = wide.astype(dtype)
        if (values != wide).any():
            raise ValueError(f"{name} has numbers that are no {dtype}")
    else:
        raise ValueError(f"{name} has type {dtype}, which TensorFlow cannot write so")
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} values in place of {count}")
    return values


def read_integers(data: bytes) -> np.ndarray:
    """Packed numbers of varying length, seven bits in a byte, the lowest first: int64 [n]."""
    content = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(content < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends + 1 - starts
    if len(ends) > MAX_INTEGERS or lengths.sum() != len(content) or (lengths > 10).any():
        raise ValueError(f"a number does not end, or there are more than {MAX_INTEGERS}")
    values = np.zeros(len(ends), np.uint64)
    for i in range(lengths.max(initial=0)):
        longer = lengths > i
        bits = content[starts[longer] + i].astype(np.uint64) & np.uint64(0x7F)
        values[longer] |= bits << np.uint64(7 * i)
    return values.view(np.int64)
