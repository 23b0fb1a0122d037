"""How commands end, each with one message: the exit codes and what is said.

0 done; 2 a user's mistake, or what the machine lacks: a folder that can be written to, memory;
75 interrupted; 141 the reader of the output left (`| head`); 1 anything else.
"""

import os
import re
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # what asks a command to stop
INTERRUPTED = 75  # EX_TEMPFAIL: the same command, run again, goes on
READER_LEFT = 141  # as a shell reports SIGPIPE
FULL_DISK = re.compile("no space left|disk quota exceeded", re.IGNORECASE)
# What XLA, CUDA, C++, the loader of shared libraries and the operating system say.
OUT_OF_MEMORY = re.compile(
    r"resource_exhausted|out[ _]of[ _]memory|bad_alloc|alloc_failed|cannot allocate memory"
    r"|failed to map segment|can't start new thread",
    re.IGNORECASE,
)
NO_DEVICE = re.compile("unable to initialize backend|no visible .* devices", re.IGNORECASE)
LESS_MEMORY = {
    "predict": "--eval.window 513 513 (a window that slides over each image),"
    " --task.resize=fit --task.eval_size 513 513 (smaller images), --eval.batch_size=1",
    "train": "--train.batch_size (smaller), --train.accumulate=2 (the batch in parts),"
    " --model.remat=units (compute again instead of keeping), --data.crop_size 321 321 (smaller);"
    " at an evaluation --eval.window 513 513, --eval.batch_size=1",
}
LESS_MEMORY["evaluate"] = LESS_MEMORY["predict"]
LESS_MEMORY["study"] = LESS_MEMORY["train"]


class UserError(Exception):
    """Bad input: a message that names the field or file, the value, what is allowed and what to do.

    The command line prints it without a traceback and leaves with code 2.
    """


def leave_when_told() -> None:
    """While nothing is worth saving, SIGTERM and Ctrl-C end the command, by the code of both.

    From here to where a run begins to listen itself (`Interruption`): imports take seconds.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(INTERRUPTED))


def explain(error: BaseException, command: str) -> tuple[str, int]:
    """The message that ends a command after an error, and its exit code.

    What an error was raised from (`raise ... from`) explains it where it does not explain itself.
    """
    if reader_left(error):
        return "", READER_LEFT
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    for cause in causes(error):
        if message := known(cause, command):
            return f"error: {message}", 2
    what = traceback.format_exception_only(error)[-1].strip()
    return (
        f"error: {what}\nThis is a fault of deeplab_jax, or of what it is built on. The whole trace"
        f" is in {written(error)}; please report it with the command.",
        1,
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def first_line(error: BaseException) -> str:
    """The beginning of what an error says; its name if it says nothing."""
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__


def known(error: BaseException, command: str) -> str:
    """What to say of a mistake or of what the machine lacks; "" for any other error."""
    text = str(error)
    first = first_line(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError) and error.strerror:
        first = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if FULL_DISK.search(text):
        return f"{first}; make room, or choose another folder"
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
        helps = LESS_MEMORY.get(command, "a machine with more, or fewer other programs on this one")
        return f"there is not enough memory ({first}). What helps: {helps}"
    if isinstance(error, ModuleNotFoundError):
        return f"{first}; the packages of requirements.txt belong to deeplab_jax: pip install them"
    if NO_DEVICE.search(text):
        return f"{first}; JAX_PLATFORMS=cpu takes the processor"
    if isinstance(error, RuntimeError) and "home directory" in text:  # of Path.expanduser
        return (
            "a path begins with ~, but there is no such home folder: write the path out; the"
            " default of --machine.prepared_dir is such a path too"
        )
    if isinstance(error, UnicodeError):
        return f"a text is not readable as UTF-8 ({first}); save it as UTF-8"
    return first if isinstance(error, OSError) else ""


def written(error: BaseException) -> str:
    """Write an error's whole trace to a file of its own; returns its name."""
    lines = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="deeplab_jax-",
            suffix=".txt",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            file.write(lines)
        return file.name
    except OSError:
        print(lines, file=sys.stderr)
        return "the lines above, as no file can be written"


def reader_left(error: BaseException) -> bool:
    """Whether an error only says that nobody reads this command's output any more."""
    if not isinstance(error, BrokenPipeError) or not hasattr(select, "poll"):
        return False
    poll = select.poll()  # the pipe may be another, of a worker: ask the two of the output
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def leave(message: str, code: int) -> NoReturn:
    """End the command; output that cannot be written is given up, which Python alone would not."""
    try:
        if message:
            print(message, file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
    except OSError:
        os._exit(code)
    sys.exit(code)


def leave_interrupted() -> None:
    """End an interrupted process, not by Python's own end: that crashes where XLA still compiles.

    One of several processes takes leave of the others by that end, and has stopped by then.
    """
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        sys.stderr.flush()
        os._exit(INTERRUPTED)
