"""Prepared data sets: made once, read without TensorFlow, what is wrong is said in words."""

import errno
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from folders import make_devkit, open_voc

from deeplab_jax import Config, DataConfig, MachineConfig, files
from deeplab_jax.data import tfds
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import cityscapes
from deeplab_jax.data.decode import Unreadable
from deeplab_jax.data.masks import MaskCode, plain_code
from deeplab_jax.data.source import Source, open_source
from deeplab_jax.data.tfds import Prepared
from deeplab_jax.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]


def test_kinds_and_roots() -> None:
    with pytest.raises(UserError, match=r"name the voc2012 data set's folder: --machine.root"):
        Config(data=DataConfig(source="voc2012"))
    with pytest.raises(UserError, match="'coco' is not possible: choose one of scenes, folder"):
        DataConfig(source="coco")  # type: ignore[arg-type]


def test_cityscapes_tables() -> None:
    assert len(cityscapes.CLASS_NAMES) == len(set(cityscapes.COLORS)) == 19
    table = np.array([i for _, i in sorted(cityscapes.VALUES)])
    assert table.shape == (256,) and sorted(set(table)) == [*range(19), 255]
    # cityscapesScripts, labels.py: road 7 -> 0, car 26 -> 13, bicycle 33 -> 18, caravan 29 ignored
    assert table[[7, 26, 33, 29, 0]].tolist() == [0, 13, 18, 255, 255]


def test_label_map_and_missing_features(tmp_path: Path) -> None:
    prepared = open_voc(make_devkit(tmp_path), "val", tmp_path)
    assert isinstance(prepared.records, Prepared)
    only_one = MaskCode(False, tuple((value, 1 if value == 2 else 255) for value in range(256)))
    names = ("no", "yes")
    where = prepared.records.builder_dir
    mapped = Source(Prepared(where, "val[:2]"), names, voc_colormap(2), only_one)
    assert len(mapped) == 2 and {int(mapped[i]["label"][0, 0]) for i in range(2)} <= {1, 255}
    with pytest.raises(UserError, match="no feature 'mask'; there are id, image, label"):
        Prepared(where, "val", ("id", "image", "mask"))
    with pytest.raises(UserError, match="no split 'train'; there are val"):
        Prepared(where, "train")
    beyond = Source(Prepared(where, "val"), names, voc_colormap(2), plain_code(2))
    with pytest.raises(UserError, match="p2: the mask holds 2"):
        [beyond[i] for i in range(3)]


def test_a_passing_fault_of_a_record_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PAUSES", (0, 0, 0))
    source = open_voc(make_devkit(tmp_path), "val", tmp_path)
    assert "(" in source.fingerprint and "bytes" in source.fingerprint
    first, opened, left = source[0]["id"], tfds._open_records, 2

    class Records:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __len__(self) -> int:
            return len(self.real)

        def __getitem__(self, index: int) -> Any:
            nonlocal left
            if left and index == 0:
                left -= 1
                raise OSError(errno.EIO, "Input/output error")
            return self.real[index]

    def open_records(*arguments: Any) -> Records:
        return Records(opened(*arguments))

    open_records.cache_clear = opened.cache_clear  # type: ignore[attr-defined]
    monkeypatch.setattr(tfds, "_open_records", open_records)
    assert source[0]["id"] == first and left == 0
    left = 99
    with pytest.raises(Unreadable, match=r"val\[0\]: the record cannot be read .*Input/output"):
        source[0]
    assert source.name(0) == "val[0]"
    left = 99
    assert source.sizes() == [None, (6, 8), (6, 8)]  # the others are read
    left = 0
    assert source.sizes() == [(6, 8)] * 3


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    imports = ("import pickle, sys", "from folders import open_voc")
    code = "\n".join([*imports, "from deeplab_jax.data.datasets import voc", code])
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


OPEN = "s = open_voc(sys.argv[1], 'val', sys.argv[2]); "


def test_two_processes_prepare_once_and_a_third_reads_the_pickle(tmp_path: Path) -> None:
    arguments = str(make_devkit(tmp_path / "devkit")), str(tmp_path / "tfds")
    both = [python(OPEN + "print(len(s), s[0]['id'])", *arguments) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("preparing" in output for output in outputs) == 1
    source = open_voc(Path(arguments[0]), "val", Path(arguments[1]))
    first = source[0]["id"]  # opened here, and yet it can be pickled
    (tmp_path / "pickle").write_bytes(pickle.dumps(source))
    load = (
        "s = pickle.load(open(sys.argv[1], 'rb')); print(s[0]['id'], 'tensorflow' in sys.modules)"
    )
    assert python(load, str(tmp_path / "pickle")).communicate(timeout=60)[0] == f"{first} False\n"


def test_after_a_kill_while_preparing_the_next_start_works(tmp_path: Path) -> None:
    arguments = str(make_devkit(tmp_path / "devkit")), str(tmp_path / "tfds")
    # stdout is silenced while TFDS prepares
    say = "print('at it', flush=True, file=sys.__stdout__)"
    hang = f"import time; voc._mask_as_ids = lambda _: {say} or time.sleep(60)\n"
    process = python(hang + OPEN, *arguments)
    assert process.stdout is not None
    assert any("at it" in line for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list((tmp_path / "tfds").rglob("incomplete.*"))
    assert len(open_voc(Path(arguments[0]), "val", Path(arguments[1]))) == 3
    assert not list((tmp_path / "tfds").rglob("incomplete.*"))


def test_a_folder_for_prepared_data_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"machine\.prepared_dir = .*file/scenes"):
        open_source(Config(machine=MachineConfig(prepared_dir=str(tmp_path / "file"))), "train")


def test_prepared_data_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.0.0").mkdir()
    monkeypatch.setattr(tfds, "locked", None)
    builder = SimpleNamespace(data_dir=tmp_path / "1.0.0", name="x")
    assert tfds.prepare(builder) == str(tmp_path / "1.0.0")  # type: ignore[arg-type]
