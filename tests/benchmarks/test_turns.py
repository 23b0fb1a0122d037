"""The protocol between a benchmark and its contenders' processes."""

import io
import sys

import pytest

from benchmarks.turns import READY, Contender, serve


def test_serve_answers_each_line_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make():  # type: ignore[no-untyped-def]
        print("preparing, once ...")
        figures = iter((9.0, 1.5, 2.5))
        return lambda: next(figures)

    monkeypatch.setattr(sys, "stdin", io.StringIO("measure\nmeasure\n"))
    serve(make, ("numpy",))
    ready, *answers = capsys.readouterr().out.splitlines()
    assert ready.startswith(READY + "numpy ")
    assert answers == ["1.5", "2.5"]  # the first was for warming up


def test_a_contender_that_ends_is_an_error_not_a_wait() -> None:
    with pytest.raises(RuntimeError, match="does not run here"):
        Contender(sys.executable, "this_is_no_module", [])
