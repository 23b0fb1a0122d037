"""CRC-32C: known values, and the definition, bit by bit, at every way through the code."""

import numpy as np
import pytest

from deeplab_jax.weights.crc32c import PIECE, REFLECTED, SHIFTS, crc32c, masked_crc32c


def slow_crc32c(data: bytes) -> int:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (REFLECTED if value & 1 else 0)
        table.append(value)
    register = 0xFFFFFFFF
    for byte in data:
        register = register >> 8 ^ table[(register ^ byte) & 0xFF]
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "value"),  # RFC 3720, B.4, and the check value of the catalogue of CRCs
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_values(data: bytes, value: int) -> None:
    assert crc32c(data) == value


def test_a_masked_value_is_that_of_an_empty_variable() -> None:
    assert masked_crc32c(b"") == 0xA282EAD8  # in a checkpoint by TensorFlow 2.15


def test_every_length_is_as_defined() -> None:
    data = np.random.default_rng(0).bytes(PIECE + 40_000)
    fold = 4 * SHIFTS[-1]
    for size in (*range(40), fold - 9, fold - 4, fold, fold + 3, 2 * fold + 1, PIECE, len(data)):
        assert crc32c(data[:size]) == slow_crc32c(data[:size])
        assert crc32c(memoryview(data)[1 : size + 1]) == slow_crc32c(data[1 : size + 1])


def test_the_sparse_multiple_is_one() -> None:
    """x^6777 + x^484 + x^100 + 1 is divided by the polynomial without a remainder."""
    high = SHIFTS[2]
    polynomial = 1 << 32 | int(f"{REFLECTED:032b}"[::-1], 2)
    value = 1 << high | 1 << high - SHIFTS[0] | 1 << high - SHIFTS[1] | 1
    while value.bit_length() > 32:
        value ^= polynomial << value.bit_length() - 33
    assert value == 0
