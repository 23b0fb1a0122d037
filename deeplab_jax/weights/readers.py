"""Files of arrays from strangers: `.npz`, TensorFlow's checkpoints (in a tar too), safetensors.

A file is data, never code. What it claims is checked before it is believed: its own size bounds
what is read of it, and no path in an archive is followed.
"""

import gzip
import io
import math
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.lib import format as npy
from safetensors import safe_open

from deeplab_jax.errors import UserError
from deeplab_jax.weights.claims import MAX_BYTES, MAX_MEMBERS, explain, size_limit
from deeplab_jax.weights.tf_checkpoint import is_checkpoint, read_checkpoint
from deeplab_jax.weights.tf_tables import MAGIC

MAX_HEADER_BYTES = 2**20  # of safetensors; that of xception_71, with 802 arrays, has 0.1 MB
FLOATS = ("F16", "BF16", "F32", "F64")  # safetensors' names of what weights may be
NUMBERS = (*FLOATS, "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")  # counts beside them
LFS_POINTER = b"version https://git-lfs"
TARS = (".tar.gz", ".tgz", ".tar")
PICKLES = (".pth", ".pt", ".bin", ".pkl", ".pickle")
NO_PICKLES = (
    "a pickle can run code when it is read, so none is: where PyTorch is, write its state dict by"
    " safetensors.torch.save_file, and then `deeplab convert model.safetensors --out FOLDER`"
)
OBJECT = "/.ATTRIBUTES/VARIABLE_VALUE"
NO_OBJECTS = (
    "a checkpoint of TensorFlow 2's objects (names end in /.ATTRIBUTES/VARIABLE_VALUE), but the"
    " official networks are those of TensorFlow 1: give such a one, as of the zoo, or an .npz of"
    " its variables under the official names"
)


def read_arrays(source: str) -> dict[str, np.ndarray]:
    """Arrays by name from an .npz, a TF1 checkpoint or the .tar.gz of one, or .safetensors.

    Numbers alone: a checkpoint's strings, booleans and complex numbers are no weights.

    Raises:
      UserError: the file is missing, of another kind, or unreadable.
    """
    path = Path(source)
    if path.suffix.lower() in PICKLES:
        raise UserError(f"{source}: {NO_PICKLES}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".npz":
        return read_npz(path)
    if path.name.endswith(TARS):
        with tempfile.TemporaryDirectory() as folder:
            prefix = extract_checkpoint(path, Path(folder))
            try:
                arrays = read_checkpoint(prefix)
            except UserError as error:  # which names what nobody will find there
                raise UserError(str(error).replace(f"{folder}{os.sep}", f"{path}: ")) from error
    else:
        arrays = read_checkpoint(path)
    if any(name.endswith(OBJECT) for name in arrays):
        raise UserError(f"{source}: {NO_OBJECTS}")
    numbers = (np.integer, np.floating, ml_dtypes.bfloat16)
    return {name: array for name, array in arrays.items() if issubclass(array.dtype.type, numbers)}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz, by name."""
    with explain(path, ".npz of plain arrays"), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if len(members) > MAX_MEMBERS or total > size_limit(path):
            raise ValueError(f"{len(members)} arrays of {total} bytes: too much for its size")
        return {m.filename.removesuffix(".npy"): read_npy(archive, m) for m in members}


def read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array of numbers, which must just fill its member: never unpickled.

    zipfile gives no more of a member than it claims to have, whatever it would inflate to.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is packed in a way that numpy does not write")
    with archive.open(member) as file:
        stream = io.BytesIO(file.read(member.file_size))
    old = npy.read_magic(stream) == (1, 0)
    read_header = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.kind not in "fiu":
        raise ValueError(f"{member.filename} has type {dtype}, allowed are numbers")
    if stream.tell() + math.prod(shape) * dtype.itemsize != len(stream.getbuffer()):
        raise ValueError(f"{member.filename} claims {dtype} {list(shape)}, which is not its size")
    return np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if fortran else "C")


def extract_checkpoint(archive: Path, folder: Path) -> str:
    """Unpack a checkpoint's files of a tar into `folder`; returns the checkpoint's prefix."""
    with explain(archive, "tar archive"):
        with archive.open("rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(archive) if gzipped else archive.open("rb") as stream:
            for name, data in read_tar(stream, size_limit(archive)):
                if ".index" in name or ".data-" in name or data.endswith(MAGIC):
                    (folder / name).write_bytes(data)
    found = sorted(folder.glob("?*.index")) or [
        p for p in sorted(folder.iterdir()) if is_checkpoint(p)
    ]
    if not found:
        raise UserError(f"{archive}: holds no checkpoint (no *.index file); is it a frozen graph?")
    return str(found[0]).removesuffix(".index")


def read_tar(stream: BinaryIO | gzip.GzipFile, limit: int) -> Iterator[tuple[str, bytes]]:
    """Content of the plain files in a tar, by the last part of their names.

    Only the fixed headers count. tarfile's own walk follows the extended ones too, by which a
    file may have gigabytes read as a name, or lead in circles (CVE-2025-8194).
    """
    position, block = 0, tarfile.BLOCKSIZE
    for _ in range(MAX_MEMBERS):
        stream.seek(position)
        header = stream.read(block)
        if not header.strip(b"\0"):
            return
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        position += block + -(-member.size // block) * block
        if member.size < 0 or position > limit:
            raise ValueError(f"unpacks to more than {limit} bytes: too much for its size")
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            data = stream.read(member.size)
            if len(data) < member.size:
                raise EOFError("it ends inside a file")
            yield PurePosixPath(member.name).name, data
    raise ValueError(f"more than {MAX_MEMBERS} files")


@contextmanager
def open_safetensors(file: Path) -> Iterator[Any]:
    """Open a file that the library found to be exactly as long as its arrays."""
    with explain(file, "safetensors file"):
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 30} GB")
        with file.open("rb") as stream:
            start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise UserError(f"{file}: only Git LFS's pointer to the weights; run `git lfs pull`")
        if int.from_bytes(start[:8], "little") > MAX_HEADER_BYTES:
            raise ValueError(f"its header has more than {MAX_HEADER_BYTES >> 20} MB")
        with safe_open(file, framework="numpy") as tensors:
            yield tensors


def read_shapes(file: Path, types: tuple[str, ...] = NUMBERS) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a safetensors file, by name; no array is read.

    Raises:
      UserError: it cannot be read, or an array is not of these types.
    """
    with open_safetensors(file) as tensors:
        parts = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    refused = [f"{name}: {dtype}" for name, (dtype, _) in found.items() if dtype not in types]
    if refused:
        which = f"{', '.join(refused[:20])}; allowed are {', '.join(types)}"
        raise UserError(f"{file}: arrays of types that are no weights: {which}")
    return {name: shape for name, (_, shape) in found.items()}


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file; numbers only."""
    names = read_shapes(file)
    with open_safetensors(file) as tensors:
        return {name: tensors.get_tensor(name) for name in names}
