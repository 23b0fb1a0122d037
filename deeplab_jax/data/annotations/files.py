"""Annotation files and the images that they name: read with bounds, and never outside the data.

A name in such a file is only ever looked up among the images that a walk over the data's root has
found, so that none leads out of it.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any

from deeplab_jax.data.walk import is_hidden, walk_images
from deeplab_jax.errors import UserError
from deeplab_jax.files import read_user_text

MAX_BYTES = 2 * 2**30  # of a text; what becomes of it in memory is several times as much
HEAD = 2**16  # bytes, of which a format is known at a glance
MAX_DEPTH = 32  # folders in a name

SHOWN = Repr()
SHOWN.maxlevel, SHOWN.maxlist, SHOWN.maxdict = 2, 4, 4
SHOWN.maxstring = SHOWN.maxother = SHOWN.maxlong = 100

Images = Mapping[str, Path]  # by their paths below the data's root, with forward slashes


def load_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The text of a file, UTF-8 with or without its mark; raises UserError, also above `limit`."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror})") from error
    if size > limit:
        have, most = f"{size / 2**20:.0f} MB", f"{limit / 2**20:.3g} MB"
        raise UserError(
            f"{path}: the file has {have}; at most {most} are read, because it is held in memory as"
            " a whole: export the data in several parts"
        )
    return read_user_text(path)


def load_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """What a JSON file holds; raises UserError."""
    text = load_text(path, limit)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); export it again") from error


def load_head(path: Path) -> str:
    """The beginning and the end of a file, at most `HEAD` bytes each, to know its format by."""
    try:
        with path.open("rb") as file:
            data = file.read(HEAD)
            size = path.stat().st_size
            file.seek(max(size - HEAD, len(data)))
            data += file.read(HEAD)
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror})") from error
    return data.decode("utf-8-sig", errors="replace")


def show(value: object) -> str:
    """A value of a file in a message: short, whatever it holds."""
    try:
        return SHOWN.repr(value).encode("ascii", "backslashreplace").decode()
    except ValueError:  # an integer of thousands of digits
        return "a number without end"


def list_files(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder, none hidden, with such suffixes in lower case; [] if there is none."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not is_hidden(path.name) and path.is_file()
    )


# ---- images


def index_images(root: Path) -> dict[str, Path]:
    """The images below a folder by their paths in it."""
    return {path.relative_to(root).as_posix(): path for path in walk_images(root).images}


def clean(name: str) -> str:
    """A file's name as it was written on any system, with forward slashes."""
    return name.strip().replace("\\", "/")


def find(images: Mapping[str, object], name: str, folders: Iterable[str]) -> tuple[str, str] | None:
    """The key in `images` of a name in a file, and its id; None where there is none.

    It is looked up in each of `folders` (below the root; "" is the root), then without the first
    folders of its path, one more at a time: they are those of the machine that wrote it. The id is
    the path, without suffix, by which it is found.
    """
    parts, folders = clean(name).split("/"), list(folders)
    if len(parts) > MAX_DEPTH:
        return None
    for i in range(len(parts)):
        for folder in folders:
            key = posixpath.normpath(posixpath.join(folder, *parts[i:]))
            if key in images:
                inside = key.removeprefix(f"{folder}/") if folder else key
                return key, stem(inside)
    return None


def stem(key: str) -> str:
    """A path without its suffix."""
    return posixpath.splitext(key)[0]
