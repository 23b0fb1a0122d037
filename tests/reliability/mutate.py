"""Random damage to bytes and to JSON; a numpy Generator decides, so that a seed replays it."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator

EXTREMES = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def span(size: int, rng: Rng) -> slice:
    """A random part of `size` bytes, more often short than long."""
    start = int(rng.integers(size + 1))
    return slice(start, start + int(size ** rng.random()))


def flip_bits(data: bytearray, rng: Rng) -> None:
    for at in rng.integers(len(data), size=int(rng.integers(1, 9))) if data else ():
        data[at] ^= 1 << int(rng.integers(8))


def truncate(data: bytearray, rng: Rng) -> None:
    del data[int(rng.integers(len(data) + 1)) :]


def fill(data: bytearray, rng: Rng) -> None:
    part = span(len(data), rng)
    value = rng.choice([0, 255, int(rng.integers(256))])
    data[part] = bytes([value]) * len(data[part])


def repeat(data: bytearray, rng: Rng) -> None:
    part = span(len(data), rng)
    data[part] = data[part] * int(rng.integers(2, 5))


def cut(data: bytearray, rng: Rng) -> None:
    del data[span(len(data), rng)]


def move(data: bytearray, rng: Rng) -> None:
    """A part over another place, or between."""
    copied = data[span(len(data), rng)]
    at = int(rng.integers(len(data) + 1))
    data[at : at + rng.choice([0, len(copied)])] = copied


def insert_noise(data: bytearray, rng: Rng) -> None:
    at = int(rng.integers(len(data) + 1))
    data[at:at] = rng.bytes(int(rng.integers(1, 65)))


def extreme_integer(data: bytearray, rng: Rng) -> None:
    """An integer of 2, 4 or 8 bytes, in either order, that sizes and offsets are seldom made for.

    More often in the first hundred bytes, where headers are.
    """
    width = int(rng.choice([2, 4, 8]))
    value = int(rng.choice(np.array(EXTREMES, np.uint64))) % 2 ** (8 * width)
    at = int(rng.integers(min(len(data), int(rng.choice([100, len(data)]))) + 1))
    data[at : at + width] = value.to_bytes(width, rng.choice(["little", "big"]))


CHANGES: tuple[Callable[[bytearray, Rng], None], ...] = (
    flip_bits,
    truncate,
    fill,
    repeat,
    cut,
    move,
    insert_noise,
    extreme_integer,
    extreme_integer,
)


def damage(data: bytes, rng: Rng) -> bytes:
    """`data` after one to four changes."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        CHANGES[int(rng.integers(len(CHANGES)))](content, rng)
    return bytes(content)


def repair_png(data: bytes) -> bytes:
    """The checksums of a PNG's chunks made right, so that damage gets past them."""
    content, at = bytearray(data), 8
    while at + 12 <= len(content):
        length = struct.unpack_from(">I", content, at)[0]
        end = at + 8 + length
        if end + 4 > len(content):
            break
        struct.pack_into(">I", content, end, zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(content)


TEXTS = (
    "",
    "xception_65",
    "nan",
    "-1",
    "../..",
    "\0",
    "\ud800",
    "ä漢🙂",
    "x" * 10_000,
    "__class__",
)
NUMBERS = (0, 1, -1, 7, 255, 256, 2**31, 2**63, 2**64, -(10**30), 10**400)
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"))


def any_json(rng: Rng, depth: int = 0) -> Any:
    """A random value, seldom deep."""
    kind = int(rng.integers(7 if depth < 4 else 5))
    if kind < 5:
        return [None, bool(rng.integers(2)), *(pick(s, rng) for s in (NUMBERS, FLOATS, TEXTS))][
            kind
        ]
    values = [any_json(rng, depth + 1) for _ in range(int(rng.integers(4)))]
    values *= 1 if depth else int(rng.choice([1, 1, 300]))
    return values if kind == 5 else {pick(TEXTS, rng): value for value in values}


def pick(choices: Any, rng: Rng) -> Any:
    return choices[int(rng.integers(len(choices)))]


def damage_json(tree: Any, rng: Rng) -> Any:
    """The tree with one part replaced, renamed, added, dropped or wrapped, at a random depth."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.1:
        return [any_json(rng), [tree], {"x": tree}][int(rng.choice([0, 0, 0, 1, 2]))]
    if isinstance(tree, list):
        at = int(rng.integers(len(tree)))
        new: list[list[Any]] = [[damage_json(tree[at], rng)], [], [tree[at]] * 2]
        return [*tree[:at], *new[int(rng.choice([0, 0, 1, 2]))], *tree[at + 1 :]]
    key = pick(list(tree), rng)
    rest = {k: v for k, v in tree.items() if k != key}
    change = int(rng.choice([0, 0, 0, 0, 0, 1, 2, 3]))
    if change == 0:
        return {**tree, key: damage_json(tree[key], rng)}
    if change == 1:
        return rest
    name = pick([*TEXTS, key[::-1], key + "x", key[1:]], rng)
    return {**(rest if change == 2 else tree), name: tree[key]}
