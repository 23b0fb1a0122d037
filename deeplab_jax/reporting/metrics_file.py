"""metrics.jsonl, the log of a run: one JSON object a line, each with a whole number as `step`."""

import json
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def read_metrics(file: Path) -> Rows:
    """The rows of a metrics.jsonl; broken lines are left out, as `read_log` counts them."""
    return read_log(file)[0]


def read_log(file: Path) -> tuple[Rows, int]:
    """The rows of a metrics.jsonl, and how many of its lines are none.

    A last line without its end, which a kill leaves, is left out and not counted.
    """
    *lines, last = file.read_bytes().split(b"\n")
    found = [_row(line) for line in lines if line.strip()]
    broken = found.count(None)
    return [row for row in [*found, _row(last)] if row is not None], broken


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
