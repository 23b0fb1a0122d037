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

from deeplab_jax import Config, UserError
from deeplab_jax.weights.files import (
    Weights,
    load_weights,
    read_note,
    read_safetensors,
    save_weights,
)

CONFIG = Config(model=TINY_MODEL)
NAMES, COLORS = ("a", "b", "c"), ((0, 0, 0), (1, 2, 3), (4, 5, 6))


@pytest.fixture(scope="module")
def variables() -> Any:
    return random_variables(TINY_MODEL)


@pytest.fixture
def folder(variables: Any, tmp_path: Path) -> Path:
    save_weights(tmp_path / "w", Weights(CONFIG, variables, NAMES, COLORS))
    return tmp_path / "w"


def test_round_trip(folder: Path, variables: Any) -> None:
    loaded = load_weights(folder)
    chex.assert_trees_all_equal(loaded.variables, variables)
    assert (loaded.config, loaded.class_names, loaded.colors) == (CONFIG, NAMES, COLORS)


def test_arrays_in_fortran_order_survive(variables: Any, tmp_path: Path) -> None:
    """safetensors writes memory as it lies; .npz files of converted weights hold such arrays."""
    fortran = jax.tree.map(np.asfortranarray, variables)
    save_weights(tmp_path / "w", Weights(CONFIG, fortran, NAMES, COLORS))
    chex.assert_trees_all_equal(load_weights(tmp_path / "w").variables, variables)


def test_saving_again_replaces(folder: Path, variables: Any) -> None:
    doubled = jax.tree.map(lambda a: a * 2, variables)
    save_weights(folder, Weights(CONFIG, doubled, NAMES, COLORS))
    chex.assert_trees_all_equal(load_weights(folder).variables, doubled)
    assert sorted(p.name for p in folder.iterdir()) == [
        "classes.json",
        "config.json",
        "model.safetensors",
    ]


def test_a_note_is_kept_in_the_file_of_the_arrays(folder: Path, variables: Any) -> None:
    assert read_note(folder) == {}
    note = {"value": float("nan"), "by": {"scales": [1.0]}, "step": 3}
    weights = Weights(CONFIG, variables, NAMES, COLORS)
    contents = set()
    for _ in range(3):  # safetensors writes several entries in an order of chance
        save_weights(folder, weights, note)
        contents.add((folder / "model.safetensors").read_bytes())
    assert read_note(folder) == note | {"value": None} and len(contents) == 1
    chex.assert_trees_all_equal(load_weights(folder).variables, variables)


def test_a_backbone_alone_is_enough_to_train_from(variables: Any, tmp_path: Path) -> None:
    backbone = {k: {"backbone": v["backbone"]} for k, v in variables.items()}
    save_weights(tmp_path / "w", Weights(CONFIG, backbone, NAMES, COLORS))
    assert set(load_weights(tmp_path / "w", complete=False).variables["params"]) == {"backbone"}
    with pytest.raises(UserError, match="missing batch_stats/aspp"):
        load_weights(tmp_path / "w")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 64),
        ("config.json", b"{"),
        ("classes.json", b"[1]"),
        ("classes.json", b'[{"name": "a", "color": [0, 0, 0]}]'),
        ("classes.json", b'[{"name": 7, "color": [0, 0, 0]}]'),
        (
            "classes.json",
            b'[{"name": "a", "color": [0, 0, 256]}]'.replace(b"}]", b"}," * 2 + b"{}]"),
        ),
        ("classes.json", b"\xff"),
        ("classes.json", b"[" * 100_000),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_weights(folder)


def test_wrong_arrays_are_named(folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    arrays["params/logits/bias"] = np.zeros(9, np.float32)
    arrays["params/strange"] = np.zeros(1, np.float32)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_weights(folder)
    assert "params/logits/bias: file [9], model [3]" in str(error.value)
    assert "unknown params/strange" in str(error.value)


def test_what_does_not_fit_is_refused_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = load_file(folder / "model.safetensors")
    arrays["params/logits/bias"] = np.zeros((3, 1), np.float32)
    arrays["params/logits/kernel"] = np.zeros((8, 3), np.int64)
    save_file(arrays, folder / "model.safetensors")
    monkeypatch.setattr("deeplab_jax.weights.files.read_safetensors", None)
    with pytest.raises(UserError) as error:
        load_weights(folder)
    assert "params/logits/bias: file [3, 1], model [3]" in str(error.value)
    assert "params/logits/kernel: file I64, allowed F16, BF16, F32, F64" in str(error.value)


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
        assert load_weights(given).config == load_weights(folder).config


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
def test_a_missing_file_is_named_with_what_belongs_there(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} missing beside model.safetensors; .*convert"):
        load_weights(folder)


def test_a_pointer_of_git_lfs_is_named(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n"
    (folder / "model.safetensors").write_text(pointer, encoding="utf-8")
    with pytest.raises(UserError, match="git lfs pull"):
        load_weights(folder)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_weights(tmp_path)


def test_an_unknown_field_in_config_json(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["model"]["depth"] = 3
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"model\.depth"):
        load_weights(folder)
