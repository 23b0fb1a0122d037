"""Thousands of damaged TensorFlow checkpoints: each is refused by a `UserError` or read right.

    python -m pytest tests/reliability/test_fuzz_checkpoints.py -m reliability -n 0 -s

As in test_fuzz.py, one input follows from one seed, and FUZZ_SEED=123 runs that one alone. Beside
the tests' own checkpoints there are those of TensorFlow in `../shared`, where they are.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mutate import EXTREMES, TEXTS, Rng, damage, pick
from official import SHARED
from test_fuzz import fuzz
from tf_writer import (
    bundle,
    field,
    same,
    samples,
    samples_v2,
    table,
    v1_entries,
    varint,
    write_bundle,
    write_files,
)

from deeplab_jax.weights.tf_checkpoint import read_checkpoint
from deeplab_jax.weights.tf_tables import parse

pytestmark = pytest.mark.reliability

Arrays = dict[str, np.ndarray]


@cache
def others() -> list[tuple[Arrays, dict[str, bytes]]]:
    """Checkpoints that TensorFlow wrote: what is right of them, and their files by name."""
    root = SHARED / "tf_checkpoints"
    folders = ("dtypes_partitioned", "sharded", "tf2_object", "v1_format", "v1_format_sharded")
    return [
        (
            read_checkpoint(root / name),
            {
                file.name: file.read_bytes()
                for file in sorted((root / name).iterdir())
                if not file.name.endswith((".meta", ".json", ".npz"))
            },
        )
        for name in folders
        if (root / name).is_dir()
    ]


@cache
def ours(form: int) -> tuple[Arrays, dict[str, bytes]]:
    """One of the tests' own, in a shard or three or of V1; the same names, other values with -1."""
    arrays = samples() if form == 1 else samples_v2()
    if form == -1:
        arrays = {name: array[::-1] if array.ndim else array for name, array in arrays.items()}
    files = {"checkpoint": b'model_checkpoint_path: "m"\n'}
    if form == 1:
        return arrays, {**files, "m": table(v1_entries(arrays), size=500)}
    entries, data = bundle(arrays, shards=3, parts={"part/weights": 3})
    names = {f"m.data-{i:05}-of-00003": content for i, content in enumerate(data)}
    return arrays, {**files, "m.index": table(entries, size=500), **names}


def checked(read: Arrays, size: int) -> None:
    """What holds of any checkpoint that is accepted: numbers or bytes, not out of thin air."""
    for array in read.values():
        if array.dtype == object:
            assert all(isinstance(text, bytes) for text in array.ravel())
    assert sum(a.nbytes for a in read.values()) <= 8 * size


# Files that are damaged as they lie: every value is one that TensorFlow would read, or none is.


def files_damaged(rng: Rng, work: Path) -> None:
    right, files = pick([ours(0), ours(0), ours(1), *others()], rng)
    chosen = pick([name for name in files if name != "checkpoint"], rng)
    for name, data in files.items():
        (work / name).write_bytes(damage(data, rng) if name == chosen else data)
    assert same(read_checkpoint(work), right)


def files_swapped(rng: Rng, work: Path) -> None:
    """Files of two checkpoints of the same names, or of one in another order, some cut or gone."""
    right, files = ours(0)
    _, strange = ours(-1)
    names = [name for name in files if name != "checkpoint"]
    for name in names:
        source = pick((files, files, strange), rng)
        data = source[pick((name, name, name, *names), rng)]
        kind = int(rng.integers(8))
        data = data[: int(rng.integers(len(data) + 1))] if kind == 0 else data
        data = data + rng.bytes(9) if kind == 1 else data
        if kind != 2:
            (work / name).write_bytes(data)
    read = read_checkpoint(work / "m")
    assert same(read, right) or same(read, ours(-1)[0])


# Claims with every checksum right: the values may be others, the bounds hold.


