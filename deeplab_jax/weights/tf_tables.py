"""The two formats that TensorFlow's checkpoints are made of: tables and protobuf messages.

A table (LevelDB's: https://github.com/google/leveldb/blob/main/doc/table_format.md) is a file of
keys in order with their values, in blocks: the footer leads to the index block, whose values lead
to the others. Each has a checksum. What is wrong is a ValueError.
"""

from collections.abc import Iterator
from typing import BinaryIO

from deeplab_jax.weights.claims import MAX_MEMBERS
from deeplab_jax.weights.crc32c import masked_crc32c

FOOTER = 48  # bytes: two handles, filled up, and the magic number
MAGIC = bytes.fromhex("57fb808b247547db")
TRAILER = 5  # bytes after a block: how it is packed, and its checksum
MAX_KEY = 4096  # bytes; an official name has at most 130
MAX_FIELDS = 64  # of a message, unless the reader expects more
SNAPPY = (
    "it is packed by Snappy, which cannot be read here: where TensorFlow is, restore and save it"
    " again, which packs nothing"
)

Message = dict[int, list[int | memoryview]]  # the values by field number


def is_table(file: BinaryIO) -> bool:
    """Whether a file ends as tables do."""
    size = file.seek(0, 2)
    file.seek(max(size - len(MAGIC), 0))
    return size >= FOOTER and file.read() == MAGIC


def read_table(file: BinaryIO) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values, in the order of the keys; no byte of the file is read twice."""
    if not is_table(file):
        raise ValueError("it does not end as a table does")
    end = file.seek(-FOOTER, 2)
    footer = memoryview(file.read(FOOTER))
    _, _, at = read_handle(footer, 0)
    offset, size, _ = read_handle(footer, at)
    last, done, count = b"", 0, 0
    for _, handle in read_entries(read_block(file, offset, size, end)):
        offset, size, _ = read_handle(handle, 0)
        if offset < done:
            raise ValueError("its blocks overlap")
        done, before = offset + size + TRAILER, count
        for key, value in read_entries(read_block(file, offset, size, end)):
            if count and key <= last:
                raise ValueError("its keys are not in order")
            last, count = key, count + 1
            if count > MAX_MEMBERS:
                raise ValueError(f"it has more than {MAX_MEMBERS} entries")
            yield key, value
        if count == before:
            raise ValueError("a block is empty")


def read_handle(data: memoryview, at: int) -> tuple[int, int, int]:
    """Offset and size of a block, and where the handle ends."""
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return offset, size, at


def read_block(file: BinaryIO, offset: int, size: int, end: int) -> memoryview:
    """The content of a block that lies before `end`."""
    if offset + size + TRAILER > end:
        raise ValueError("a block goes beyond the end")
    file.seek(offset)
    data = memoryview(file.read(size + TRAILER))
    if masked_crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ValueError("a block's checksum is wrong")
    if data[size]:
        raise ValueError(SNAPPY if data[size] == 1 else f"it is packed by method {data[size]}")
    return data[:size]


def read_entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a block; each key is written as what differs from the one before."""
    restarts = int.from_bytes(block[-4:], "little")  # where keys are whole, for searching
    end = len(block) - 4 - 4 * restarts
    if len(block) < 4 or end < 0:
        raise ValueError("a block is too short")
    entries, at, key = block[:end], 0, b""
    while at < end:
        shared, at = read_varint(entries, at)
        unshared, at = read_varint(entries, at)
        size, at = read_varint(entries, at)
        if shared > len(key) or shared + unshared > MAX_KEY:
            raise ValueError("a key is too long")
        key = key[:shared] + bytes(take(entries, at, unshared))
        at += unshared
        yield key, take(entries, at, size)
        at += size


def take(data: memoryview, at: int, size: int) -> memoryview:
    """Some bytes, all of which must be there."""
    if at + size > len(data):
        raise ValueError("it claims more bytes than it has")
    return data[at : at + size]


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """An unsigned number of at most 64 bits, seven in a byte, the lowest first; where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value % 2**64, at
    raise ValueError("a number does not end")


def parse(data: memoryview, most: int = MAX_FIELDS) -> Message:
    """A protobuf message: https://protobuf.dev/programming-guides/encoding/."""
    message: Message = {}
    at = 0
    for _ in range(most):
        if at == len(data):
            return message
        tag, at = read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview
        if kind == 0:
            value, at = read_varint(data, at)
        elif kind in (1, 2, 5):
            size, at = (8 if kind == 1 else 4, at) if kind != 2 else read_varint(data, at)
            value = take(data, at, size)
            at += size
            if kind != 2:
                value = int.from_bytes(value, "little")
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        message.setdefault(number, []).append(value)
    if at < len(data):
        raise ValueError(f"a message has more than {most} fields")
    return message


def number(message: Message, field: int) -> int:
    """The number in a field, signed, of 64 bits; 0 where it is left out, as protobuf does."""
    value = message.get(field, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {field} of a message is no number")
    return value - 2**64 if value >= 2**63 else value


def parts(message: Message, field: int) -> list[memoryview]:
    """The bytes of a field, as often as it occurs: texts, messages or packed numbers."""
    values = [value for value in message.get(field, []) if isinstance(value, memoryview)]
    if len(values) != len(message.get(field, [])):
        raise ValueError(f"field {field} of a message is a number")
    return values


def part(message: Message, field: int) -> memoryview:
    """The bytes of a field; none where it is left out."""
    return (parts(message, field) or [memoryview(b"")])[-1]
