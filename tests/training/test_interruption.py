"""What asks a run to stop, and what does not."""

import os
import signal

import pytest

from deeplab_jax.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGWINCH, signal.SIGTERM])
def test_only_the_two_signals_ask_to_stop(number: signal.Signals) -> None:
    """Others may have handlers in Python: a profiler's, a notebook's, a terminal's new size."""
    before = signal.signal(number, lambda number, frame: None)
    try:
        with Interruption(hang_seconds=0) as interruption:
            interruption.nothing_to_save = False
            os.kill(os.getpid(), number)
        # Its thread has ended, after all that it was sent.
        assert interruption.received == (number == signal.SIGTERM)
    finally:
        signal.signal(number, before)
