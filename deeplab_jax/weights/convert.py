"""Weights of others into ours: what matched, was left or does not fit; and ours into TF's files."""

import glob
import gzip
import io
import math
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from numpy.lib import format as npy

from deeplab_jax.config import Color, ModelConfig, TaskConfig
from deeplab_jax.data.classes import read_classes
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import voc
from deeplab_jax.errors import UserError
from deeplab_jax.models.build import init_variables
from deeplab_jax.weights.files import (
    MAX_BYTES,
    PICKLES,
    READABLE,
    SAVE_AS_SAFETENSORS,
    Weights,
    read_safetensors,
    save_weights,
)
from deeplab_jax.weights.slots import fill, shorten, unused
from deeplab_jax.weights.tf_names import tf_slots, unfold_batch_norm
from deeplab_jax.weights.timm import check_network, timm_slots

MAX_RATIO = 100  # of unpacked to packed bytes: weights are noise, which hardly shrinks
MAX_MEMBERS = 10_000  # xception_71 with an optimiser's slots has 1300 arrays
NPY_HEADER_BYTES = 2**14  # numpy takes no header above 10 000 bytes


def read_arrays(source: str) -> dict[str, np.ndarray]:
    """Arrays by name from an .npz, a TF1 checkpoint prefix, the .tar.gz of one, or .safetensors.

    Raises:
      UserError: the file is missing, of another kind, or unreadable; TensorFlow is needed and
        absent.
    """
    path = Path(source)
    if path.suffix.lower() in PICKLES:
        raise UserError(f"{source}: {SAVE_AS_SAFETENSORS}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".npz":
        return read_npz(path)
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tempfile.TemporaryDirectory() as folder:
            return read_checkpoint(extract_checkpoint(path, Path(folder)))
    return read_checkpoint(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", source))


def size_limit(file: Path) -> int:
    """Bytes that a packed file may unpack to."""
    return min(MAX_BYTES, MAX_RATIO * file.stat().st_size)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz, never unpickled; nothing is read before all members' headers are checked.

    zipfile gives no more of a member than its claimed size, whatever it would inflate to.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if len(members) > MAX_MEMBERS or total > size_limit(path):
                raise ValueError(f"{len(members)} arrays of {total} bytes: too much for its size")
            for member in members:
                check_npy(archive, member)
            return {m.filename.removesuffix(".npy"): read_npy(archive, m) for m in members}
    except MemoryError:
        raise
    except Exception as e:  # OSError, ValueError, BadZipFile, zlib.error, NotImplementedError ...
        raise UserError(f"{path}: not a readable .npz of plain arrays ({e})") from e


def check_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise ValueError unless a member is an array of numbers that just fills it."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is packed in a way that numpy does not write")
    with archive.open(member) as stream:
        start = io.BytesIO(stream.read(NPY_HEADER_BYTES))
    version = npy.read_magic(start)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(start)
    if dtype.kind not in "fiu":
        raise ValueError(f"{member.filename} has type {dtype}, allowed are numbers")
    if start.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
        raise ValueError(f"{member.filename} claims {dtype} {list(shape)}, which is not its size")


def read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        array: np.ndarray = npy.read_array(stream, allow_pickle=False)
    return array


def read_checkpoint(prefix: str) -> dict[str, np.ndarray]:
    """Variables of a TF1 checkpoint, read as variables only: nothing of it is run."""
    if not Path(prefix + ".index").is_file():
        inside = sorted(str(file.with_suffix("")) for file in Path(prefix).glob("*.index"))
        there = f"; in this folder there are {', '.join(inside)}" if inside else ""
        raise UserError(
            f"{prefix}: no checkpoint there (no {prefix}.index){there}; give {READABLE}; the prefix"
            " of PREFIX.index and PREFIX.data-00000-of-00001 is PREFIX"
        )
    load_checkpoint = tensorflow().train.load_checkpoint
    try:
        reader = load_checkpoint(prefix)
        check_variables(reader, prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except MemoryError:
        raise
    except Exception as e:  # TensorFlow's own errors are of many classes
        raise UserError(f"{prefix}: not a readable TensorFlow checkpoint ({e})") from e


def check_variables(reader: Any, prefix: str) -> None:
    """Raise ValueError unless all variables are numbers and take no more than the data files."""
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    for name, dtype in dtypes.items():
        if not (dtype.is_floating or dtype.is_integer):
            raise ValueError(f"{name} has type {dtype.name}, allowed are numbers")
    total = sum(math.prod(shape) * dtypes[name].size for name, shape in shapes.items())
    data = Path(prefix).parent.glob(glob.escape(Path(prefix).name) + ".data-*")
    limit = min(MAX_BYTES, sum(file.stat().st_size for file in data))
    if len(shapes) > MAX_MEMBERS or total > limit:
        raise ValueError(f"{len(shapes)} variables claim {total} bytes of {limit}")


def tensorflow() -> Any:
    """TensorFlow, imported for its checkpoints alone."""
    try:
        import tensorflow
    except ImportError as e:
        raise UserError(
            "a TensorFlow checkpoint needs TensorFlow, here and nowhere else:"
            " pip install tensorflow-cpu"
        ) from e
    return tensorflow


def extract_checkpoint(archive: Path, folder: Path) -> str:
    """Unpack the plain .index and .data files of an archive into `folder`; returns the prefix.

    Names inside the archive are not trusted: only their last part is used, links are passed over.
    """
    try:
        with open_tar(archive) as stream:
            for member in plain_files(stream, size_limit(archive)):
                name = PurePosixPath(member.name).name
                if ".index" in name or ".data-" in name:
                    copy(stream, member.size, folder / name)
    except (OSError, ValueError, tarfile.TarError, EOFError, zlib.error) as e:
        raise UserError(f"{archive}: not a readable tar archive ({e})") from e
    prefixes = sorted(p.name.removesuffix(".index") for p in folder.glob("?*.index"))
    if not prefixes:
        raise UserError(f"{archive}: holds no checkpoint (no *.index file); is it a frozen graph?")
    return str(folder / prefixes[0])


def open_tar(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(archive) if gzipped else archive.open("rb")  # type: ignore[return-value]


def plain_files(stream: IO[bytes], limit: int) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar; at each, `stream` stands at its content.

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
            yield member
    raise ValueError(f"more than {MAX_MEMBERS} files")


def copy(stream: IO[bytes], size: int, target: Path) -> None:
    """The next `size` bytes of a stream into a file, a piece at a time."""
    with target.open("wb") as out:
        while size > 0:
            piece = stream.read(min(size, 2**20))
            if not piece:
                raise EOFError("it ends inside a file")
            size -= out.write(piece)


def write_tf_arrays(target: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays by TF variable name into an .npz, or a TF1 checkpoint of that prefix.

    Raises:
      UserError: the files cannot be written; TensorFlow is needed and absent.
    """
    path = Path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            np.savez(path, **arrays)  # type: ignore[arg-type]
        else:
            write_checkpoint(str(path), arrays)
    except OSError as e:
        raise UserError(f"{target}: cannot be written ({e})") from e


def write_checkpoint(prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
    """A TF1 checkpoint with global_step 0 beside the arrays.

    The official `vis.py` restores every variable of its graph, global_step among them.
    """
    tf = tensorflow()
    variables = {"global_step": np.zeros((), np.int64), **arrays}
    try:
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            tensors=[tf.constant(array) for array in variables.values()],
        )
    except tf.errors.OpError as e:
        raise UserError(f"{prefix}: cannot be written ({e})") from e


def convert_file(
    source: str,
    out: Path,
    model: ModelConfig,
    task: TaskConfig,
    *,
    classes: Path | None,
    backbone_only: bool,
    fresh_logits: bool,
) -> str:
    """Write a file of another program's weights as a folder of ours; returns what matched.

    Raises:
      UserError: the file is no readable one, or does not fit the network.
    """
    names, colors = class_list(classes, model.classes)
    variables, report = convert_variables(
        read_arrays(source),
        model,
        timm=source.endswith(".safetensors"),
        backbone_only=backbone_only,
        fresh_logits=fresh_logits,
    )
    model = replace(model, num_classes=model.classes)
    task = replace(task, classes=names, colors=colors)
    save_weights(out, Weights(model, task, variables))
    return report


def class_list(file: Path | None, count: int) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Class names and colours of a file; without one, VOC's for 21 classes, else numbers."""
    if file is None and count == len(voc.CLASS_NAMES):
        return voc.CLASS_NAMES, voc.COLORS
    if file is None:
        return tuple(f"class {i}" for i in range(count)), voc_colormap(count)
    names, colors = read_classes(file)
    if len(names) != count:
        raise UserError(f"--classes={file}: {len(names)} names, but model.num_classes is {count}")
    return names, colors


def convert_variables(
    arrays: Mapping[str, np.ndarray],
    model: ModelConfig,
    *,
    timm: bool,
    backbone_only: bool,
    fresh_logits: bool,
) -> tuple[dict[str, Any], str]:
    """Our variables from arrays under TF names or timm's; what matched and what was left.

    Raises:
      UserError: the arrays do not fit the network, or timm has no such network.
    """
    fresh_logits = fresh_logits and not backbone_only
    if timm:
        check_network(arrays, model)
        if not backbone_only and model.head != "classifier":
            raise UserError(
                f"timm has no weights for the head {model.head}: take the backbone with"
                " --backbone-only, or all with --model.head=classifier"
            )
        slots = timm_slots(model)
    else:
        slots = tf_slots(model)
        arrays = unfold_batch_norm(arrays, slots, model)
    modules = {path[1] for path in slots}
    skip = modules - {"backbone"} if backbone_only else {"logits"} if fresh_logits else set()
    variables = fill(arrays, slots, model, skip)
    left = unused(arrays, {path: slot for path, slot in slots.items() if path[1] not in skip})
    matched = len(flatten_dict(variables))
    lines = [f"{matched} arrays matched; {len(left)} arrays of the file were left out"]
    lines += [f"  {name}" for name in shorten(left)]
    if fresh_logits:
        variables["params"]["logits"] = fresh_parameters(model, "logits")
        lines += ["the last layer starts afresh"]
    return variables, "\n".join(lines)


def fresh_parameters(model: ModelConfig, module: str) -> Any:
    """Untrained parameters of one top-level module."""
    init = jax.jit(lambda key: init_variables(model, key)["params"][module])
    return init(jax.random.key(0))
