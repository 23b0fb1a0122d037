"""Thousands of damaged lists of classes: each is refused by a `UserError` or read as one.

    python -m pytest tests/reliability/test_fuzz_tables.py -m reliability -n 0 -s

As in test_fuzz.py, one input follows from one seed, and FUZZ_SEED=123 runs that one alone.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mutate import NUMBERS, TEXTS, Rng, damage, pick
from test_fuzz import damaged_json, fuzz

from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.layouts import ClassTable
from deeplab_jax.data.masks import hexadecimal, pack, unpack
from deeplab_jax.data.tables import FILES, find_table, read_table
from deeplab_jax.errors import UserError

pytestmark = pytest.mark.reliability

ROWS = (("background", 0, (0, 0, 0)), ("traffic light", 1, (128, 64, 0)), ("void", 9, (1, 2, 3)))
LINES: tuple[Callable[[str, int, tuple[int, int, int]], str], ...] = (
    lambda name, value, color: name,
    lambda name, value, color: f"{name} {hexadecimal(pack(color))}",
    lambda name, value, color: f"{value}: {name}",
    lambda name, value, color: f"{name},{','.join(map(str, color))}",
    lambda name, value, color: f"{value},{name},{','.join(map(str, color))}",
    lambda name, value, color: f"{' '.join(map(str, color))}\t\t{name}",
    lambda name, value, color: f"{name}:{','.join(map(str, color))}::",
    lambda name, value, color: f"{value}\t0.1\t11\t12\t1\t{name}",
)
HEADS = ("", "", "name,r,g,b\n", "# label:color_rgb:parts:actions\n", "Pixel Value, Class\n")
TREES: tuple[Any, ...] = (
    {name: list(color) for name, _, color in ROWS},
    {name: value for name, value, _ in ROWS},
    {str(value): name for name, value, _ in ROWS},
    [name for name, _, _ in ROWS],
    {"labels": [{"name": name, "color": list(color)} for name, _, color in ROWS]},
    {"label_map": {"0": "a", "1": "b"}, "segmentation_colors": [[0, 0, 0], [1, 2, 3]]},
    {"classes": {name: {"id": value, "color": list(color)} for name, value, color in ROWS}},
)


def check(table: ClassTable) -> None:
    """Whatever is accepted: names that differ, ids of them, and a code for what masks hold."""
    count = len(table.names)
    assert 1 <= count <= VOID and len(set(table.names)) == count
    assert all(name and name == name.strip() for name in table.names)
    assert len(table.colors) in (0, count)
    for value, id in table.values:
        assert 0 <= value <= 65535 and (id == VOID or 0 <= id < count)
    for color, id in table.by_color:
        assert unpack(pack(color)) == color and (id == VOID or 0 <= id < count)


def text_file(rng: Rng, folder: Path) -> Path:
    """Lines of one form, or of several; values replaced, or bytes damaged."""
    form = pick(LINES, rng)
    lines = []
    for row in ROWS * int(rng.choice([1, 1, 1, 100])):
        name, value, color = row
        if rng.random() < 0.2:
            name = str(pick((*TEXTS, *NUMBERS), rng))
        if rng.random() < 0.1:
            value = pick(NUMBERS, rng)
        lines.append((pick(LINES, rng) if rng.random() < 0.05 else form)(name, value, color))
    text = pick(HEADS, rng) + pick(("\n", "\r\n", "\r", ","), rng).join(lines)
    encoding = pick(("utf-8", "utf-8", "utf-8-sig", "utf-16"), rng)
    data = text.encode(encoding, errors="surrogatepass")
    file = folder / pick([name for name in FILES if not name.endswith(".json")], rng)
    file.write_bytes(damage(data, rng) if rng.random() < 0.6 else data)
    return file


def json_file(rng: Rng, folder: Path) -> Path:
    file = folder / pick([name for name in FILES if name.endswith(".json")], rng)
    data = damaged_json(pick(TREES, rng), rng)
    file.write_bytes(data if rng.random() < 0.9 else json.dumps(pick(TREES, rng)).encode())
    return file


@pytest.mark.parametrize("make", [text_file, json_file])
def test_damaged_lists_of_classes(make: Callable[[Rng, Path], Path], tmp_path: Path) -> None:
    def tables(rng: Rng) -> None:
        file = make(rng, tmp_path)
        try:
            table = read_table(file)
            check(table)
            assert find_table([tmp_path]) is not None or file.name not in FILES
        except UserError as error:
            assert str(file) in str(error), error
            raise
        finally:
            file.unlink()

    fuzz(tables, tmp_path, megabytes=100)
