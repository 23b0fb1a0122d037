"""Files of arrays from strangers: `.npz`, TensorFlow's checkpoints (in a tar too), safetensors.

A file is data, never code. What it claims is checked before it is believed: its own size bounds
what is read of it, and no path in an archive is followed.
"""

import glob
import gzip
import io
import math
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from safetensors import safe_open

from deeplab_jax.errors import UserError

MAX_BYTES = 2 * 2**30  # what a file may unpack to; the largest official one has about 1 GB
MAX_RATIO = 100  # of unpacked to packed bytes: weights are noise, which hardly shrinks
MAX_MEMBERS = 10_000  # xception_71 with an optimiser's slots has 1300 arrays
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
READABLE = "a TensorFlow checkpoint (its prefix, or a .tar.gz), an .npz or timm's .safetensors"


def read_arrays(source: str) -> dict[str, np.ndarray]:
    """Arrays by name from an .npz, a TF1 checkpoint prefix, the .tar.gz of one, or .safetensors.

    Raises:
      UserError: the file is missing, of another kind, or unreadable; or TensorFlow is missing.
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
            return read_checkpoint(extract_checkpoint(path, Path(folder)))
    return read_checkpoint(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", source))


def size_limit(file: Path) -> int:
    """Bytes that a packed file may unpack to."""
    return min(MAX_BYTES, MAX_RATIO * file.stat().st_size)


@contextmanager
def explain(file: object, kind: str) -> Iterator[None]:
    """Let whatever goes wrong in reading a file be one error, which names it."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as e:  # OSError, BadZipFile, zlib.error, NotImplementedError, TensorFlow's ...
        raise UserError(f"{file}: not a readable {kind} ({e}); was it copied whole?") from e


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


def import_tensorflow() -> Any:
    """TensorFlow, which is needed for its checkpoints alone."""
    try:
        import tensorflow
    except ImportError as e:
        raise UserError("TensorFlow's checkpoints need it: pip install tensorflow-cpu") from e
    return tensorflow


def read_checkpoint(prefix: str) -> dict[str, np.ndarray]:
    """Variables of a TF1 checkpoint, read as variables only: nothing of it is run."""
    if not Path(f"{prefix}.index").is_file():
        inside = sorted(str(file.with_suffix("")) for file in Path(prefix).glob("*.index"))
        there = f"in this folder there are {', '.join(inside)}; " if inside else ""
        raise UserError(f"{prefix}: no checkpoint there (PREFIX.index); {there}give {READABLE}")
    load_checkpoint = import_tensorflow().train.load_checkpoint
    with explain(prefix, "TensorFlow checkpoint"):
        reader = load_checkpoint(prefix)
        check_variables(reader, prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def check_variables(reader: Any, prefix: str) -> None:
    """Raise ValueError unless all variables are numbers and take no more than the data files."""
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    for name, dtype in dtypes.items():
        if not (dtype.is_floating or dtype.is_integer):
            raise ValueError(f"{name} has type {dtype.name}, allowed are numbers")
    total = sum(math.prod(shape) * dtypes[name].size for name, shape in shapes.items())
    files = glob.glob(f"{glob.escape(prefix)}.data-*")
    limit = min(MAX_BYTES, sum(Path(file).stat().st_size for file in files))
    if len(shapes) > MAX_MEMBERS or total > limit:
        raise ValueError(f"{len(shapes)} variables claim {total} bytes of {limit}")


def extract_checkpoint(archive: Path, folder: Path) -> str:
    """Unpack the .index and .data files of a tar into `folder`; returns the checkpoint's prefix."""
    with explain(archive, "tar archive"):
        with archive.open("rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(archive) if gzipped else archive.open("rb") as stream:
            for name, data in read_tar(stream, size_limit(archive)):
                if ".index" in name or ".data-" in name:
                    (folder / name).write_bytes(data)
    prefixes = sorted(p.name.removesuffix(".index") for p in folder.glob("?*.index"))
    if not prefixes:
        raise UserError(f"{archive}: holds no checkpoint (no *.index file); is it a frozen graph?")
    return str(folder / prefixes[0])


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
