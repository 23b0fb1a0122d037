"""No link, anchor, page or path of the documentation leads nowhere. Needs no network."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pages import CODE, DOCS, PAGES, ROOT, anchors, links, prose

OUTSIDE = ("http://", "https://", "mailto:")
# A path of this repository, in code: `configs/voc.py`.
FOLDERS = ("benchmarks", "configs", "deeplab_jax", "docs", "launch", "studies", "tests")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for line, target in links(page):
        where = f"{page.name}:{line}: {target}"
        if target.startswith(OUTSIDE):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{where}: no such file"
        if page.parent == DOCS:
            assert there.parent == DOCS, f"{where}: the built site has only what is in docs/"
        if anchor:
            assert anchor in anchors(there), f"{where}: there are {sorted(anchors(there))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_have_the_same_anchor_on_github_and_on_the_site(page: Path) -> None:
    titles = [line.lstrip("#").strip() for line in prose(page) if re.match(r"#+ ", line)]
    assert len(titles) == len(set(titles)), "two headings of one name"
    for title in titles:
        assert re.fullmatch(r"[\w,?:']+( [\w,?:'-]+)*", title), f"{page.name}: {title}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_is_named_exists(page: Path) -> None:
    for i, line in enumerate(prose(page), start=1):
        for path in PATH.findall(line):
            assert (ROOT / path).exists(), f"{page.name}:{i}: {path}"


def navigation(entries: list[Any]) -> list[str]:
    """The pages of a navigation, in order."""
    found = []
    for entry in entries:
        (what,) = entry.values() if isinstance(entry, dict) else (entry,)
        found += navigation(what) if isinstance(what, list) else [what]
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    named = navigation(config["project"]["nav"])
    assert sorted(named) == sorted(file.name for file in DOCS.glob("*.md"))


def test_every_page_can_be_reached_from_the_readme() -> None:
    targets = {target.partition("#")[0] for _, target in links(ROOT / "README.md")}
    missing = {f"docs/{file.name}" for file in DOCS.glob("*.md")} - targets - {"docs/index.md"}
    assert not missing


def test_the_readme_is_a_front_page() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150


def test_the_command_of_the_tests_is_where_continuous_integration_looks_for_it() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    install = "python3 -m venv .venv && .venv/bin/pip install -q"
    first = next(line for line in lines if "pytest" in line)
    assert first == f'{install} -e ".[test]" && .venv/bin/python -m pytest -q'
    assert f"{install} -r requirements.txt && .venv/bin/python train.py" in lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_tables_everywhere(page: Path) -> None:
    """Each row has the columns of its head, and a blank line is before it."""
    lines = prose(page)
    for i, line in enumerate(lines):
        if re.fullmatch(r"\|(-+\|)+", line):
            columns = len(re.findall(r"(?<!\\)\|", line))
            assert not lines[i - 2].strip(), f"{page.name}:{i}: no blank line before the table"
            for j in range(i - 1, len(lines)):
                if not lines[j].startswith("|"):
                    break
                bars = len(re.findall(r"(?<!\\)\|", CODE.sub("", lines[j])))
                assert bars == columns, f"{page.name}:{j + 1}: {bars - 1} columns"
