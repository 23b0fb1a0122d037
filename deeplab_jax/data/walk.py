"""Which files of a folder are images: one walk for training, checking and prediction."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from deeplab_jax.errors import UserError

_KINDS = "png jpg jpeg jpe jfif webp bmp gif tif tiff ppm pgm"
SUFFIXES = frozenset(f".{kind}" for kind in _KINDS.split())
# What Macs, Synology and QNAP boxes and Windows leave in folders.
SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)


class Walk(NamedTuple):
    """The images below a folder in order of path; how many files of other kinds there are.

    `passed_over` counts by suffix, in lower case, and as "hidden".
    """

    images: list[Path]
    passed_over: Counter[str]

    def describe(self) -> str:
        """What was passed over, as '3 files passed over (2 .heic, 1 hidden)'; '' if nothing was."""
        n = self.passed_over.total()
        kinds = ", ".join(f"{k} {kind}" for kind, k in self.passed_over.most_common())
        return f"{n} file{'s' if n > 1 else ''} passed over ({kinds})" if n else ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden (.ipynb_checkpoints, ._NAME.png) or the system's own."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def list_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in order, without hidden ones."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def walk_images(folder: Path, suffixes: Collection[str] = SUFFIXES) -> Walk:
    """Find the images of a folder and of the folders in it, links followed: files so named.

    Raises:
      UserError: a folder in it cannot be read.
    """
    images: list[Path] = []
    passed_over: Counter[str] = Counter()
    for path in _files(folder):
        suffix = path.suffix.lower()
        if is_hidden(path.name):
            passed_over["hidden"] += 1
        elif suffix in suffixes:
            images.append(path)
        else:
            passed_over[suffix or "without suffix"] += 1
    return Walk(sorted(images), passed_over)


def state_of(folder: Path) -> int:
    """A number that changes with the name, size or time of any file below a folder."""

    def state(path: Path) -> tuple[str, int, int]:
        try:
            found = path.stat()
        except OSError:  # a link to nothing, say
            return str(path), -1, -1
        return str(path), found.st_size, found.st_mtime_ns

    return hash(tuple(sorted(map(state, _files(folder))))) if folder.is_dir() else 0


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: this folder cannot be read ({error.strerror})")

    # Data sets are often linked into place; a link that leads back up must not be followed again.
    seen: set[str] = set()
    for directory, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(directory, name) for name in names)
