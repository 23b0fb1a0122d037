"""Writing so that a kill or a full disk leaves the old file or the new one, nothing between."""

import os
import sys
from pathlib import Path


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
