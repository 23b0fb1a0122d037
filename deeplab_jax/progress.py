"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, TextColumn

LINE_SECONDS = 15.0  # between plain lines


class Ticker:
    """Counts to `total`, showing rate and time left. Use as a context manager; call `tick`."""

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "step") -> None:
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self._first = done
        self._note = ""
        self._printed = 0.0
        self._start = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (*Progress.get_default_columns(), TextColumn("{task.fields[note]}"))
            self._bar = Progress(*columns, transient=True)
            self._task = self._bar.add_task(label, total=total, completed=done, note="")

    def __enter__(self) -> "Ticker":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def tick(self, done: int, note: str = "") -> None:
        """Report that `done` of the total are finished; an empty note keeps the last one."""
        self.done, self._note = done, note or self._note
        if self._bar:
            self._bar.update(self._task, completed=done, note=self._note)
            return
        now = time.monotonic()
        if now - self._printed >= LINE_SECONDS or done == self.total:
            self._printed = now
            print(f"{self.label}: {self.line(now)}", file=sys.stderr, flush=True)

    def line(self, now: float) -> str:
        """'120/400 steps, 1.9 steps/s, 2 min 27 s left, loss 0.53'."""
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        note = f", {self._note}" if self._note else ""
        return f"{self.done}/{self.total} {self.unit}s, {rate:.2f} {self.unit}s/s{left}{note}"


@contextmanager
def sign_of_life(what: str) -> Iterator[None]:
    """Print '{what}: 30 s so far' now and then while the work inside takes that long."""
    start, done = time.monotonic(), threading.Event()

    def report() -> None:
        while not done.wait(LINE_SECONDS):
            so_far = duration(time.monotonic() - start)
            print(f"{what}: {so_far} so far", file=sys.stderr, flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def duration(seconds: float) -> str:
    """Seconds as '2 h 5 min', '3 min 20 s' or '12 s'."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600} h {s % 3600 // 60} min"
    return f"{s // 60} min {s % 60} s" if s >= 60 else f"{s} s"
