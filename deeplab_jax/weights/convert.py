"""Official TensorFlow weights into a folder of ours: what matched, was left or does not fit."""

import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from deeplab_jax.config import Config
from deeplab_jax.errors import UserError
from deeplab_jax.models import build_model
from deeplab_jax.weights.tf_names import from_tf_variables, tf_names, unused_variables

MAX_ARCHIVE_BYTES = 4 * 2**30  # the largest official archive unpacks to about 1 GB


def read_tf_arrays(source: str) -> dict[str, np.ndarray]:
    """Arrays by TF variable name from an .npz, a TF1 checkpoint prefix, or the .tar.gz of one.

    Raises:
      UserError: the file is missing, of another kind, or unreadable; TensorFlow is needed and
        absent.
    """
    path = Path(source)
    if path.suffix == ".npz":
        return read_npz(path)
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tempfile.TemporaryDirectory() as folder:
            return read_checkpoint(extract_checkpoint(path, Path(folder)))
    return read_checkpoint(source.removesuffix(".index"))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz, never unpickled."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise UserError(f"{path}: not a readable .npz of plain arrays ({e})") from e


def read_checkpoint(prefix: str) -> dict[str, np.ndarray]:
    """Variables of a TF1 checkpoint, read as variables only: nothing of it is run."""
    if not Path(prefix + ".index").is_file():
        raise UserError(
            f"{prefix}: no checkpoint there (no {prefix}.index); give PREFIX of PREFIX.index and"
            " PREFIX.data-00000-of-00001, a .tar.gz of these, or an .npz"
        )
    try:
        from tensorflow.train import load_checkpoint
    except ImportError as e:
        raise UserError(
            "reading a TensorFlow checkpoint needs TensorFlow, here and nowhere else:"
            " pip install tensorflow-cpu"
        ) from e
    try:
        reader = load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except Exception as e:  # TensorFlow's own errors are of many classes
        raise UserError(f"{prefix}: not a readable TensorFlow checkpoint ({e})") from e


def extract_checkpoint(archive: Path, folder: Path) -> str:
    """Unpack the plain .index and .data files of an archive into `folder`; returns the prefix.

    Names inside the archive are not trusted: only their last part is used, links are passed over.
    """
    try:
        with tarfile.open(archive) as tar:
            members = [m for m in tar if m.isfile() and (".index" in m.name or ".data-" in m.name)]
            if sum(m.size for m in members) > MAX_ARCHIVE_BYTES:
                raise UserError(f"{archive}: unpacks to more than {MAX_ARCHIVE_BYTES >> 30} GB")
            for member in members:
                content = tar.extractfile(member)
                assert content is not None  # isfile()
                (folder / Path(member.name).name).write_bytes(content.read())
    except (OSError, tarfile.TarError, EOFError) as e:
        raise UserError(f"{archive}: not a readable tar archive ({e})") from e
    prefixes = sorted(p.name.removesuffix(".index") for p in folder.glob("*.index"))
    if not prefixes:
        raise UserError(f"{archive}: holds no checkpoint (no *.index file); is it a frozen graph?")
    return str(folder / prefixes[0])


def convert_variables(
    arrays: Mapping[str, np.ndarray], config: Config, *, backbone_only: bool, fresh_logits: bool
) -> tuple[dict[str, Any], str]:
    """Our variables, and a report of what matched and what was left."""
    model = config.model
    modules = {path[1] for path in tf_names(model)}
    skip = modules - {"backbone"} if backbone_only else {"logits"} if fresh_logits else set()
    variables = from_tf_variables(arrays, model, skip=tuple(skip))
    if fresh_logits and not backbone_only:
        variables["params"]["logits"] = fresh_module(config, "logits")
    left = unused_variables(arrays, model)
    if skip:
        left += [n for p, n in tf_names(model).items() if p[1] in skip and n in arrays]
    count = len(flatten_dict(variables))
    lines = [f"{count} arrays matched; {len(left)} variables of the file were left out"]
    lines += [f"  {name} {list(arrays[name].shape)}" for name in sorted(left)[:20]]
    lines += [f"  ... and {len(left) - 20} more"] if len(left) > 20 else []
    lines += ["the last layer starts afresh"] if fresh_logits else []
    return variables, "\n".join(lines)


def fresh_module(config: Config, name: str) -> Any:
    """Randomly initialised parameters of one top-level module."""
    image = np.zeros((1, 65, 65, 3), np.float32)

    def init(key: jax.Array) -> Any:
        return build_model(config.model).init(key, image, train=False)["params"][name]

    return jax.jit(init)(jax.random.key(config.train.seed))
