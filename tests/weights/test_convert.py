"""`convert` and `export-tf`: what they take, what they say, what they refuse."""

import dataclasses
import io
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import chex
import numpy as np
import official
import pytest
from conftest import TINY_MODEL
from synthetic import random_variables
from tf_writer import write_bundle

import deeplab_jax
from deeplab_jax import Config, UserError
from deeplab_jax.cli import convert, export_tf
from deeplab_jax.config import TaskConfig, save_json
from deeplab_jax.weights import from_tf_variables, to_tf_variables
from deeplab_jax.weights.convert import class_list, convert_variables, write_tf_arrays
from deeplab_jax.weights.files import Weights, load_weights, save_weights
from deeplab_jax.weights.readers import extract_checkpoint, read_arrays
from deeplab_jax.weights.zoo import MNV2, ROWS, Row

TASK = TaskConfig(classes=("a", "b", "c"), colors=((0, 0, 0), (1, 2, 3), (4, 5, 6)))


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("npz") / "tiny.npz"
    arrays = to_tf_variables(random_variables(TINY_MODEL), TINY_MODEL)
    np.savez(path, **arrays, global_step=np.zeros(()))
    return path


def test_report_counts_what_matched_and_what_was_left(npz: Path) -> None:
    variables, report = convert_variables(
        read_arrays(str(npz)), TINY_MODEL, timm=False, backbone_only=False, fresh_logits=False
    )
    assert set(variables["params"]) == {"backbone", "aspp", "decoder0", "logits"}
    assert report.splitlines()[0].endswith("; 1 arrays of the file were left out")
    assert "global_step []" in report


def test_fresh_logits_take_another_number_of_classes(npz: Path) -> None:
    config = dataclasses.replace(TINY_MODEL, num_classes=7)
    variables, report = convert_variables(
        read_arrays(str(npz)), config, timm=False, backbone_only=False, fresh_logits=True
    )
    assert variables["params"]["logits"]["bias"].shape == (7,)
    assert "logits/semantic/weights [1, 1, 8, 3]" in report


def test_a_decoder_that_makes_the_logits_starts_afresh_with_them() -> None:
    model = dataclasses.replace(TINY_MODEL, decoder_merge="sum", decoder_logits=True)
    arrays = to_tf_variables(random_variables(model), model)
    wider = dataclasses.replace(model, num_classes=7)
    with pytest.raises(UserError, match="--fresh-logits"):
        from_tf_variables(arrays, wider)
    variables, _ = convert_variables(
        arrays, wider, timm=False, backbone_only=False, fresh_logits=True
    )
    assert variables["params"]["decoder0"]["conv0"]["bias"].shape == (7,)


