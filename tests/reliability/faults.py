"""Faults to put a run through: kills at chosen moments, damaged files, a full disk.

For any command that writes to a folder: nothing here knows what is trained.
"""

import atexit
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DAMAGES = ("delete", "truncate", "zero", "flip")


def change(config: Any, section: str, **changes: Any) -> Any:
    """A configuration with fields of one section changed."""
    part = dataclasses.replace(getattr(config, section), **changes)
    return dataclasses.replace(config, **{section: part})


def start(
    arguments: Sequence[str],
    output: Path,
    *,
    devices: int = 1,
    file_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """`python ARGUMENTS` in this repository and a session of its own; its output goes to a file.

    `file_bytes` lets no file grow beyond: a full disk without one (Linux's prlimit).
    """
    limit = [] if file_bytes is None else ["prlimit", f"--fsize={file_bytes}"]
    settings = {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONUNBUFFERED": "1"}
    with output.open("ab") as file:  # by way of cat, which no limit holds
        cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
    process = subprocess.Popen(
        [*limit, sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **settings, **(environment or {})},
        stdout=cat.stdin,
        stderr=cat.stdin,
        start_new_session=True,
    )
    assert cat.stdin is not None
    cat.stdin.close()
    atexit.register(cat.wait)
    atexit.register(process.kill)  # what a failing test leaves behind; before the wait
    return process


def wait_for(
    process: "subprocess.Popen[bytes]", happened: Callable[[], bool], seconds: float
) -> bool:
    """Wait until something happened; False if the process ends or the time passes before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if happened():
            return True
        time.sleep(0.002)
    return False


def end(process: "subprocess.Popen[bytes]", number: signal.Signals, seconds: float = 120) -> int:
    """Send a signal and return the exit code."""
    process.send_signal(number)
    return process.wait(seconds)


def damage(file: Path, how: str) -> None:
    """Delete a file, cut it in half, put zeros or a flipped bit in its middle."""
    if how == "delete":
        file.unlink()
        return
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    if how == "truncate":
        content = content[:middle]
    elif how == "zero":
        part = slice(max(0, middle - 128), middle + 128)
        content[part] = bytes(len(content[part]))
    elif content:
        content[middle] ^= 1
    file.write_bytes(content)
