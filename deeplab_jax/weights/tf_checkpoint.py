"""TensorFlow's checkpoints without TensorFlow: where one lies, and all its variables.

Variables are read, and nothing else of it: no graph is, and nothing is run. Sizes are held against
the files' lengths before anything is allocated, and every value against its checksum.
"""

import glob
import re
from pathlib import Path, PureWindowsPath

import numpy as np

from deeplab_jax.errors import UserError
from deeplab_jax.files import inside
from deeplab_jax.weights.claims import READABLE, explain
from deeplab_jax.weights.tf_bundle import read_bundle
from deeplab_jax.weights.tf_tables import is_table
from deeplab_jax.weights.tf_v1 import read_v1

ENDINGS = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")
NEWEST = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
SHARD = re.compile(r"-(?:\d{5}|\?{5})-of-(\d{5})$")  # of V1: model.ckpt-00000-of-00002
MAX_TEXT = 2**16  # bytes of a folder's `checkpoint`; the newest stands in the first line


def read_checkpoint(source: str | Path) -> dict[str, np.ndarray]:
    """Variables by name, of the types they have there; texts are object arrays of bytes.

    `source`: the prefix of a checkpoint (PREFIX.index), one of its files, or its folder, of which
    the newest is taken. Both forms are read, V2 and V1. Names of TensorFlow 2's objects are kept:
    model/kernel/.ATTRIBUTES/VARIABLE_VALUE.

    Raises:
      UserError: there is none, or it is damaged.
    """
    source = Path(source)
    prefix = find_prefix(source)
    with explain(prefix, "TensorFlow checkpoint"):
        if is_bundle(prefix):
            return read_bundle(prefix)
        if files := v1_files(prefix):
            return read_v1(files)
    found = sorted(str(file.with_suffix("")) for file in source.glob("*.index"))
    there = f"in this folder there are {', '.join(found)}; " if found else ""
    raise UserError(f"{prefix}: no checkpoint there (PREFIX.index); {there}give {READABLE}")


def is_checkpoint(source: Path) -> bool:
    """Whether a path is the prefix of a checkpoint, or one of its files."""
    if source.is_dir():
        return False
    prefix = find_prefix(source)
    return is_bundle(prefix) or bool(v1_files(prefix))


def find_prefix(source: Path) -> Path:
    """The prefix that a path stands for; in a folder that of the newest, or of the only one."""
    if not source.is_dir():
        return Path(ENDINGS.sub("", str(source)))
    if (source / "checkpoint").is_file():
        return find_newest(source)
    found = list(source.glob("*.index"))
    return found[0].with_suffix("") if len(found) == 1 else source


def find_newest(folder: Path) -> Path:
    """The prefix in a folder's `checkpoint`, which may have been written in another place."""
    text = folder / "checkpoint"
    with explain(text, "list of checkpoints"), text.open("rb") as file:
        match = NEWEST.search(file.read(MAX_TEXT))
        if match is None:
            raise ValueError('there is no model_checkpoint_path: "NAME" in it')
        name = re.sub(rb"\\([0-7]{3}|.)", unescape, match[1]).decode()
        path = PureWindowsPath(name)  # which knows both kinds of slashes
        if not path.name:
            raise ValueError(f"model_checkpoint_path = {name!r} is no file")
        # The folder of its files must be inside, not the prefix: ../FOLDER means ../FOLDER.index.
        return inside(folder, "." if path.anchor else path.parent.as_posix()) / path.name


def unescape(match: re.Match[bytes]) -> bytes:
    r"""The byte that \ooo or \" stands for in protobuf's text."""
    return match[1] if len(match[1]) == 1 else bytes([int(match[1], 8) % 256])


def is_bundle(prefix: Path) -> bool:
    """Whether there is a V2 checkpoint of that prefix."""
    return Path(f"{prefix}.index").is_file()


def v1_files(prefix: Path) -> list[Path]:
    """All files of the V1 checkpoint of that prefix: itself, or PREFIX-00000-of-00002, ..."""
    name = SHARD.sub("", prefix.name)
    if prefix.is_file() and name == prefix.name:
        with prefix.open("rb") as file:
            return [prefix] if is_table(file) else []
    if name == prefix.name:
        found = sorted(prefix.parent.glob(f"{glob.escape(name)}-?????-of-?????"))
        return v1_files(found[0]) if found else []
    count = int(prefix.name[-5:])
    files = [prefix.with_name(f"{name}-{i:05}-of-{count:05}") for i in range(count)]
    return files if files and files[0].is_file() else []
