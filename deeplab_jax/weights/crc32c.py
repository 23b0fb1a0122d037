"""CRC-32C, TensorFlow's checksum, by NumPy alone: no wheel of ours has it in C.

A message is a polynomial over GF(2), bit 0 of byte 0 its highest power, and its checksum what is
left of it modulo P, the polynomial of CRC-32C. All is done on whole words of 32 bits.
"""

from functools import cache

import numpy as np

REFLECTED = 0x82F63B78  # P without x^32, bit 0 the coefficient of x^31
# The register starts with all bits set; these four bytes before a message do the same to an empty
# one: they are what times x^32 is 0xFFFFFFFF modulo P.
START = bytes.fromhex("54641f64")
# P divides x^6777 + x^484 + x^100 + 1, one of the few multiples of degree below 10,000 with four
# terms (found by search; the tests divide). So it divides its 32nd power, y^6777 + y^484 + y^100
# + 1 with y = x^32: a word may be added to those at these distances after it, and be left out.
SHIFTS = (6777 - 484, 6777 - 100, 6777)
PIECE = 2**20  # bytes that are copied at a time


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C of bytes: gigabytes a second where there are many."""
    view = memoryview(data)
    head = len(view) % 4
    rest = np.frombuffer((START + bytes(view[:head])).rjust(8, b"\0"), "<u4")
    for at in range(head, len(view), PIECE):
        rest = fold(np.concatenate([rest, np.frombuffer(view[at : at + PIECE], "<u4")]))
    return int(times_x(remainder(rest), 0)[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum as TensorFlow and LevelDB store it: rotated and shifted by a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fold(words: np.ndarray) -> np.ndarray:
    """At most 6777 words with the same remainder; those given are changed."""
    end = len(words) - SHIFTS[-1]
    for start in range(0, end, SHIFTS[0]):  # as many as do not reach one another
        stop = min(start + SHIFTS[0], end)
        for shift in SHIFTS:
            words[start + shift : stop + shift] ^= words[start:stop]
    return words[max(end, 0) :]


def remainder(words: np.ndarray) -> np.ndarray:
    """The one word [1] with the same remainder: two halves are added, again and again."""
    power = 0
    while len(words) > 1:
        if len(words) % 2:
            words = np.concatenate([np.zeros(1, "<u4"), words])
        words, power = times_x(words[::2], power) ^ words[1::2], power + 1
    return words


def times_x(words: np.ndarray, power: int) -> np.ndarray:
    """Words times x^(32 * 2^power), modulo P."""
    return apply(times_table(power), words)


def apply(table: np.ndarray, words: np.ndarray) -> np.ndarray:
    """A linear map of words, by its table [4, 256]: the images of their bytes at each place."""
    low, second, third, high = (words >> shift & 0xFF for shift in (0, 8, 16, 24))
    mapped: np.ndarray = table[0][low] ^ table[1][second] ^ table[2][third] ^ table[3][high]
    return mapped


@cache
def times_table(power: int) -> np.ndarray:
    """The table of the map: words times x^(32 * 2^power)."""
    if power:
        half = times_table(power - 1)
        return apply(half, half)
    words = (np.arange(256, dtype="<u4") << np.array([[0], [8], [16], [24]], "<u4")).astype("<u4")
    for _ in range(32):
        words = words >> 1 ^ (words & 1) * np.uint32(REFLECTED)
    return words
