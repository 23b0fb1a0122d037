"""Contenders that take turns, each a process of its own, in an environment of its own if need be.

What else the machine does then falls on all of them alike, so that ratios within one run can be
trusted where its seconds cannot.
"""

import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READY = "ready: "


def make_environment(folder: Path, packages: Sequence[str]) -> str:
    """The interpreter of a virtual environment, made on first use.

    Raises:
      RuntimeError: it cannot be made.
    """
    python = folder.absolute() / "bin" / "python"
    if not python.exists():
        print(f"making {folder}: {' '.join(packages)} ...", file=sys.stderr)
        venv.create(folder, with_pip=True)
        if subprocess.run([python, "-m", "pip", "install", "-q", *packages]).returncode:
            raise RuntimeError(f"{' '.join(packages)} cannot be installed here")
    return str(python)


class Contender:
    """A process that measures once for every line it is sent; `serve` is its other end."""

    def __init__(self, python: str, module: str, arguments: Sequence[str]) -> None:
        """Start `python -m module arguments` and let it warm up.

        Raises:
          RuntimeError: it ends instead.
        """
        command = [python, "-m", module, *arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
        self.about = self._answer().removeprefix(READY)

    def measure(self) -> float:
        """What the process measures, once."""
        assert self._process.stdin
        print("measure", file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.kill()
            self._process.communicate()  # closes the pipes
            raise RuntimeError("it does not run here")
        return line.strip()


def serve(
    make: Callable[[], Callable[[], float]],
    packages: Sequence[str],
    note: Callable[[], str] = str,
) -> None:
    """A contender's process: warm up, tell its versions and a note, then measure for each line."""
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # what libraries print is no answer
        measure = make()
        measure()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        about = [f"{name} {version(name)}" for name in packages]
        about += [f"cores: {cores}", note()]
        print(READY + ", ".join(filter(None, about)), file=out, flush=True)
        for _ in sys.stdin:
            print(measure(), file=out, flush=True)


def take_turns(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """A B C A B C ...: what each contender measured, a figure a round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            found[name].append(contender.measure())
    return found


def print_table(
    found: dict[str, list[float]], contenders: dict[str, Contender], what: str, base: str
) -> None:
    """Medians, spread, and the medians' ratios to that of `base`."""
    print(f"| | {what}, median | from | to | of {base} | |\n|---|---|---|---|---|---|")
    reference = statistics.median(found[base])
    for name, each in found.items():
        median = statistics.median(each)
        figures = f"{median:.4g} | {min(each):.4g} | {max(each):.4g} | {median / reference:.2f}"
        print(f"| {name} | {figures} | {contenders[name].about} |")
