"""Long work shows that it goes on."""

import threading
import time

import pytest

from deeplab_jax import progress


def test_a_sign_of_life_while_one_step_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    threads = threading.active_count()
    with progress.sign_of_life("a.jpg (8000 x 6000)"):
        said = ""
        for _ in range(1000):  # ends at the second line
            time.sleep(0.01)
            said += capsys.readouterr().err
            if said.count("\n") == 2:
                break
    assert said.startswith("a.jpg (8000 x 6000): 0 s so far\n")
    assert said.count("\n") >= 2 and threading.active_count() == threads
