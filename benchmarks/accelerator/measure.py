"""What the parts share: experiments with their predictions, timing on a device, tables and JSON."""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
PACKAGES = ("jax", "jaxlib", "flax", "torch", "triton", "timm", "segmentation_models_pytorch")
ROUND_SECONDS = 0.05  # of queued calls before the clock is read: their launches go unnoticed
Figures = dict[str, Any]


class Entry(NamedTuple):
    """One experiment: its name, what is predicted, and what measures it in the seconds left."""

    name: str
    predicted: str
    run: Callable[[float], Figures]


def run_entries(part: str, entries: Sequence[Entry], minutes: float, file: Path) -> list[Figures]:
    """Run what the time allows, print each, and write all of them to `file` after each.

    An experiment that fails is a result too: the machine may be gone before the next try.
    """
    end, results = time.monotonic() + 60 * minutes, []
    file.parent.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        result: Figures = {"name": entry.name, "predicted": entry.predicted}
        start = time.monotonic()
        if start > end:
            result["error"] = "not run: no time was left"
        else:
            try:
                result |= entry.run(end - start)
            except Exception as error:
                result["error"] = f"{type(error).__name__}: {error}".strip()[-2000:]
        results.append({**result, "took": time.monotonic() - start})
        print(f"{entry.name}: {format_figures(result)}", flush=True)
        report = {"part": part, "about": about(), "results": results}
        file.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return results


def about() -> dict[str, str]:
    """Date, machine, versions and command, without touching the accelerator."""
    found = {"date": time.strftime("%Y-%m-%d %H:%M"), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    if shutil.which(query[0]):
        found["card"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return {**found, "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), "command": " ".join(sys.argv)}


def format_table(title: str, results: Sequence[Figures]) -> str:
    """A table in Markdown: predicted beside measured."""
    lines = [f"\n{title}\n", "| experiment | predicted | measured |", "|---|---|---|"]
    lines += [f"| {r['name']} | {r['predicted']} | {format_figures(r)} |" for r in results]
    return "\n".join(lines)


def format_figures(figures: Figures) -> str:
    """`ms an image 3.1, memory GB (compiled 27, used 28)`; of an error its last line."""
    if "error" in figures:
        return str(figures["error"]).splitlines()[-1][-120:]
    left_out = {"name", "predicted", "took", "details"}
    return ", ".join(f"{k} {format_value(v)}" for k, v in figures.items() if k not in left_out)


def format_value(value: Any) -> str:
    if isinstance(value, dict):
        return f"({format_figures(value)})"
    if isinstance(value, list):
        return " to ".join(map(format_value, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def seconds(function: Callable[..., Any], sets: Sequence[Any], rounds: int = 5) -> float:
    """Median seconds of `function(*arguments)`, compiled as one program for all `sets` of them.

    So no input and no result is still in a cache when it is needed again.
    """
    import jax

    run: Any = jax.jit(lambda sets: [function(*arguments) for arguments in sets])
    jax.block_until_ready(run(sets))
    calls, times = 1, []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(calls):
            out = run(sets)
        jax.block_until_ready(out)
        times.append((time.perf_counter() - start) / calls / len(sets))
        calls = max(1, min(200, int(ROUND_SECONDS / times[0] / len(sets))))
    return statistics.median(times[1:])  # the first said how many calls


def measure_ceilings(side: int = 8192) -> Figures:
    """TB/s of a copy, bytes read and written, and TFLOP/s of a bfloat16 product of side^3."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 2)
    a, b = (jax.random.normal(key, (side, side), jnp.bfloat16) for key in keys)
    large = jnp.ones((8 * side, side), jnp.bfloat16)
    return {
        "copy TB/s": 2 * large.nbytes / seconds(lambda x: x + 1, [(large,)]) / 1e12,
        "product TFLOP/s": 2 * side**3 / seconds(jnp.matmul, [(a, b), (b, a)]) / 1e12,
    }
