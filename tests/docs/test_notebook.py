"""The notebooks of docs/ run from start to end, and their files hold no outputs."""

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, ROOT
from place import shrink_training

from deeplab_jax.config import load_config_file

FILE = DOCS / "quickstart.ipynb"
ACCELERATORS = DOCS / "accelerators.ipynb"


def code_cells(file: Path) -> list[dict[str, Any]]:
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("file", [FILE, ACCELERATORS], ids=lambda file: file.name)
def test_the_file_holds_no_outputs(file: Path) -> None:
    for cell in code_cells(file):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        ast.parse("".join(cell["source"]))


def run_cells(file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Without a kernel: what they are but for what a notebook shows; -> the names they made."""
    shrink_training(monkeypatch)
    namespace: dict[str, Any] = {}
    for i, cell in enumerate(code_cells(file)):
        exec(compile("".join(cell["source"]), f"{file.name}, code cell {i}", "exec"), namespace)
    return namespace


def test_the_cells_run_one_after_the_other(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_cells(FILE, monkeypatch)
    assert (place / "weights" / "mine" / "model.json").is_file()


def test_the_notebook_for_accelerators_ends_in_a_block_to_paste(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = load_config_file("runs/my_data/config.json")  # *scenes* would be rendered for 20 s
    monkeypatch.setattr("deeplab_jax.config.load_config_file", lambda name: mine)
    found = run_cells(ACCELERATORS, monkeypatch)["found"]
    assert not [figures for figures in found if "error" in figures]
    *_, block, end = capsys.readouterr().out.split("```")
    assert end == "\n" and all(f"{figures['name']}: " in block for figures in found)


def test_the_notebook_runs_in_a_kernel(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")
    import nbformat

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    notebook = nbformat.read(FILE, as_version=4)
    resources = {"metadata": {"path": str(place)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