def claims(rng: Rng, work: Path) -> None:
    """Keys, messages and blocks damaged before their checksums are made; extreme numbers."""
    v1 = rng.random() < 0.4
    entries, files = (v1_entries(samples()), []) if v1 else bundle(samples_v2(), shards=2)
    if not v1:
        whole = bundle(samples_v2(), parts={"part/weights": 3})
        entries, files = whole if rng.random() < 0.5 else (entries, files)
    seed = int(rng.integers(2**32))
    if rng.random() < 0.7:
        entries = dict(change_entries(entries, rng))
        index = table(entries, size=int(rng.choice([1, 500, 10**6])))
    else:
        noise = np.random.default_rng(seed)
        some = float(rng.choice([0.1, 0.5]))
        index = table(
            entries, size=500, change=lambda d: damage(d, noise) if noise.random() < some else d
        )
    if rng.random() < 0.1:  # where the blocks are
        index = index[:-48] + damage(index[-48:-8], rng)[:40].ljust(40, b"\0") + index[-8:]
    if v1:
        (work / "m").write_bytes(index)
    else:
        write_files(work / "m", index, files)
    checked(read_checkpoint(work / "m"), len(index) + sum(map(len, files)))


def change_entries(entries: dict[bytes, bytes], rng: Rng) -> Iterator[tuple[bytes, bytes]]:
    """One or two entries with another number, damaged, of another value or under another key."""
    chosen = {pick(list(entries), rng) for _ in range(int(rng.integers(1, 3)))}
    for key, value in entries.items():
        kind = int(rng.integers(6)) if key in chosen else -1
        if kind in (0, 1):
            value = change_number(value, rng)
        elif kind == 2:
            value = damage(value, rng)
        elif kind == 3:
            value = pick(list(entries.values()), rng)
        elif kind == 4:
            key = (
                damage(key, rng)
                if rng.random() < 0.5
                else pick(TEXTS, rng).encode("utf-8", "replace")
            )
        elif kind == 5:
            value = value * int(rng.integers(2, 200))
        yield key, value


def change_number(message: bytes, rng: Rng) -> bytes:
    """A message with a number of it, at any depth, extreme; or a field more."""
    try:
        fields = parse(memoryview(message))
    except ValueError:
        return damage(message, rng)
    pairs = [(number, value) for number, values in fields.items() for value in values]
    if not pairs or rng.random() < 0.1:
        return message + field(int(rng.integers(1, 15)), int(pick(EXTREMES, rng)))
    at = int(rng.integers(len(pairs)))
    number, value = pairs[at]
    if isinstance(value, memoryview) and rng.random() < 0.9:
        pairs[at] = number, memoryview(change_number(bytes(value), rng))
    else:
        pairs[at] = number, int(pick((*EXTREMES, *range(30)), rng))
    return b"".join(packed(number, value) for number, value in pairs)


def packed(number: int, value: int | memoryview) -> bytes:
    """A field; the sixth as TensorFlow has its checksum, of four bytes."""
    if isinstance(value, int) and number == 6 and value < 2**32:
        return varint(6 << 3 | 5) + value.to_bytes(4, "little")
    return field(number, value if isinstance(value, int) else bytes(value))


# A folder's list of checkpoints, which may name anything.


def lists(rng: Rng, work: Path) -> None:
    root = work / "runs"
    (root / "in").mkdir(parents=True)
    secret = {"secret": np.ones(1, np.float32)}
    for prefix in (work / "m", work / "runs", work / "other"):
        write_bundle(prefix, secret)
    for prefix in (root / "m", root / "in" / "m"):
        write_bundle(prefix, {"x": np.ones(1, np.float32)})
    names = ("m", "in/m", "/data/m", "../m", "in/../../m", "..\\m", "C:\\m", "in\\m", f"{work}/m")
    name = pick((*names, *TEXTS, ".", "..", "../runs", "in/..", "~", "//host/m", "m*", "?"), rng)
    text = f'model_checkpoint_path: "{name}"\n'.encode("utf-8", "surrogatepass")
    (root / "checkpoint").write_bytes(damage(text, rng) if rng.random() < 0.5 else text)
    assert read_checkpoint(root).keys() == {"x"}


@pytest.mark.parametrize("kind", [files_damaged, files_swapped, claims, lists])
def test_damaged_checkpoints(kind: Callable[[Rng, Path], None], tmp_path: Path) -> None:
    ours(0), ours(1), ours(-1), others()

    def checkpoints(rng: Rng) -> None:
        work = tmp_path / "work"
        work.mkdir()
        try:
            kind(rng, work)
        finally:
            for file in sorted(work.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            work.rmdir()

    checkpoints.__name__ = kind.__name__
    fuzz(checkpoints, tmp_path, megabytes=300)