def test_converting_the_voc_network_and_predicting(tmp_path: Path) -> None:
    source = official.shared("weights", "deeplabv3_mnv2_dm05_os8_voc_float.npz")
    out = tmp_path / "voc"
    convert(
        f"{source} --out {out} --model.output_stride=8"
        " --task.resize=fit --task.eval_size 257 257".split()
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
        ("a.pth", b"", r"a\.pth: a pickle can run code.*save_file.*convert"),
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


def npy(claim: str, content: bytes) -> bytes:
    """An .npy whose header is `claim`."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(claim)) + claim.encode() + content


CLAIM = "{'descr': '%s', 'fortran_order': False, 'shape': %s}\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", npy(CLAIM % ("<f4", "(1000000000000,)"), b"1234"), "is not its size"),
        ("x.npy", npy(CLAIM % ("<f4", "(-2, -2)"), bytes(16)), "not a readable"),
        ("x.npy", npy(CLAIM % ("|O", "(1,)"), b"\x80\x04N."), "has type object"),
        ("x.npy", npy(CLAIM % ("<U3", "(1,)"), bytes(12)), "has type <U3"),
        ("x.npy", npy("(" * 9000, b""), "not a readable"),
        ("x.txt", b"text", "magic string"),
    ],
)
def test_claims_of_an_npz(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, content)
    with pytest.raises(UserError, match=rf"a\.npz: .*{message}"):
        read_arrays(str(tmp_path / "a.npz"))


def test_a_zip_bomb_is_refused_by_what_it_claims_and_cut_at_it(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(2**22, np.float32))
    with pytest.raises(UserError, match="too much for its size"):
        read_arrays(str(tmp_path / "a.npz"))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(CLAIM % ("<f4", "(1,)"), bytes(2**24)))
    data = (tmp_path / "a.npz").read_bytes()
    real = 2**24 + len(npy(CLAIM % ("<f4", "(1,)"), b""))
    lie = data.replace(struct.pack("<I", real), struct.pack("<I", real - 2**24 + 4))
    (tmp_path / "a.npz").write_bytes(lie)
    tracemalloc.start()
    with pytest.raises(UserError, match="not a readable"):  # its checksum is that of all
        read_arrays(str(tmp_path / "a.npz"))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_member_is_only_a_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"../../up": np.ones(2, np.float32)})
    assert list(read_arrays(str(tmp_path / "a.npz"))) == ["../../up"]


def test_arrays_that_are_not_finite_are_named(npz: Path, tmp_path: Path) -> None:
    arrays = read_arrays(str(npz))
    arrays["logits/semantic/biases"] = np.array([0.0, np.nan, 1e300])
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match="not finite") as error:
        deeplab_jax.weights.from_tf_variables(read_arrays(str(tmp_path / "a.npz")), TINY_MODEL)
    assert "logits/semantic/biases: 2 of 3" in str(error.value)


def test_a_gzip_bomb_is_refused_unread(tmp_path: Path) -> None:
    for name in ("a.index", "long name, which is no file"):
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
            info = tarfile.TarInfo(name)
            info.size, info.type = 2**24, tarfile.REGTYPE if name == "a.index" else b"L"
            tar.addfile(info, io.BytesIO(bytes(2**24)))
        with pytest.raises(UserError, match=r"a\.tar\.gz: .* too much for its size"):
            extract_checkpoint(tmp_path / "a.tar.gz", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_cut_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.index")
        info.size = 5000
        tar.addfile(info, io.BytesIO(bytes(5000)))
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:3000])
    with pytest.raises(UserError, match="ends inside a file"):
        extract_checkpoint(tmp_path / "a.tar", tmp_path)


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
    save_weights(tmp_path / "ours", Weights(TINY_MODEL, TASK, variables))
    return tmp_path / "ours"


def back(source: Path | str, folder: Path) -> Any:
    """`source` converted again, with the configuration that `folder` holds."""
    out = folder.with_name("back")
    save_json(Config(model=load_weights(folder).model), folder / "config.json")
    convert(f"{source} --out {out} --config={folder / 'config.json'}".split())
    return load_weights(out).variables


def test_no_flag_is_needed_and_what_is_not_told_is_said(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an archive of the zoo, by its name, the zoo says it."""
    convert(f"{npz} --out {tmp_path / 'w'} --model.output_stride=8".split())
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("not told by the file: activation relu, atrous_rates (12, 24, 36), ")
    assert "(the official defaults); eval_size None; resize keep; classes class 0, " in line
    assert "output_stride" not in line and "multi_grid" not in line
    model = load_weights(tmp_path / "w").model
    assert dataclasses.replace(model, batch_norm_decay=0.9, output_stride=16) == TINY_MODEL
    zoo = tmp_path / "mobilenet.npz"
    zoo.write_bytes(npz.read_bytes())
    row = Row(f"http://x/{zoo.name}", "VOC", "", 1, MNV2 | {"output_stride": 8}, (33, 65), "fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROWS, "mine", row._replace(flags=row.flags | {"atrous_rates": (1, 2, 3)}))
        convert(f"{zoo} --out {tmp_path / 'zoo'}".split())
    line = capsys.readouterr().out.splitlines()[1]
    assert "atrous_rates (1, 2, 3), " in line and "(as the zoo has it of mine)" in line
    assert "; eval_size (33, 65); resize fit; classes class 0, " in line
    weights = load_weights(tmp_path / "zoo")
    assert weights.task.eval_size == (33, 65) and weights.model.output_stride == 8


def test_classes_are_those_of_official_data_with_as_many(tmp_path: Path) -> None:
    for count, name in ((21, "aeroplane"), (19, "sidewalk"), (151, "wall"), (20, "class 1")):
        names, colors = class_list(None, count)
        assert len(names) == len(colors) == count and names[1] == name
    (tmp_path / "classes.txt").write_text("a\nb")
    with pytest.raises(UserError, match="number of names = 2"):
        class_list(tmp_path / "classes.txt", 3)


def test_npz_there_and_back(folder: Path) -> None:
    file = folder.parent / "new" / "tiny.npz"
    export_tf(f"{folder} --out {file}".split())
    chex.assert_trees_all_equal(back(file, folder), load_weights(folder).variables)


def test_a_tf1_checkpoint_is_converted(folder: Path, tmp_path: Path) -> None:
    """The form of it: its prefix, a file of it, a folder, an archive as the zoo's."""
    weights = load_weights(folder)
    prefix = tmp_path / "run" / "model.ckpt-0"
    prefix.parent.mkdir()
    arrays = to_tf_variables(weights.variables, TINY_MODEL)
    write_bundle(prefix, {**arrays, "global_step": np.array(0)})
    archive = folder.parent / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file in prefix.parent.iterdir():
            tar.add(file, f"deeplab/{file.name}")
    for source in (prefix, f"{prefix}.index", prefix.parent, archive):
        chex.assert_trees_all_equal(back(source, folder), weights.variables)


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_archive_is_named_as_it_was_given(tmp_path: Path, damage: str) -> None:
    write_bundle(tmp_path / "model.ckpt", {"a": np.ones(1000, np.float32)})
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-100])
    else:
        data.unlink()
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file in tmp_path.glob("model.ckpt.*"):
            tar.add(file, f"deeplab/{file.name}")
    with pytest.raises(UserError) as error:
        read_arrays(str(archive))
    assert str(error.value).startswith(f"{archive}: model.ckpt: ")
    assert str(error.value).replace(str(archive), "").count("/tmp") == 0


def test_what_tensorflow_exports_is_read_back(folder: Path) -> None:
    reason = "writing TF1 checkpoints needs TensorFlow: pip install tensorflow-cpu"
    tf = pytest.importorskip("tensorflow", reason=reason)
    prefix = folder.parent / "new" / "model.ckpt-0"
    export_tf(f"{folder} --out {prefix}".split())
    weights = load_weights(folder)
    arrays = to_tf_variables(weights.variables, TINY_MODEL)
    reader = tf.train.load_checkpoint(str(prefix))
    assert set(reader.get_variable_to_shape_map()) == {*arrays, "global_step"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(reader.get_tensor(name), array)
    chex.assert_trees_all_equal(back(prefix, folder), weights.variables)


def test_without_tensorflow_no_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"pip install tensorflow-cpu, or write an \.npz"):
        write_tf_arrays(str(tmp_path / "new.ckpt"), {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_tf_arrays(str(tmp_path / "file" / "a.npz"), {})


def test_out_of_memory_is_not_called_an_unreadable_file(
    npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("deeplab_jax.weights.readers.read_npy", raising)
    with pytest.raises(MemoryError):
        read_arrays(str(npz))
