"""The pages of the documentation: their blocks of code, links and anchors."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

FENCE = re.compile(r"^```(\w*)\s*$")
NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
CODE = re.compile(r"`[^`]*`")
LINK = re.compile(r"\]\(([^()\s]+)\)")


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str
    line: int
    """Of its fence, from 1."""
    not_run: str
    """The reason why no test runs it, from a comment on the line before; "" where one does."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    start, language = None, ""
    for i, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence and start is None:
            start, language = i, fence[1]
        elif fence and start is not None:
            reason = NOT_RUN.match(lines[start - 1]) if start else None
            text = "\n".join(lines[start + 1 : i])
            found.append(Block(language, text, start + 1, reason[1] if reason else ""))
            start = None
    assert start is None, f"{page.name}:{start}: a block without an end"
    return found


def prose(page: Path) -> list[str]:
    """The lines of a page outside its blocks; those inside are empty."""
    inside, lines = False, []
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = FENCE.match(line) is not None
        inside = inside != fence
        lines.append("" if inside or fence else line)
    return lines


def links(page: Path) -> list[tuple[int, str]]:
    """The line and the target of every link and image of a page."""
    lines = [CODE.sub("", line) for line in prose(page)]
    return [(i, target) for i, line in enumerate(lines, start=1) for target in LINK.findall(line)]


def anchors(page: Path) -> set[str]:
    """What `#...` may name on a page, on GitHub and on the built site alike."""
    titles = [line.lstrip("#").strip() for line in prose(page) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
