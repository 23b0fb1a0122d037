"""TensorFlow's checkpoints: read to the bits, found by what people have, refused when damaged."""

import base64
import hashlib
import json
import shutil
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import official
import pytest
from tf_writer import (
    bundle,
    entry,
    field,
    same,
    samples,
    samples_v2,
    shape_field,
    stored,
    table,
    v1_entries,
    varint,
    write_bundle,
    write_files,
)

from deeplab_jax import UserError
from deeplab_jax.weights.readers import read_arrays
from deeplab_jax.weights.tf_checkpoint import is_checkpoint, read_checkpoint

FIXTURES = {
    "mnv2_dm035_momentum": "model.ckpt-120",
    "dtypes_partitioned": "model.ckpt",
    "sharded": "model.ckpt-7",
    "v1_format": "model.ckpt-30000",
    "v1_format_sharded": "model.ckpt-?????-of-00002",
    "tf2_object": "ckpt-42",
}


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)


def check(arrays: dict[str, np.ndarray], expected: dict[str, Any]) -> None:
    """Names, types, shapes and bits are those of expected.json."""
    assert arrays.keys() == expected.keys()
    for name, want in expected.items():
        array = arrays[name]
        assert list(array.shape) == want["shape"], name
        if want["dtype"] == "string":
            texts = [base64.b64encode(text).decode() for text in array.ravel()]
            assert texts == want["values_base64"], name
        else:
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            assert (array.dtype.name, digest) == (want["dtype"], want["sha256"]), name


@pytest.mark.parametrize("folder", FIXTURES)
def test_what_tensorflow_wrote_is_read_to_the_bits(folder: str) -> None:
    root = official.shared("tf_checkpoints", folder)
    expected = json.loads((root / "expected.json").read_text())
    for source in (root, root / FIXTURES[folder]):
        check(read_checkpoint(source), expected)


def test_an_index_of_several_blocks() -> None:
    root = official.shared("tf_checkpoints", "many_names")
    expected = json.loads((root / "expected.json").read_text())
    arrays, digest = read_checkpoint(root / "model.ckpt"), hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + array.tobytes())
    assert len(arrays) == expected["count"]
    assert digest.hexdigest() == expected["sha256_of_sorted_names_and_bytes"]


def test_expected_arrays_of_all_types() -> None:
    root = official.shared("tf_checkpoints", "dtypes_partitioned")
    arrays = read_checkpoint(root)
    for name, want in np.load(root / "expected.npz").items():
        array = arrays[name.replace(".", "/")]
        array = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
        assert array.dtype == want.dtype and array.tobytes() == want.tobytes()
        assert array.shape == want.shape


def test_an_archive_of_the_zoo() -> None:
    file = official.shared("tf_checkpoints", "deeplabv3_mnv2_dm035_test_2026_11_26.tar.gz")
    expected = json.loads((file.parent / "mnv2_dm035_momentum" / "expected.json").read_text())
    check(read_arrays(str(file)), expected)


def test_objects_of_tensorflow_2_are_named() -> None:
    root = official.shared("tf_checkpoints", "tf2_object")
    with pytest.raises(UserError, match=r"tf2_object: .*TensorFlow 2's objects.*give"):
        read_arrays(str(root))


# What follows writes its own files.


@pytest.mark.parametrize("shards", [1, 3])
def test_a_bundle_of_every_type(tmp_path: Path, shards: int) -> None:
    write_bundle(tmp_path / "m", samples_v2(), shards=shards, parts={"part/weights": 3})
    arrays = read_checkpoint(tmp_path / "m")
    assert same(arrays, samples_v2())
    assert all(array.flags.writeable for array in arrays.values())
    kinds = {array.dtype.name for array in read_arrays(str(tmp_path / "m")).values()}
    assert not kinds & {"object", "bool", "complex64"} and "bfloat16" in kinds


