"""The command line: `python -m deeplab_jax COMMAND`; `--help` on any of them."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from deeplab_jax.cpu import restart_with_huge_pages
from deeplab_jax.errors import UserError, leave_when_told

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

    In ~/.cache/deeplab_jax/xla, or where JAX_COMPILATION_CACHE_DIR says ("" for nowhere).
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path.home() / ".cache" / "deeplab_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def main(command: str | None = None) -> None:
    """Run a command; a user's mistake is a message and exit code 2, not a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's and Grain's advice to developers
    arguments = sys.argv[1:]
    if command is None:
        command, arguments = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return
    keep_compiled_programs()
    try:
        known = commands()
        if command not in known:
            raise UserError(f"there is no command {command!r}; choose one of {', '.join(known)}")
        known[command](arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    restart_with_huge_pages()
    leave_when_told()
    main()
