"""Locks that die with their holder, and JSON that is JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deeplab_jax import files
from deeplab_jax.files import Locked, json_text, locked

HOLD = """
import sys, time
from pathlib import Path
from deeplab_jax.files import locked
with locked(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    path = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], env={**os.environ, **path}, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    for _ in range(2):  # a refusal leaves the text for the next one
        with pytest.raises(Locked, match=f"process {holder.pid} on "), locked(file, wait=False):
            pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert f"process {holder.pid}" in file.read_text()  # what stands there decides nothing
    with (
        locked(file, wait=False),
        pytest.raises(Locked, match=f"process {os.getpid()} on "),
        locked(file, wait=False),
    ):
        pass
    with locked(file, wait=True):
        pass


def test_without_locks_in_the_file_system_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(descriptor: int, wait: bool) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files, "_lock", none)
    with locked(tmp_path / "lock", wait=False):
        said = capsys.readouterr().err
    assert said.count("no lock can be had (Function not implemented)") == 1


def test_json_has_null_for_what_is_no_number() -> None:
    tree = {"a": float("nan"), "b": [1.5, float("inf"), ("ä", -float("inf"))], "c": {"d": None}}
    expected = {"a": None, "b": [1.5, None, ["ä", None]], "c": {"d": None}}
    assert json.loads(json_text(tree), parse_constant=pytest.fail) == expected
