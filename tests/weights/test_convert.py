"""`convert`: what it takes, what it says, what it refuses."""

import dataclasses
import io
import tarfile
from pathlib import Path

import numpy as np
import official
import pytest
from conftest import TINY_MODEL
from test_tf_names import tiny_arrays

import deeplab_jax
from deeplab_jax import Config, UserError
from deeplab_jax.commands import convert
from deeplab_jax.weights.convert import convert_variables, extract_checkpoint, read_tf_arrays

CONFIG = Config(model=TINY_MODEL)


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("npz") / "tiny.npz"
    np.savez(path, **tiny_arrays(), global_step=np.zeros(()))
    return path


def test_report_counts_what_matched_and_what_was_left(npz: Path) -> None:
    variables, report = convert_variables(
        read_tf_arrays(str(npz)), CONFIG, backbone_only=False, fresh_logits=False
    )
    assert set(variables["params"]) == {"backbone", "aspp", "decoder0", "logits"}
    assert report.splitlines()[0].endswith("1 variables of the file were left out")
    assert "global_step" in report


def test_fresh_logits_take_another_number_of_classes(npz: Path) -> None:
    config = Config(model=dataclasses.replace(TINY_MODEL, num_classes=7))
    variables, report = convert_variables(
        read_tf_arrays(str(npz)), config, backbone_only=False, fresh_logits=True
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
    ],
)
def test_unreadable_sources(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_tf_arrays(str(tmp_path / name))


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="not a readable"):
        read_tf_arrays(str(tmp_path / "a.npz"))


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


def test_a_tf1_checkpoint_is_read(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow", reason="reading TF1 checkpoints needs tensorflow-cpu")
    arrays = {name: np.asarray(a) for name, a in tiny_arrays().items()}
    prefix = tmp_path / "model.ckpt-7"
    names = list(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[n]) for n in names],
    )
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file in tmp_path.glob("model.ckpt-7.*"):
            tar.add(file, f"deeplab/{file.name}")
    for source in (prefix, f"{prefix}.index", archive):
        read = read_tf_arrays(str(source))
        assert set(read) == set(arrays)
        for name in names:
            np.testing.assert_array_equal(read[name], arrays[name])
