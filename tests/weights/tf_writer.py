"""Checkpoints as TensorFlow writes them, in a few lines: V2 bundles and V1 files."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from deeplab_jax.weights.crc32c import masked_crc32c

MAGIC = bytes.fromhex("57fb808b247547db")
CODES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "object": 7,
    "complex64": 8,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "float16": 19,
}
V1_FIELDS = {"float32": 5, "float64": 6, "int32": 7, "uint8": 7, "int64": 10, "bool": 11}
Entries = Mapping[bytes, bytes]


def varint(value: int) -> bytes:
    value %= 2**64
    more = b""
    while value >= 0x80:
        more += bytes([value & 0x7F | 0x80])
        value >>= 7
    return more + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def unchanged(data: bytes) -> bytes:
    return data


def table(
    entries: Entries,
    size: int = 4096,
    change: Callable[[bytes], bytes] = unchanged,
    packed: int = 0,
) -> bytes:
    """A table of blocks of about `size` bytes; `change` is done to each before its checksum."""
    items, file, index = sorted(entries.items()), b"", []

    def add(content: bytes) -> bytes:
        nonlocal file
        content = change(content) + bytes([packed])
        handle = varint(len(file)) + varint(len(content) - 1)
        file += content + masked_crc32c(content).to_bytes(4, "little")
        return handle

    while items:
        count = 1
        while count < len(items) and sum(len(k) + len(v) for k, v in items[:count]) < size:
            count += 1
        index.append((items[count - 1][0], add(block(items[:count]))))
        items = items[count:]
    handles = add(block([])) + add(block(index))
    return file + handles.ljust(40, b"\0") + MAGIC


def block(items: list[tuple[bytes, bytes]]) -> bytes:
    """Entries with shared beginnings left out, whole at each sixteenth, and where these are."""
    data, restarts, last = b"", [0], b""
    for i, (key, value) in enumerate(items):
        shared = 0
        if i % 16:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        elif i:
            restarts.append(len(data))
        data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        data, last = data + key[shared:] + value, key
    return data + b"".join(n.to_bytes(4, "little") for n in [*restarts, len(restarts)])


def shape_field(number: int, shape: tuple[int, ...]) -> bytes:
    return field(number, b"".join(field(2, field(1, size)) for size in shape))


def entry(
    array: np.ndarray, *, shard: int = 0, offset: int = 0, data: bytes = b"", checksum: int = 0
) -> bytes:
    """A BundleEntryProto."""
    message = field(1, CODES[array.dtype.name]) + shape_field(2, array.shape)
    message += field(3, shard) + field(4, offset) + field(5, len(data))
    return message + varint(6 << 3 | 5) + checksum.to_bytes(4, "little")


def stored(array: np.ndarray) -> tuple[bytes, int]:
    """The bytes of an array in a data file, and their checksum."""
    if array.dtype != object:
        return array.tobytes(), masked_crc32c(array.tobytes())
    texts = [bytes(text) for text in array.ravel()]
    numbers = np.array([len(text) for text in texts], "<u4").tobytes()
    rest = masked_crc32c(numbers).to_bytes(4, "little") + b"".join(texts)
    return b"".join(varint(len(text)) for text in texts) + rest, masked_crc32c(numbers + rest)


def bundle(
    arrays: Mapping[str, np.ndarray], shards: int = 1, parts: Mapping[str, int] | None = None
) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Entries of the index, and the data files; `parts`: in how many along axis 0 a name lies.

    Such parts are of one row, but for the last, so that they fit in a byte of the key's code.
    """
    entries = {b"": field(1, shards) + field(3, field(1, 1))}
    files = [b""] * shards

    def put(key: bytes, array: np.ndarray) -> None:
        shard = len(entries) % shards
        data, checksum = stored(array)
        where = {"shard": shard, "offset": len(files[shard])}
        entries[key] = entry(array, data=data, checksum=checksum, **where)
        files[shard] += data

    for name, array in arrays.items():
        count = (parts or {}).get(name, 0)
        if not count:
            put(name.encode(), array)
            continue
        whole = field(1, CODES[array.dtype.name]) + shape_field(2, array.shape)
        for row in range(count):
            stop = row + 1 if row + 1 < count else len(array)
            place = [(row, stop - row), *((0, size) for size in array.shape[1:])]
            code = bytes(0x80 | number for extent in place for number in extent)
            key = b"\0" + name.encode() + b"\0\1\1" + bytes([array.ndim]) + code
            put(key, array[row:stop])
            extents = b"".join(field(1, field(1, start) + field(2, n)) for start, n in place)
            whole += field(7, extents)
        entries[name.encode()] = whole
    return entries, files