@pytest.mark.parametrize("files", [1, 2])
def test_v1(tmp_path: Path, files: int) -> None:
    names = [f"m-{i:05}-of-{files:05}" for i in range(files)] if files > 1 else ["m"]
    for i, name in enumerate(names):
        arrays = dict(list(samples().items())[i::files])
        (tmp_path / name).write_bytes(table(v1_entries(arrays), size=100))
    for source in ("m", *names, *(["m-?????-of-00002"] if files > 1 else [])):
        assert is_checkpoint(tmp_path / source)
        assert same(read_checkpoint(tmp_path / source), samples())
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name in names:
            tar.add(tmp_path / name, f"old/{name}")
    numbers = {k: a for k, a in samples().items() if a.dtype.kind in "fiu"}
    assert same(read_arrays(str(tmp_path / "a.tar.gz")), numbers)
    (tmp_path / names[-1]).unlink()
    with pytest.raises(UserError, match="No such file" if files > 1 else "no checkpoint there"):
        read_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "newest"),
    [
        ('model_checkpoint_path: "b"\nall_model_checkpoint_paths: "a"\n', "b"),
        ('all_model_checkpoint_paths: "a"\n model_checkpoint_path : "b"', "b"),
        ('model_checkpoint_path: "/data/runs/seven/b"\n', "b"),
        ('model_checkpoint_path: "C:\\\\runs\\\\b"\n', "b"),
        ('model_checkpoint_path: "in\\\\b\\303\\244"\n', "in/bä"),
        ('model_checkpoint_path: "in/bä"\n', "in/bä"),
    ],
)
def test_the_newest_of_a_folder(tmp_path: Path, text: str, newest: str) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "in/bä"):
        write_bundle(tmp_path / name, {name: np.ones(2, np.float32)})
    (tmp_path / "checkpoint").write_text(text, encoding="utf-8")
    for source in (tmp_path, f"{tmp_path}/{newest}.index", f"{tmp_path}/{newest}.meta"):
        assert list(read_checkpoint(source)) == [newest]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no model_checkpoint_path"),
        ('model_checkpoint_path: "../b"', "leads out of"),
        ('model_checkpoint_path: "in/../../b"', "leads out of"),
        ('model_checkpoint_path: "../runs"', "leads out of"),
        ('model_checkpoint_path: "."', "is no file"),
        ('model_checkpoint_path: "gone"', r"runs.gone: no checkpoint there.*there are .*a.*; give"),
    ],
)
def test_no_path_leaves_the_folder(tmp_path: Path, text: str, message: str) -> None:
    root = tmp_path / "runs"
    (root / "in").mkdir(parents=True)
    for prefix in (tmp_path / "b", tmp_path / "runs", root / "a"):
        write_bundle(prefix, {"x": np.ones(2, np.float32)})
    (root / "checkpoint").write_text(text)
    with pytest.raises(UserError, match=message):
        read_checkpoint(root)


def test_a_folder_without_a_list(tmp_path: Path) -> None:
    write_bundle(tmp_path / "model.ckpt-5", samples())
    assert same(read_checkpoint(tmp_path), samples())
    (tmp_path / "model.ckpt-6.index").touch()
    with pytest.raises(UserError, match=r"in this folder there are .*-5, .*model.ckpt-6; give"):
        read_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"none: no checkpoint there"):
        read_checkpoint(tmp_path / "none.data-00000-of-00001")


def test_a_flipped_bit_changes_no_value_unseen(tmp_path: Path) -> None:
    """In each byte of both files; those that nothing is read from are a few of the index's end."""
    arrays = {"a/weights": np.arange(6, dtype=np.float32), "words": np.array([b"ab", b""], object)}
    write_bundle(tmp_path / "m", arrays)
    for file, unread in ((tmp_path / "m.data-00000-of-00001", 0), (tmp_path / "m.index", 56)):
        sound, accepted = file.read_bytes(), 0
        for at in range(len(sound)):
            file.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
            try:
                assert same(read_checkpoint(tmp_path / "m"), arrays)
                accepted += 1
            except UserError as error:
                assert "m: no" in str(error)
        file.write_bytes(sound)
        assert accepted <= unread


def test_data_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    name = "m.data-00000-of-00001"
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        write_bundle(tmp_path / str(i) / "m", {"x": np.full(4, i, np.float32)})
    shutil.copy(tmp_path / "0" / name, tmp_path / "1" / name)
    with pytest.raises(UserError, match="x: its checksum is wrong"):
        read_checkpoint(tmp_path / "1" / "m")
    (tmp_path / "1" / name).unlink()
    with pytest.raises(UserError, match=f"No such file.*{name}"):
        read_checkpoint(tmp_path / "1" / "m")


X = np.arange(6, dtype=np.float32)
HEADER = field(1, 1)
ROWS = {b"\0x\0\1\1\1" + bytes([0x80 | start, 0x83]): start for start in (0, 3)}


def claim(shape: tuple[int, ...], size: int, code: int = 1, offset: int = 0) -> bytes:
    return field(1, code) + shape_field(2, shape) + field(4, offset) + field(5, size)


