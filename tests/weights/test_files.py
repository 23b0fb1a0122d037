"""A folder of weights comes back as it was, or says what is wrong with it."""

import json
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from conftest import TINY_MODEL
from safetensors.numpy import load_file, save_file
from synthetic import random_variables

from deeplab_jax import Config, UserError
from deeplab_jax.weights.files import Weights, load_weights, save_weights

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


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_weights(tmp_path)


def test_an_unknown_field_in_config_json(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["model"]["depth"] = 3
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"model\.depth"):
        load_weights(folder)
