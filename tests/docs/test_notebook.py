"""docs/quickstart.ipynb runs from start to end, and its file holds no outputs."""

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, ROOT
from place import shrink_training

FILE = DOCS / "quickstart.ipynb"


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_file_holds_no_outputs() -> None:
    for cell in code_cells():
        assert cell["outputs"] == [] and cell["execution_count"] is None
        ast.parse("".join(cell["source"]))


def test_the_cells_run_one_after_the_other(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kernel: what they are but for what a notebook shows."""
    shrink_training(monkeypatch)
    namespace: dict[str, Any] = {}
    for i, cell in enumerate(code_cells()):
        exec(compile("".join(cell["source"]), f"{FILE.name}, code cell {i}", "exec"), namespace)
    assert (place / "weights" / "mine" / "model.json").is_file()


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
