"""Reading that bears a passing fault; writing that leaves the old file or the new one, whole."""

import codecs
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deeplab_jax.errors import UserError

PROBE = bytes(4096)
PAUSES = (0.05, 0.2, 0.8)  # seconds, before what failed is tried again
# Trying again does not help: it is not there, or not ours to read.
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# How a text file says at its beginning in which of these it is written.
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}

T = TypeVar("T")


def with_retries(read: Callable[[], T], passing: tuple[type[Exception], ...] = (OSError,)) -> T:
    """Return what `read` returns; where it raises what may pass, try it again a few times."""
    for pause in PAUSES:
        try:
            return read()
        except LASTING:
            raise
        except passing:
            time.sleep(pause)
    return read()


def read_text(path: Path) -> str:
    """Return the text of a file that a user wrote: UTF-8, or UTF-16 with its mark.

    Raises:
      UserError: the file cannot be read, or a line, which is named, is no text in these encodings.
    """
    try:
        data = with_retries(path.read_bytes)
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror})") from error
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding, data = MARKS.get(mark, "utf-8"), data[len(mark) :]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, errors="ignore")
        what = f"the bytes {data[error.start : error.end]!r}, which are no {encoding.upper()}"
    else:
        before, nul, _ = text.partition("\0")
        what = "a NUL character, which is no text"
        if not nul:
            return text
    line = len(f"{before}.".splitlines())
    raise UserError(f"{path}:{line}: holds {what}; save the file as UTF-8 text")


def writable_folder(folder: Path, name: str) -> Path:
    """Make a folder where there is none and try to write there: before the work, not after it.

    Raises:
      UserError: that cannot be done; `name` is what the user set, as "--out" or "workdir".
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(PROBE)
            file.flush()
    except FileExistsError as error:
        raise UserError(f"{name} = {folder}: that is a file; name a folder") from error
    except OSError as error:
        raise UserError(
            f"{name} = {folder}: nothing can be written there ({error.strerror}); choose another"
            " folder, or make room"
        ) from error
    return folder


def write_atomically(file: Path, text: str) -> None:
    """Write beside the file, then rename over it."""
    staging = file.with_name(f"{file.name}.tmp")
    staging.write_text(text)
    os.replace(staging, file)


class Appender:
    """Appends whole lines to a file; what a full disk refuses is kept for the next try."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("ab", buffering=0)
        self._end = file.stat().st_size
        self._unwritten = b""

    def append(self, text: str) -> None:
        """Write the text; if that fails, say so and write it with the next one."""
        self._unwritten += text.encode()
        try:
            written = self._file.write(self._unwritten)
            if written != len(self._unwritten):
                raise OSError("only part of a line could be written")
        except OSError as error:
            self._file.truncate(self._end)
            print(f"warning: {self._file.name}: {error}; tried again later", file=sys.stderr)
        else:
            self._end += written
            self._unwritten = b""

    def close(self) -> None:
        """Write what is left, and close."""
        if self._unwritten:
            self.append("")
        self._file.close()
