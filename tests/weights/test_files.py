"""A folder of weights comes back as it was, or says what is wrong with it."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import chex
import jax
import ml_dtypes
import numpy as np
import pytest
from conftest import TINY_MODEL
from safetensors.numpy import load_file, save_file
from synthetic import random_variables

from deeplab_jax import UserError
from deeplab_jax.config import TaskConfig, to_dict
from deeplab_jax.weights.files import (
    Weights,
    load_weights,
    missing_files,
    read_about,
    read_note,
    save_weights,
)
from deeplab_jax.weights.readers import read_safetensors

NAMES, COLORS = ("a", "b", "c"), ((0, 0, 0), (1, 2, 3), (4, 5, 6))
TASK = TaskConfig(classes=NAMES, colors=COLORS, eval_size=(49, 65))


@pytest.fixture(scope="module")
def variables() -> Any:
    return random_variables(TINY_MODEL)


@pytest.fixture
def folder(variables: Any, tmp_path: Path) -> Path:
    save_weights(tmp_path / "w", Weights(TINY_MODEL, TASK, variables))
    return tmp_path / "w"


@pytest.fixture
def old_folder(folder: Path) -> Path:
    """The same, as it was written before model.json."""
    (folder / "model.json").unlink()
    config = {"workdir": "runs/x", "model": to_dict(TINY_MODEL), "data": {"eval_size": [49, 65]}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"name": name, "color": color} for name, color in zip(NAMES, COLORS, strict=True)]
    (folder / "classes.json").write_text(json.dumps(rows))
    return folder


def test_round_trip(folder: Path, variables: Any) -> None:
    loaded = load_weights(folder)
    chex.assert_trees_all_equal(loaded.variables, variables)
    assert loaded[:2] == (TINY_MODEL, TASK)
    about = json.loads((folder / "model.json").read_text())
    assert set(about) == {"format", "model", "task"} and about["format"] == 1


def test_arrays_in_fortran_order_survive(variables: Any, tmp_path: Path) -> None:
    """safetensors writes memory as it lies; .npz files of converted weights hold such arrays."""
    fortran = jax.tree.map(np.asfortranarray, variables)
    save_weights(tmp_path / "w", Weights(TINY_MODEL, TASK, fortran))
    chex.assert_trees_all_equal(load_weights(tmp_path / "w").variables, variables)


def test_saving_again_replaces(folder: Path, variables: Any) -> None:
    doubled = jax.tree.map(lambda a: a * 2, variables)
    save_weights(folder, Weights(TINY_MODEL, TASK, doubled))
    chex.assert_trees_all_equal(load_weights(folder).variables, doubled)
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert [p.name for p in folder.parent.iterdir()] == ["w"]


def test_an_older_folder_is_read_and_replaced_in_place(old_folder: Path, variables: Any) -> None:
    loaded = load_weights(old_folder)
    assert loaded[:2] == (TINY_MODEL, TASK) and missing_files(old_folder) == []
    chex.assert_trees_all_equal(loaded.variables, variables)
    (old_folder / "metrics.jsonl").touch()
    save_weights(old_folder, loaded)
    there = sorted(p.name for p in old_folder.iterdir())
    assert there == ["metrics.jsonl", "model.json", "model.safetensors"]
    chex.assert_trees_all_equal(load_weights(old_folder), loaded)


def test_a_run_s_own_configuration_stays(folder: Path, variables: Any) -> None:
    (folder / "config.json").write_text("{}")
    save_weights(folder, Weights(TINY_MODEL, TASK, variables))
    assert (folder / "config.json").read_text() == "{}"


def test_an_older_classifier_crops_as_it_was_trained(folder: Path, old_folder: Path) -> None:
    """Its crop's size stood with the data; today's folder has it in the task."""
    values = json.loads((old_folder / "config.json").read_text())
    values["model"]["head"] = "classifier"
    for sizes, wanted in (({"crop_size": [33, 47]}, (33, 47)), ({"eval_size": [65, 65]}, (65, 65))):
        values["data"] = {"crop_size": [49, 49]} | sizes
        (old_folder / "config.json").write_text(json.dumps(values))
        assert read_about(old_folder)[1].eval_size == wanted


def test_a_note_is_kept_in_the_file_of_the_arrays(folder: Path, variables: Any) -> None:
    assert read_note(folder) == {}
    note = {"value": float("nan"), "by": {"scales": [1.0]}, "step": 3}
    weights = Weights(TINY_MODEL, TASK, variables)
    contents = set()
    for _ in range(3):  # safetensors writes several entries in an order of chance
        save_weights(folder, weights, note)
        contents.add((folder / "model.safetensors").read_bytes())
    assert read_note(folder) == note | {"value": None} and len(contents) == 1
    chex.assert_trees_all_equal(load_weights(folder).variables, variables)


def test_a_backbone_alone_is_enough_to_train_from(variables: Any, tmp_path: Path) -> None:
    backbone = {k: {"backbone": v["backbone"]} for k, v in variables.items()}
    save_weights(tmp_path / "w", Weights(TINY_MODEL, TASK, backbone))
    assert set(load_weights(tmp_path / "w", complete=False).variables["params"]) == {"backbone"}
    with pytest.raises(UserError, match=r"batch_stats/aspp.*: file has none"):
        load_weights(tmp_path / "w")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 64),
        ("model.json", b"{"),
        ("model.json", b"\xff"),
        ("model.json", b"[" * 100_000),
        ("model.json", b" " * 2**20 + b"{}"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_weights(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format = 2: this version reads format 1; did a later one"),
        ({"format": None}, "format = None"),
        ({"format": ["x" * 10**5]}, r"format = \['x{70,80}: this"),
        ({"model": None}, "model.: expected an object with fields, got None"),
        ({"model": {"depth": 3}}, "model.depth: there is no such field"),
        ({"model": {"width": 1e9}}, r"model\.width = 1000000000.0"),
        ({"task": [1]}, "task.: expected an object"),
        (
            {"task": {"classes": ["a"]}},
            "the number of task.classes = 1 is not possible: 3, as many",
        ),
        ({"task": {}}, "the number of task.classes = 0"),
        ({"task": {"classes": [7, "b", "c"]}}, r"task.classes\[0\] = 7: expected str"),
        ({"task": {"colors": [[0, 0, 256]]}}, "task.colors = .*256"),
        ({"task": {"colors": [[0, 0, 0]]}}, "task.colors = .*one for each"),
        ({"task": {"eval_size": [2**70, 9]}}, "task.eval_size"),
    ],
)
def test_what_model_json_says_is_checked(folder: Path, change: Any, message: str) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=f"model.json: {message}"):
        load_weights(folder)


@pytest.mark.parametrize("content", [b"[1]", b'"text"', b"null"])
def test_model_json_is_an_object(folder: Path, content: bytes) -> None:
    (folder / "model.json").write_bytes(content)
    with pytest.raises(UserError, match=r"model.json: format = None"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"format": 9}'),
        ("config.json", b'{"model": {"depth": 3}}'),
        ("classes.json", b"[1]"),
        ("classes.json", b"7"),
        ("classes.json", b'{"name": "a"}'),
        ("classes.json", b'[{"name": "a"}]'),
        ("classes.json", b'[{"name": "a", "color": [0, 0, 0]}]'),
        ("classes.json", b'[{"name": 7, "color": [0, 0, 0]}]'),
        ("classes.json", b'[{"name": "a", "color": [0, 0, 256]}]'.replace(b"}]", b"},{}]")),
        ("classes.json", json.dumps([{"name": "a", "color": [0, 0, 256]}] * 3).encode()),
        ("classes.json", b"\xff"),
        ("classes.json", b"[" * 100_000),
    ],
)
def test_a_damaged_file_of_an_older_folder_is_named(
    old_folder: Path, name: str, content: bytes
) -> None:
    (old_folder / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_weights(old_folder)


def test_wrong_arrays_are_named(folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    arrays["params/logits/bias"] = np.zeros(9, np.float32)
    arrays["params/strange"] = np.zeros(1, np.float32)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_weights(folder)
    assert "params/logits/bias: file [9], model [3]" in str(error.value)
    assert "without a place (1):\n    params/strange [1]" in str(error.value)


def test_an_array_too_many_is_refused(folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    save_file(arrays | {"params/x": np.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"without a place \(1\):\n    params/x"):
        load_weights(folder)


def test_what_does_not_fit_is_refused_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deeplab_jax.weights.files.read_safetensors", None)
    arrays = load_file(folder / "model.safetensors")
    shape = {"params/logits/bias": np.zeros((3, 1), np.float32)}
    save_file(arrays | shape, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"params/logits/bias: file \[3, 1\], model \[3\]"):
        load_weights(folder)
    kernel = arrays["params/logits/kernel"].astype(np.int64)
    save_file(arrays | {"params/logits/kernel": kernel}, folder / "model.safetensors")
    with pytest.raises(UserError, match="params/logits/kernel: I64; allowed are F16, BF16, F32"):
        load_weights(folder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(folder: Path, variables: Any, dtype: Any) -> None:
    arrays = load_file(folder / "model.safetensors")
    save_file({k: v.astype(dtype) for k, v in arrays.items()}, folder / "model.safetensors")
    loaded = load_weights(folder).variables
    chex.assert_trees_all_equal(
        loaded, jax.tree.map(lambda v: v.astype(dtype).astype(np.float32), variables)
    )


def test_what_is_not_finite_is_named(folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    arrays["params/logits/bias"] = np.array([0, np.nan, np.inf], np.float32)
    arrays["params/logits/kernel"] = arrays["params/logits/kernel"].astype(np.float64)
    arrays["params/logits/kernel"][..., 0, 0] = 1e300
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: values .* not finite") as error:
        load_weights(folder)
    assert "params/logits/bias: 2 of 3" in str(error.value)
    assert "params/logits/kernel: 1 of 24" in str(error.value)


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "message"),
    [
        ("F32", [2**40], 0, "not fully covered"),
        ("F32", [2**62, 4], 0, "overflow"),
        ("F32", [0, 2**62], 0, "not a readable"),
        ("F32", [1], 5, "not fully covered"),
        ("F8_E4M3", [1], 1, "x: F8_E4M3"),
    ],
)
def test_claims_of_a_safetensors_header(
    tmp_path: Path, dtype: str, shape: list[int], size: int, message: str
) -> None:
    claimed = math.prod(shape) * (4 if dtype == "F32" else 1) % 2**64
    header = {"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, claimed]}}
    text = json.dumps(header).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    with pytest.raises(UserError, match=rf"a\.safetensors: .*{message}"):
        read_safetensors(file)


def test_a_header_of_many_arrays_is_not_read(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"{i:x}": entry for i in range(20_000)}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(UserError, match="more than 1 MB"):
        read_safetensors(tmp_path / "a.safetensors")


def test_the_file_itself_and_a_run_s_folder_are_taken(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run" / "best")
    for given in (tmp_path / "run", tmp_path / "run" / "best" / "model.safetensors"):
        assert load_weights(given)[:2] == (TINY_MODEL, TASK)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pth", "a pickle can run code.*convert"),
        ("model.h5", "model.h5 is not of a kind that can be read.*TensorFlow checkpoint"),
        ("x.npz", "convert .*x.npz --out"),
        ("x.tar.gz", "convert .*x.tar.gz --out"),
        ("model.ckpt.index", "convert .*model.ckpt.index --out"),
        ("xception.safetensors", "convert .*xception.safetensors --out"),
    ],
)
def test_weights_of_other_programs_get_advice(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(UserError, match=rf"(?s){name}: no model.safetensors there; .*{message}"):
        load_weights(tmp_path / name)


def test_a_checkpoint_s_prefix_or_folder_gets_advice(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt.index").touch()
    for given in (tmp_path, tmp_path / "model.ckpt"):
        with pytest.raises(UserError, match=r"convert .*model.ckpt"):
            load_weights(given)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no evaluation yet"):
        load_weights(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "classes.json"])
def test_a_missing_file_is_named_with_what_belongs_there(old_folder: Path, name: str) -> None:
    (old_folder / name).unlink()
    assert missing_files(old_folder) == [name]
    with pytest.raises(UserError, match=rf"{name} missing beside model.safetensors: .*convert"):
        load_weights(old_folder)


def test_a_missing_model_json_is_named(folder: Path) -> None:
    (folder / "model.json").unlink()
    with pytest.raises(UserError, match=r"model.json missing beside model.safetensors: .*convert"):
        load_weights(folder)


def test_a_pointer_of_git_lfs_is_named(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n"
    (folder / "model.safetensors").write_text(pointer, encoding="utf-8")
    with pytest.raises(UserError, match="git lfs pull"):
        load_weights(folder)


def test_a_folder_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (tmp_path, ".", "nowhere"):
        with pytest.raises(UserError, match=r"no model\.safetensors"):
            load_weights(given)
