"""Weights of others into ours: what matched, was left or does not fit; and ours into TF's files."""

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
from deeplab_jax.models.build import init_variables
from deeplab_jax.weights.files import read_safetensors
from deeplab_jax.weights.slots import fill, shorten, unused
from deeplab_jax.weights.tf_names import tf_slots, unfold_batch_norm
from deeplab_jax.weights.timm import check_network, timm_slots

PICKLES = (".pth", ".pt", ".bin", ".pkl", ".pickle")
SAVE_AS_SAFETENSORS = """\
a pickle can run code when it is read, so none is. Save it as safetensors, where PyTorch is:
  import safetensors.torch, torch
  state = torch.load("model.pth", map_location="cpu", weights_only=True)
  safetensors.torch.save_file(state, "model.safetensors")"""
MAX_ARCHIVE_BYTES = 4 * 2**30  # the largest official archive unpacks to about 1 GB


def read_arrays(source: str) -> dict[str, np.ndarray]:
    """Arrays by name from an .npz, a TF1 checkpoint prefix, the .tar.gz of one, or .safetensors.

    Raises:
      UserError: the file is missing, of another kind, or unreadable; TensorFlow is needed and
        absent.
    """
    path = Path(source)
    if path.suffix in PICKLES:
        raise UserError(f"{source}: {SAVE_AS_SAFETENSORS}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
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
    load_checkpoint = tensorflow().train.load_checkpoint
    try:
        reader = load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except Exception as e:  # TensorFlow's own errors are of many classes
        raise UserError(f"{prefix}: not a readable TensorFlow checkpoint ({e})") from e


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


def convert_variables(
    arrays: Mapping[str, np.ndarray],
    config: Config,
    *,
    timm: bool,
    backbone_only: bool,
    fresh_logits: bool,
) -> tuple[dict[str, Any], str]:
    """Our variables from arrays under TF names or timm's; what matched and what was left.

    Raises:
      UserError: the arrays do not fit the network, or timm has no such network.
    """
    model, fresh_logits = config.model, fresh_logits and not backbone_only
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
        variables["params"]["logits"] = fresh_parameters(config, "logits")
        lines += ["the last layer starts afresh"]
    return variables, "\n".join(lines)


def fresh_parameters(config: Config, module: str) -> Any:
    """Untrained parameters of one top-level module."""
    init = jax.jit(lambda key: init_variables(config.model, key)["params"][module])
    return init(jax.random.key(config.train.seed))
