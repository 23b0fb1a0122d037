"""Check and time the project on this machine's accelerator, a GPU or a TPU.

    python -m benchmarks.accelerator check
    python -m benchmarks.accelerator depthwise layers --only xception

runs parts within `--minutes`, prints tables of what was predicted beside what was measured, and
writes a JSON file for each part. benchmarks/README.md says in which order they go.
"""

import argparse
import os
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.accelerator.measure import Entry, format_table, run_entries

PARTS = ("check", "depthwise", "layers", "step", "batches", "memory", "flags", "peers", "training")


def entries_of(part: str, args: argparse.Namespace) -> list[Entry]:
    """A part's experiments; what it needs is imported for it alone."""
    module = {"depthwise": "forms", "layers": "forms"}.get(part, part)
    module = module if module in ("check", "forms", "peers", "training") else "steps"
    make = import_module(f"benchmarks.accelerator.{module}").entries
    own = {"forms": [part], "steps": [part, args.winners], "training": [args.out]}
    found: list[Entry] = make(*own.get(module, []), dry=args.dry)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("parts", nargs="+", choices=PARTS)
    add("--out", type=Path, default=Path(os.environ.get("OUT", "runs/accelerator")), help="folder")
    add("--minutes", type=float, default=9.0, help="for all parts together [9]")
    add("--only", default="", help="experiments with this in their name")
    add("--winners", default="", help="depthwise.json of an earlier call, for the part step")
    add("--dry", action="store_true", help="tiny, to try the parts on a CPU")
    args = parser.parse_args(argv)
    # What runs in this process leaves room for those that it starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    end, tables = time.monotonic() + 60 * args.minutes, []
    for part in args.parts:
        entries = [entry for entry in entries_of(part, args) if args.only in entry.name]
        minutes = (end - time.monotonic()) / 60
        results = run_entries(part, entries, minutes, args.out / f"{part}.json")
        tables.append(format_table(part, results))
    print("\n".join(tables))


if __name__ == "__main__":
    main()
