"""Every block of code in the documentation runs; one that cannot says why.

```sh blocks run in a folder of tiny data, their trainings shortened; all ```python blocks of a page
run in one namespace. `<!-- not run: reason -->` on the line before a block excepts it: then its
commands and settings are still looked up.
"""

import ast
import contextlib
import dataclasses
import io
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, Block, blocks, prose
from place import commands, run, shrink_training

from deeplab_jax import Config
from deeplab_jax.__main__ import main
from deeplab_jax.config import load_config_file
from deeplab_jax.config.flags import change, fields
from deeplab_jax.config.formats import GONE, MOVED, SHORT, today

LANGUAGES = ("sh", "python", "")  # "": what is printed or drawn


def pages_with(*languages: str) -> Any:
    found = [p for p in PAGES if any(b.language in languages and not b.not_run for b in blocks(p))]
    return pytest.mark.parametrize("page", found, ids=lambda page: page.name)


@pages_with("sh", "python")
def test_blocks_run(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_training(monkeypatch)
    namespace: dict[str, Any] = {}
    for block in blocks(page):
        if block.not_run:
            continue
        if block.language == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, namespace)
        elif block.language == "sh":
            for line in commands(block.text):
                run(line, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_of_a_known_kind(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: {block.language}"
        assert block.language or not block.not_run, f"{page.name}:{block.line}: nothing to run"


ALL = [(page, block) for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize(
    ("page", "block"),
    [(p, b) for p, b in ALL if b.not_run and b.language == "sh"],
    ids=lambda x: str(x.line) if isinstance(x, Block) else x.name,
)
def test_commands_that_are_not_run_exist(page: Path, block: Block) -> None:
    for line in commands(block.text):
        words = shlex.split(line, comments=True)
        if words[:1] == ["deeplab"]:
            look_up(words[1], words[2:])


def look_up(command: str, arguments: list[str]) -> None:
    """Fail unless a command has these options, and its settings have these values."""
    settings: list[str] = []
    for word in arguments:
        name = word.partition("=")[0]
        if "." in name and word.startswith("--"):
            settings.append(word)
        elif word.startswith("--"):
            short = name[2:].replace("-", "_") in MOVED | SHORT
            known = short or re.search(rf"{name}\b", help_of(command))
            assert known, f"deeplab {command} has no {word}"
        elif settings:
            settings.append(word)
    named = [word.partition("=")[2] for word in arguments if word.startswith("--config=")]
    base = load_config_file(next((n for n in named if "." not in n), "folder"))
    change({f.name: getattr(base, f.name) for f in dataclasses.fields(base)}, settings)


@cache
def help_of(command: str) -> str:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["deeplab", command, "--help"])
        with contextlib.suppress(SystemExit):
            main()
    return out.getvalue()


@pytest.mark.parametrize(
    ("page", "block"),
    [(p, b) for p, b in ALL if b.not_run and b.language == "python"],
    ids=lambda x: str(x.line) if isinstance(x, Block) else x.name,
)
def test_python_that_is_not_run_is_python(page: Path, block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_the_text_names_exist(page: Path) -> None:
    """`--section.field`, of today or of before, and `section.field`."""
    names = {field.name for _, _, found in fields() for field in found}
    files = {"data.json", "data.yaml", "model.json", "model.onnx", "model.safetensors", "train.py"}
    files |= {"model.stablehlo", "model.tflite", "model.xml", "model.bin"}
    sections = "|".join(field.name for field in dataclasses.fields(Config))
    text = "\n".join(prose(page))
    for setting in re.findall(rf"[`\s]--((?:{sections})\.\w+)", text):
        assert today(setting) in {*names, *GONE}, f"{page.name}: --{setting}"
    for setting in re.findall(rf"`((?:{sections})\.\w+)(?:=\w+)?`", text):
        assert setting in names | files, f"{page.name}: {setting}"
