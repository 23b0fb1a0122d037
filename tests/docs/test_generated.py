"""What the documentation has from the code is what the code has today."""

import importlib.util
import re
from types import ModuleType

import pytest
from pages import DOCS

import deeplab_jax

AGAIN = "run `python docs/generate.py`"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_field_is_on_the_page_of_the_configuration(generate: ModuleType) -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert page == generate.configuration(), AGAIN


def test_the_reading_order_is_that_of_the_files(generate: ModuleType) -> None:
    """Counts may be a few lines old; the files may not."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| `([\w./]+)` \| (\d+) \|", page, re.MULTILINE)
    assert [name.rstrip("/") for name, _ in rows] == [name for name, _ in generate.READING], AGAIN
    for name, lines in rows:
        today = generate.count_lines(name)
        assert today > 0, f"{name}: no such file; READING in docs/generate.py"
        assert abs(int(lines) - today) <= max(20, today // 10), f"{name}: {today} lines; {AGAIN}"


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    missing = [name for name in deeplab_jax.__all__ if f"{name}`" not in page]
    assert not missing


def test_every_command_is_documented() -> None:
    from deeplab_jax.cli import USAGE

    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    commands = [line.split()[0] for line in USAGE.splitlines() if line.startswith("  ")]
    assert commands and not [c for c in commands if f"deeplab {c} " not in text]
