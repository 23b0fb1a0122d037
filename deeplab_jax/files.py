"""Writing so that a kill or a full disk leaves the old file or the new one, nothing between."""

import os
import sys
import tempfile
from pathlib import Path

from deeplab_jax.errors import UserError

PROBE = bytes(4096)


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


def write_atomically(file: Path, text: str) -> None:
    """Write beside the file, then rename over it."""
    staging = file.with_name(f"{file.name}.tmp")
    staging.write_text(text, encoding="utf-8")
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
