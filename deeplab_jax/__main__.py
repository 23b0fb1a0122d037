"""The command line: `python -m deeplab_jax COMMAND`; `--help` on any of them."""

import difflib
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from deeplab_jax.cpu import restart_with_huge_pages
from deeplab_jax.errors import UserError, explain, leave, leave_when_told

USAGE = """\
usage: python -m deeplab_jax COMMAND [--help]

  train       train a network, evaluate it and draw its predictions (the same as train.py)
  check-data  every picture and mask of a data set: what is in it, what is wrong, what would help
  evaluate    mIoU, per-class IoU and pictures of a split, from saved weights
  study       variants of one experiment in a table, the paper's or your own
  predict     segment pictures: class indices, overlays, a contact sheet; or classify them
  convert     TensorFlow checkpoints, .npz files or timm's Xceptions into a folder of weights
  export-tf   a folder of weights as an official TensorFlow checkpoint or .npz
  plan        whether a run fits TPUs or GPUs that are not here, and what bounds it
  summary     a network's layers, receptive fields, parameters and multiply-adds
"""


def commands() -> dict[str, Callable[[list[str]], None]]:
    """Imported late: `--help` of the whole needs no JAX."""
    from deeplab_jax import commands as c

    return {
        "train": c.train,
        "check-data": c.check_data,
        "evaluate": c.evaluate,
        "study": c.study,
        "predict": c.predict,
        "convert": c.convert,
        "plan": c.plan,
        "summary": c.summary,
        "export-tf": c.export_tf,
    }


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs on disk, so that a second run starts at once.

    In ~/.cache/deeplab_jax/xla, or where JAX_COMPILATION_CACHE_DIR says ("" for nowhere); nowhere
    without a home, or one that cannot be written to. JAX reads it when it is imported, not yet.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path.home() / ".cache" / "deeplab_jax" / "xla"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    if os.access(folder, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def show_all_names() -> None:
    """Names that the output's encoding lacks are printed with escapes, which is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(command: str, arguments: list[str]) -> None:
    """Run a command, from its arguments to the last line of its output."""
    if command in ("-h", "--help"):
        print(USAGE, end="")
    else:
        known = commands()
        if command not in known:
            near = difflib.get_close_matches(command, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
            raise UserError(f"there is no command {command!r}; {hint}")
        known[command](arguments)


def main(command: str | None = None) -> None:
    """Run a command; whatever goes wrong is a message and an exit code, not a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's and Grain's advice to developers
    arguments = sys.argv[1:]
    if command is None:
        command, arguments = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    show_all_names()
    keep_compiled_programs()
    try:
        try:
            run(command, arguments)
        finally:
            sys.stdout.flush()  # here, where a full disk is still an error with a message
    except (Exception, KeyboardInterrupt) as error:
        leave(*explain(error, command))


if __name__ == "__main__":
    restart_with_huge_pages()
    leave_when_told()
    main()
