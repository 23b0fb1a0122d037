"""`convert` and `export-tf`: what they take, what they say, what they refuse."""

import dataclasses
import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import chex
import numpy as np
import official
import pytest
from conftest import TINY_MODEL
from synthetic import random_variables

import deeplab_jax
from deeplab_jax import Config, UserError
from deeplab_jax.commands import convert, export_tf
from deeplab_jax.weights import to_tf_variables
from deeplab_jax.weights.convert import (
    convert_variables,
    extract_checkpoint,
    read_arrays,
    write_tf_arrays,
)
from deeplab_jax.weights.files import Weights, load_weights, save_weights

CONFIG = Config(model=TINY_MODEL)
CLASSES = (("a", "b", "c"), ((0, 0, 0), (1, 2, 3), (4, 5, 6)))


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("npz") / "tiny.npz"
    arrays = to_tf_variables(random_variables(TINY_MODEL), TINY_MODEL)
    np.savez(path, **arrays, global_step=np.zeros(()))
    return path


def test_report_counts_what_matched_and_what_was_left(npz: Path) -> None:
    variables, report = convert_variables(
        read_arrays(str(npz)), CONFIG, timm=False, backbone_only=False, fresh_logits=False
    )
    assert set(variables["params"]) == {"backbone", "aspp", "decoder0", "logits"}
    assert report.splitlines()[0].endswith("; 1 arrays of the file were left out")
    assert "global_step []" in report


def test_fresh_logits_take_another_number_of_classes(npz: Path) -> None:
    config = Config(model=dataclasses.replace(TINY_MODEL, num_classes=7))
    variables, report = convert_variables(
        read_arrays(str(npz)), config, timm=False, backbone_only=False, fresh_logits=True
    )
    assert variables["params"]["logits"]["bias"].shape == (7,)
    assert "logits/semantic/weights [1, 1, 8, 3]" in report


def test_converting_the_voc_network_and_predicting(tmp_path: Path) -> None:
    source = official.shared("weights", "deeplabv3_mnv2_dm05_os8_voc_float.npz")
    out = tmp_path / "voc"
    convert(
        f"{source} --out {out} --model.backbone=mobilenet_v2 --model.width=0.5"
        " --model.head=deeplabv3 --model.output_stride=8 --model.atrous_rates"
        " --data.resize=fit --data.eval_size 257 257".split()
    )
    predictor = deeplab_jax.load(out)
    image = official.shared("photos", "cat_720p.jpg")
    from deeplab_jax.data.decode import decode_image

    label = predictor.predict(decode_image(image.read_bytes(), "cat"))
    assert np.mean(label == predictor.class_names.index("cat")) > 0.2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"not a zip", r"a\.npz: not a readable"),
        ("a.tar.gz", b"not a tar", r"a\.tar\.gz: not a readable tar"),
        ("model.ckpt", b"", r"no checkpoint there"),
        ("a.safetensors", b"no", r"a\.safetensors: not a readable safetensors"),
        ("a.pth", b"", r"a\.pth: a pickle can run code.*\n(.*\n)*.*save_file"),
    ],
)
def test_unreadable_sources(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_arrays(str(tmp_path / name))


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="not a readable"):
        read_arrays(str(tmp_path / "a.npz"))


def test_names_in_an_archive_are_not_trusted(tmp_path: Path) -> None:
    """A name that climbs out lands inside, a link is passed over, no checkpoint is an error."""
    archive, inside = tmp_path / "a.tar", tmp_path / "inside"
    inside.mkdir()
    with tarfile.open(archive, "w") as tar:
        for name in ("../../climbed.index", "/abs.data-00000-of-00001"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link.index")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert extract_checkpoint(archive, inside) == str(inside / "climbed")
    assert sorted(p.name for p in inside.iterdir()) == ["abs.data-00000-of-00001", "climbed.index"]
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("frozen_inference_graph.pb"))
    with pytest.raises(UserError, match=r"holds no checkpoint"):
        extract_checkpoint(archive, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    variables = random_variables(TINY_MODEL)
    save_weights(tmp_path / "ours", Weights(CONFIG, variables, *CLASSES))
    return tmp_path / "ours"


def back(source: Path, folder: Path) -> Any:
    """`source` converted again, with the configuration that `folder` holds."""
    out = folder.with_name("back")
    convert(f"{source} --out {out} --config={folder / 'config.json'}".split())
    return load_weights(out).variables


def test_npz_there_and_back(folder: Path) -> None:
    file = folder.parent / "new" / "tiny.npz"
    export_tf(f"{folder} --out {file}".split())
    chex.assert_trees_all_equal(back(file, folder), load_weights(folder).variables)


def test_a_tf1_checkpoint_there_and_back(folder: Path) -> None:
    reason = "writing and reading TF1 checkpoints needs TensorFlow: pip install tensorflow-cpu"
    tf = pytest.importorskip("tensorflow", reason=reason)
    prefix = folder.parent / "new" / "model.ckpt-0"
    export_tf(f"{folder} --out {prefix}".split())
    weights = load_weights(folder)
    arrays = to_tf_variables(weights.variables, TINY_MODEL)
    reader = tf.train.load_checkpoint(str(prefix))
    assert set(reader.get_variable_to_shape_map()) == {*arrays, "global_step"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(reader.get_tensor(name), array)
    archive = folder.parent / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file in prefix.parent.glob("model.ckpt-0.*"):
            tar.add(file, f"deeplab/{file.name}")
    for source in (prefix, prefix.with_name("model.ckpt-0.index"), archive):
        chex.assert_trees_all_equal(back(source, folder), weights.variables)


def test_without_tensorflow_a_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "model.ckpt.index").touch()
    with pytest.raises(UserError, match="pip install tensorflow-cpu"):
        read_arrays(str(tmp_path / "model.ckpt"))
    with pytest.raises(UserError, match="pip install tensorflow-cpu"):
        write_tf_arrays(str(tmp_path / "new.ckpt"), {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_tf_arrays(str(tmp_path / "file" / "a.npz"), {})
