"""How commands end: 0 done, 2 a user's mistake, 75 interrupted, 1 anything else."""

import os
import signal

INTERRUPTED = 75  # EX_TEMPFAIL: the same command, run again, goes on


class UserError(Exception):
    """Bad input: a message that names the field or file, the value, what is allowed and what to do.

    `python -m deeplab_jax` and `train.py` print it without a traceback and leave with code 2.
    `remedy`: arguments of the command line that resolve it, where the evidence decides; else "".
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


def leave_when_told() -> None:
    """While nothing is worth saving, SIGTERM and Ctrl-C end the command, by the code of both.

    From here to where a run begins to listen itself (`Interruption`): imports take seconds.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(INTERRUPTED))