def rows(*starts: int, size: int = 6) -> bytes:
    """An entry in parts of three values at these places."""
    place = [field(7, field(1, field(1, start) + field(2, 3))) for start in starts]
    return field(1, 1) + shape_field(2, (size,)) + b"".join(place)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "does not end as a table"),
        (table({}), "no header"),
        (table({b"x": HEADER}), "no header"),
        (table({b"": HEADER + field(2, 1)}), "big-endian"),
        (table({b"": HEADER}, packed=1), "packed by Snappy"),
        (table({b"": HEADER}, packed=7), "packed by method 7"),
        (table({b"": b"\x0f"}), "wire type 7"),
        (table({b"": b"\x0a\xff\xff\xff\xff\x7f"}), "claims more bytes"),
        (table({b"": HEADER + b"\xff" * 11}), "a number does not end"),
        (table({b"": field(4, 1) * 65}), "more than 64 fields"),
        (table({b"": HEADER, b"\xff": claim((6,), 24)}), "can't decode"),
        (table({b"": HEADER, b"k" * 5000: b""}), "a key is too long"),
        (table({b"": HEADER, b"x": claim((6,), 24) + field(3, 2**31)}), "beyond the 1"),
        (table({b"": HEADER, b"x": claim((6,), 24) + field(3, -1)}), "beyond the 1"),
        (table({b"": HEADER, b"x": claim((2**40,), 2**42)}), "beyond the end of its data"),
        (table({b"": HEADER, b"x": claim((6,), 24, offset=1)}), "beyond the end of its data"),
        (table({b"": HEADER, b"x": claim((6,), 24, offset=-1)}), "beyond the end of its data"),
        (table({b"": HEADER, b"x": claim((2**40,), 24)}), "which is not its size"),
        (table({b"": HEADER, b"x": claim((-1, -6), 24)}), "a shape is not known"),
        (table({b"": HEADER, b"x": claim((1,) * 65, 4)}), "more than 64 fields"),
        (table({b"": HEADER, b"x": claim((), 4, 21)}), "x has TensorFlow's type 21"),
        (table({b"": HEADER, b"x": claim((2**17 + 1,), 24, 7)}), "more than 131072 strings"),
        (table({b"": HEADER, b"x": claim((6,), 24)}), "checksum is wrong"),
        (table({b"": HEADER, **{b"%d" % i: claim((6,), 24) for i in (1, 2)}}), "48 bytes of 24"),
        (table({b"": HEADER, b"x": rows(0, 3)}), r"its part at \[\(0, 3\)\] is missing"),
        (table({b"": HEADER, b"x": rows(4)}), "is not inside"),
        (table({b"": HEADER, b"x": rows(0), **dict.fromkeys(ROWS, claim((3,), 12))}), "the whole"),
        (table({b"": HEADER, b"x": rows(0), **dict.fromkeys(ROWS, claim((1,), 4))}), "other kind"),
        (table({b"": HEADER, **{b"%d" % i: b"" for i in range(10_001)}}), "10000 entries"),
    ],
)
def test_claims_of_a_bundle(tmp_path: Path, index: bytes, message: str) -> None:
    write_files(tmp_path / "m", index, [X.tobytes()])
    tracemalloc.start()
    with pytest.raises(UserError, match=rf"m: not a readable TensorFlow checkpoint .*{message}"):
        read_checkpoint(tmp_path / "m")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_parts_that_overlap_are_refused(tmp_path: Path) -> None:
    data, checksum = stored(X[:3])
    part = entry(X[:3], data=data, checksum=checksum)
    index = {b"": HEADER, b"x": rows(0, 0), **dict.fromkeys(ROWS, part)}
    write_files(tmp_path / "m", table(index), [X.tobytes()])
    with pytest.raises(UserError, match="x: its parts overlap"):
        read_checkpoint(tmp_path / "m")


def test_places_far_out_have_keys_of_several_bytes(tmp_path: Path) -> None:
    """As TensorFlow's OrderedCode has them: 64 = c040, 8192 = e02000."""
    place = [(0, 8192), (8192, 64)]
    whole = field(1, 4) + shape_field(2, (8256,))
    index = {b"": HEADER}
    values = np.arange(8256).astype(np.uint8)
    codes = ["80e02000", "e02000c040"]
    for (start, size), code in zip(place, codes, strict=True):
        data, checksum = stored(values[start : start + size])
        key = b"\0x\0\1\1\1" + bytes.fromhex(code)
        index[key] = entry(values[:size], data=data, offset=start, checksum=checksum)
        whole += field(7, field(1, field(1, start) + field(2, size)))
    write_files(tmp_path / "m", table({**index, b"x": whole}), [values.tobytes()])
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "m")["x"], values)


def test_strings_that_lie(tmp_path: Path) -> None:
    """About their lengths, with every checksum right."""
    words = np.array([b"ab", b"cde"], object)
    entries, (data,) = bundle({"x": words})
    for lengths in (varint(3) + varint(3), varint(2**63) + varint(3), b"\xff\xff"):
        write_files(tmp_path / "m", table(entries), [lengths + data[2:]])
        with pytest.raises(UserError, match=r"not as long as they say|beyond|does not end"):
            read_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("x", field(10, b"\x80\x80"), "a number does not end"),
        ("x", field(10, b"\x01\x02"), "x has 2 values in place of 1"),
        ("x", field(5, b"1234"), "x has 0 values in place of 1"),
        ("y", field(10, b"\x01"), "y has values and no shape"),
        ("x", b"", "x has 0 values"),
    ],
)
def test_claims_of_v1(tmp_path: Path, name: str, values: bytes, message: str) -> None:
    entries = v1_entries({"x": np.array(1)})
    entries[b"\0key"] = field(2, field(1, name.encode()) + field(3, values))
    del entries[b"\0x\0\1"]
    (tmp_path / "m").write_bytes(table(entries))
    with pytest.raises(UserError, match=f"m: not a readable TensorFlow checkpoint .*{message}"):
        read_checkpoint(tmp_path / "m")
    wide = v1_entries({"x": np.array(300)})
    wide[b""] = wide[b""].replace(field(3, 9), field(3, 4))
    wide[b"\0x\0\1"] = field(2, field(1, b"x") + field(3, field(7, varint(300))))
    (tmp_path / "m").write_bytes(table(wide))
    with pytest.raises(UserError, match="x has numbers that are no uint8"):
        read_checkpoint(tmp_path / "m")
