"""Reading that bears a passing fault; writing that leaves the old file or the new one, whole."""

import codecs
import json
import math
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

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


def read_user_text(path: Path) -> str:
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


def inside(folder: Path, name: str) -> Path:
    """The file of a name, which may have folders, in a folder.

    Raises:
      UserError: it would lie outside.
    """
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{name!r:.200} leads out of {folder}")
    return file


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


def writable_file(file: Path, name: str) -> Path:
    """Try to write into a file's folder, which is made where there is none.

    Raises:
      UserError: that cannot be done, or a folder is in the file's place.
    """
    if file.is_dir():
        raise UserError(f"{name} = {file}: that is a folder; name a file")
    writable_folder(file.parent, name)
    return file


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write beside the file, then rename over it: the whole content or, if that fails, nothing."""
    staging = file.with_name(f".{os.getpid()}.tmp")
    try:
        staging.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(staging, file)
    except OSError:
        with suppress(OSError):
            staging.unlink()
        raise


def json_text(tree: Any, indent: int | None = None) -> str:
    """JSON of plain containers, with null for numbers that are not finite, which JSON lacks."""

    def finite(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: finite(value) for key, value in part.items()}
        if isinstance(part, list | tuple):
            return [finite(value) for value in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(tree), indent=indent, allow_nan=False)


class Locked(Exception):
    """Another process holds a lock; the text says which."""


@contextmanager
def locked(file: Path, *, wait: bool) -> Iterator[None]:
    """Hold a file as a lock: one holder at a time, in this process and in all others.

    The system frees it when its holder ends, however that ends, so that what stands in the file,
    the holder's process id and host, is for people alone. Where the file system has no locks, that
    is said and nothing is locked.

    Raises:
      Locked: another holds it, and `wait` is False.
    """
    # Appending: opening must not erase the holder's text.
    with file.open("a+", encoding="utf-8") as stream:
        try:
            _lock(stream.fileno(), wait)
        except (BlockingIOError, PermissionError) as error:
            stream.seek(0)
            raise Locked(stream.read(200).strip() or "another process") from error
        except OSError as error:
            print(f"warning: {file}: no lock can be had ({error.strerror})", file=sys.stderr)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        try:
            yield
        finally:
            stream.truncate(0)


if sys.platform == "win32":

    def _lock(descriptor: int, wait: bool) -> None:
        import msvcrt

        # A byte far behind the text: others may not even read what is locked.
        os.lseek(descriptor, 2**30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

else:

    def _lock(descriptor: int, wait: bool) -> None:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


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
