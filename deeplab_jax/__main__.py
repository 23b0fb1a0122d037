"""The front door: `deeplab COMMAND`, which is `python -m deeplab_jax COMMAND`."""

import difflib
import logging
import os
import sys
from collections.abc import Callable

from deeplab_jax import cli
from deeplab_jax.errors import (
    INTERRUPTED,
    UserError,
    explain,
    leave,
    leave_interrupted,
    leave_when_told,
)
from deeplab_jax.process import keep_compiled_programs, restart_with_huge_pages, show_all_names


def find_command(name: str) -> Callable[[list[str]], None]:
    """The function of a command."""
    names = [line.split()[0] for line in cli.USAGE.splitlines() if line.startswith("  ")]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"
        raise UserError(f"there is no command {name!r}; {hint}")
    function: Callable[[list[str]], None] = getattr(cli, name.replace("-", "_"))
    return function


def main(command: str | None = None) -> None:
    """Run a command; whatever goes wrong is a message and an exit code, not a traceback."""
    arguments = sys.argv[1:]
    if command is None:
        command, arguments = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's and Grain's advice to developers
    show_all_names()
    keep_compiled_programs()
    try:
        try:
            if command in ("-h", "--help"):
                print(cli.USAGE, end="")
            else:
                find_command(command)(arguments)
        finally:
            sys.stdout.flush()  # here, where a full disk is still an error with a message
    except (Exception, KeyboardInterrupt) as error:
        leave(*explain(error, command))


def start(command: str | None = None) -> None:
    """`main` as a process of its own: what only its beginning can set is set first."""
    if not {"-h", "--help", "--help-all"} & {*sys.argv}:
        restart_with_huge_pages()
    leave_when_told()
    try:
        main(command)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            leave_interrupted()
        raise


if __name__ == "__main__":
    start()
