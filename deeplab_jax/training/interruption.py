"""What ends a run from outside: SIGTERM, Ctrl-C, a preemption notice, a step that hangs.

Exit codes: 75 when interrupted, the same command resumes; 1 after a hang.
"""

import faulthandler
import os
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

from deeplab_jax.errors import INTERRUPTED, SIGNALS

STDERR = 2  # the descriptor: sys.stderr may be something of Python's own
ANSWER_SECONDS = 2.0  # for the main thread to leave by itself, before the process is ended


class Interrupted(SystemExit):
    """Leaves with code 75: what there was to save is saved."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED)


class Interruption:
    """Turns the first SIGTERM or SIGINT into a request that the loop answers between two steps.

    A second signal leaves at once, and so does the first while there is `nothing_to_save`: during
    start-up and the first compile. As Python answers no signal while XLA compiles, a thread hears
    of them too. In a run of several processes `jax.distributed` owns SIGTERM (of two owners one
    would never hear it) and all processes agree on the step after which they leave.
    """

    nothing_to_save = True
    received = False  # whether this process was asked to leave

    def __init__(self, hang_seconds: int) -> None:
        self._hang_seconds = hang_seconds
        self._left = threading.Event()
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._owns_signals = in_main_thread and jax.process_count() == 1

    def __enter__(self) -> "Interruption":
        if self._owns_signals:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._old = {s: signal.signal(s, self._answer) for s in SIGNALS}
            self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
            self._thread.start()
        self.note_progress()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._owns_signals:
            for number, handler in self._old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._old_fd)
            self._left.set()
            os.write(self._write, b"\0")  # no signal: the thread ends
            self._thread.join()
            os.close(self._read)
            os.close(self._write)

    def note_progress(self) -> None:
        """Say that a step is finished: the next one has its full time before it counts as hung."""
        if self._hang_seconds:
            faulthandler.dump_traceback_later(self._hang_seconds, exit=True, file=STDERR)

    def check(self) -> None:
        """Raise Interrupted if this process was asked to leave; not where there are several."""
        self.note_progress()
        if self.received:
            raise Interrupted

    def must_leave(self, step: int) -> bool:
        """Whether to save and leave after this step; all processes call it at every step."""
        self.note_progress()
        if jax.process_count() == 1:
            return self.received
        return multihost_utils.reached_preemption_sync_point(step)

    def _answer(self, *_: object) -> None:
        if self.nothing_to_save:
            raise Interrupted

    def _listen(self) -> None:
        while (number := os.read(self._read, 1)[0]) != 0:
            if number not in SIGNALS:  # Python reports every signal that has a handler of its own
                continue
            if self.received:
                os._exit(INTERRUPTED)
            self.received = True
            name, at_once = signal.Signals(number).name, self.nothing_to_save
            saving = "saving, then leaving; again to leave at once"
            what = "leaving, there is nothing new to save" if at_once else saving
            print(f"{name}: {what}", file=sys.stderr, flush=True)
            if at_once and not self._left.wait(ANSWER_SECONDS) and self.nothing_to_save:
                os._exit(INTERRUPTED)
