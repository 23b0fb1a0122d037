"""TensorFlow's checkpoints of today (V2): PREFIX.index, and PREFIX.data-00000-of-00001, ...

The index is a table: "" -> BundleHeaderProto, and the name of each variable -> BundleEntryProto,
which says where in which data file it lies (tensorflow/core/protobuf/tensor_bundle.proto and
core/util/tensor_bundle/tensor_bundle.cc). What is wrong is a ValueError.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeplab_jax.weights.claims import MAX_MEMBERS
from deeplab_jax.weights.crc32c import masked_crc32c
from deeplab_jax.weights.tf_tables import number, parse, part, parts, read_table, read_varint, take
from deeplab_jax.weights.tf_tensors import (
    Extents,
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

MAX_INDEX_BYTES = 2**23  # 5000 variables take half a megabyte


class Entry(NamedTuple):
    """A variable, or a part of one: where it lies. With `slices` it lies in parts."""

    dtype: int  # TensorFlow's number
    shape: Shape
    shard: int
    offset: int  # in bytes, in the shard's file
    size: int  # in bytes
    checksum: int
    slices: tuple[Extents, ...]


Pieces = list[tuple[Place, Entry]]  # of a variable: one, or its parts


def read_bundle(prefix: Path) -> dict[str, np.ndarray]:
    """All variables by name, in alphabetical order."""
    shards, entries = read_index(Path(f"{prefix}.index"))
    wholes = {key.decode(): entry for key, entry in entries.items() if key[:1] != b"\0"}
    pieces = {name: find_pieces(name, entry, entries) for name, entry in wholes.items()}
    used = {entry.shard for name in pieces for _, entry in pieces[name]}
    if any(not 0 <= shard < shards for shard in used):
        raise ValueError(f"a variable lies in a data file beyond the {shards} there are")
    files = {n: Path(f"{prefix}.data-{n:05}-of-{shards:05}") for n in used}
    check_claims(pieces, {n: file.stat().st_size for n, file in files.items()})
    arrays = {}
    for name, entry in wholes.items():
        read = [(where, read_values(name, files[e.shard], e)) for where, e in pieces[name]]
        arrays[name] = assemble(name, entry.shape, read)
    return arrays


def read_index(file: Path) -> tuple[int, dict[bytes, Entry]]:
    """How many data files there are, and the entries by key, of whole variables and of parts."""
    if file.stat().st_size > MAX_INDEX_BYTES:
        raise ValueError(f"its index has more than {MAX_INDEX_BYTES >> 20} MB")
    with file.open("rb") as stream:
        table = read_table(stream)
        key, value = next(table, (None, memoryview(b"")))
        header = parse(value)
        if key != b"" or number(header, 2):
            raise ValueError("it has no header, or that of a big-endian machine")
        return number(header, 1), {key: read_entry(value) for key, value in table}


def read_entry(value: memoryview) -> Entry:
    """A BundleEntryProto."""
    message = parse(value, MAX_MEMBERS)
    dtype, shard, offset, size, checksum = (number(message, field) for field in (1, 3, 4, 5, 6))
    slices = tuple(read_extents(data) for data in parts(message, 7))
    return Entry(dtype, read_shape(part(message, 2)), shard, offset, size, checksum, slices)


def find_pieces(name: str, whole: Entry, entries: Mapping[bytes, Entry]) -> Pieces:
    """The entries of a variable's values, with the place of each."""
    if not whole.slices:
        return [(locate((), whole.shape), whole)]
    pieces = []
    for extents in whole.slices:
        where, entry = locate(extents, whole.shape), entries.get(slice_key(name, extents))
        if entry is None:
            raise ValueError(f"{name}: its part at {list(extents)} is missing")
        if entry.dtype != whole.dtype or entry.shape != part_shape(where) or entry.slices:
            raise ValueError(f"{name}: its part at {list(extents)} is of another kind")
        pieces.append((where, entry))
    check_parts(name, whole.shape, [where for where, _ in pieces])
    return pieces


def slice_key(name: str, extents: Extents) -> bytes:
    """The key of a part (core/util/saved_tensor_slice_util.cc); no name has a NUL to escape."""
    numbers = b"".join(ordered(value) for extent in extents for value in extent)
    axes = bytes([1, len(extents)]) if extents else b"\0"
    return b"\0" + name.encode() + b"\0\1" + axes + numbers


def ordered(value: int) -> bytes:
    """A signed number in bytes that sort like it (core/lib/strings/ordered_code.cc).

    n bytes of two's complement, the highest first, whose first n bits are inverted: they would all
    be copies of the sign.
    """
    size = (value if value >= 0 else ~value).bit_length() // 7 + 1
    inverted = (2**size - 1) << 7 * size
    return (value % 2 ** (8 * size) ^ inverted).to_bytes(size, "big")


def check_claims(pieces: Mapping[str, Pieces], lengths: Mapping[int, int]) -> None:
    """Raise ValueError unless entries lie in their files, each of the size of its shape."""
    claimed = strings = 0
    for name, entry in [(name, entry) for name, found in pieces.items() for _, entry in found]:
        count, dtype = math.prod(entry.shape), find_dtype(entry.dtype, name)
        if not 0 <= entry.offset <= entry.offset + entry.size <= lengths[entry.shard]:
            raise ValueError(f"{name} goes beyond the end of its data file")
        if not dtype.hasobject and count * dtype.itemsize != entry.size:
            raise ValueError(f"{name} claims {dtype} {list(entry.shape)}, which is not its size")
        claimed += entry.size
        strings += count if dtype.hasobject else 0
    check_total(claimed, sum(lengths.values()), strings)


def read_values(name: str, file: Path, entry: Entry) -> np.ndarray:
    """The values of an entry that was checked, of its shape."""
    data = np.fromfile(file, np.uint8, entry.size, offset=entry.offset)
    dtype = find_dtype(entry.dtype, name)
    if dtype.hasobject:
        return read_strings(name, data.data, entry)
    if masked_crc32c(data.data) != entry.checksum:
        raise ValueError(f"{name}: its checksum is wrong")
    # A byte that is neither 0 nor 1 would be no bool that NumPy knows.
    return (data != 0 if dtype.kind == "b" else data.view(dtype)).reshape(entry.shape)


def read_strings(name: str, data: memoryview, entry: Entry) -> np.ndarray:
    """Strings: their lengths, the lengths' checksum, and then their bytes."""
    at, lengths = 0, []
    for _ in range(math.prod(entry.shape)):
        length, at = read_varint(data, at)
        lengths.append(length)
    if at + 4 + sum(lengths) != len(data):
        raise ValueError(f"{name}: its strings are not as long as they say")
    # The checksums are those of the lengths as 32-bit numbers, not as they are written.
    numbers = np.array(lengths, "<u4").tobytes()
    checksum, at = data[at : at + 4], at + 4
    right = masked_crc32c(numbers) == int.from_bytes(checksum, "little")
    if not right or masked_crc32c(numbers + bytes(data[at - 4 :])) != entry.checksum:
        raise ValueError(f"{name}: its checksum is wrong")
    strings = np.empty(len(lengths), object)
    for i, length in enumerate(lengths):
        strings[i], at = bytes(take(data, at, length)), at + length
    return strings.reshape(entry.shape)