def write_files(prefix: Path, index: bytes, files: list[bytes]) -> None:
    Path(f"{prefix}.index").write_bytes(index)
    for i, data in enumerate(files):
        Path(f"{prefix}.data-{i:05}-of-{len(files):05}").write_bytes(data)


def write_bundle(prefix: Path, arrays: Mapping[str, np.ndarray], **how: Any) -> None:
    entries, files = bundle(arrays, **how)
    write_files(prefix, table(entries), files)


def v1_entries(arrays: Mapping[str, np.ndarray]) -> dict[bytes, bytes]:
    """The entries of a V1 file."""
    meta, entries = b"", {}
    for name, array in arrays.items():
        text = field(1, name.encode())
        place = b"".join(field(1, b"") for _ in array.shape)
        kind = field(3, CODES[array.dtype.name])
        meta += field(1, text + shape_field(2, array.shape) + kind + field(4, place))
        if array.dtype == object:
            values = b"".join(field(8, value) for value in array.ravel())
        elif array.dtype.kind in "iu":
            whole = b"".join(varint(int(value)) for value in array.ravel())
            values = field(V1_FIELDS[array.dtype.name], whole)
        else:
            values = field(V1_FIELDS[array.dtype.name], array.tobytes())
        key = b"\0" + name.encode() + b"\0\1" + b"\x80\x7f" * array.ndim
        entries[key] = field(2, text + field(2, place) + field(3, values))
    return {b"": field(1, meta + field(2, field(1, 1))), **entries}


def samples() -> dict[str, np.ndarray]:
    """Arrays of every type that both forms have; numbers of several bytes, values that are rare."""
    rng = np.random.default_rng(0)
    shapes = {"a/weights": (3, 3, 4, 8), "a/BatchNorm/gamma": (8,), "deep": (2, 1, 3, 1, 2)}
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    arrays |= {
        "double": rng.standard_normal(5),
        "empty": np.zeros((0, 3), np.float32),
        "flag": np.array([True, False, True]),
        "global_step": np.array(30000),
        "long": np.array([-(2**63), -1, 0, 2**63 - 1]),
        "short": np.array([[-3, 2**31 - 1]], np.int32),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
        "tiny": np.array([0, 255, 128], np.uint8),
        "words": np.array([[b"", b"abc"], [b"\xff\0\xfe", b"x" * 300]], object),
    }
    return arrays


def samples_v2() -> dict[str, np.ndarray]:
    """And of the types that V1 does not have."""
    half = np.linspace(-2, 2, 15).reshape(3, 5)
    return samples() | {
        "bfloat16": half.astype(ml_dtypes.bfloat16),
        "complex": np.array([1 + 2j, -3.5j], np.complex64),
        "half": half.astype(np.float16),
        "part/weights": np.arange(math.prod((7, 4)), dtype=np.float32).reshape(7, 4),
    }


def same(read: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    """Whether names, types, shapes and all bits are equal."""

    def facts(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {
            name: (a.dtype, a.shape, a.ravel().tolist() if a.dtype == object else a.tobytes())
            for name, a in arrays.items()
        }

    return facts(read) == facts(expected)
