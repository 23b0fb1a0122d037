"""Write what docs/ has from the code: `python docs/generate.py`; tests/docs holds it current.

configuration.md is every field of the configuration; the reading order in architecture.md has the
lines of each file.
"""

import dataclasses
import re
import sys
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from deeplab_jax.config import Config  # noqa: E402
from deeplab_jax.config.flags import SCALARS, describe, fields  # noqa: E402

CONFIGURATION = """\
# Configuration

Every field, as `deeplab train --help-all` prints it. This page is written by `docs/generate.py`
from `deeplab_jax/config/`.

On the command line a field is `--section.field=value`. Several values are written `513 513`,
`513,513` or `513x513`; `None` stands for the default that the text names. In Python the sections
are the dataclasses `ModelConfig`, `TaskConfig` and so on, and `Config` holds them.
[Training](training.md#sections-of-the-configuration) says which sections travel with the weights
and which a resume compares.
"""
# What a reader needs for the paper, in reading order; a folder stands for its files, but cpu.py.
READING = (
    ("ops", "the operations with their formulas"),
    ("models/layers.py", "convolution with BatchNorm, the official constants"),
    ("models/atrous.py", "which unit strides, which dilates"),
    ("models/xception.py", "the modified, atrous Xception"),
    ("models/heads.py", "ASPP, decoder, PSPNet, logits"),
    ("models/build.py", "the whole network"),
    ("training/losses.py", "the loss on upsampled logits, hard pixels"),
    ("training/optim.py", "SGD, its schedules, the moving average"),
    ("training/state.py", "what a step changes"),
    ("training/step.py", "one step"),
)
START = "<!-- reading order: written by docs/generate.py -->\n"
END = "<!-- reading order: end -->\n"


def configuration() -> str:
    """The text of configuration.md: a table for each section."""
    parts = [CONFIGURATION]
    for section, doc, found in fields():
        parts.append(f"\n## {section}\n\n{code_spans(doc)}\n\n")
        parts.append("| field | allowed | default | |\n|---|---|---|---|\n")
        bounds = allowed(section)
        for field in found:
            name = field.name.partition(".")[2]
            values = cell(bounds[name] or in_words(field.type))
            default = describe(field.default)
            parts.append(f"| `{name}` | {values} | `{default}` | {cell(field.doc)} |\n")
    return "".join(parts)


def allowed(section: str) -> dict[str, str]:
    """What each field of a section says that it allows; "" where its type says it."""
    cls = get_type_hints(Config)[section]
    return {f.name: f.metadata.get("allowed", "") for f in dataclasses.fields(cls)}


def in_words(hint: Any) -> str:
    """The type of a field in words: what may be typed for it."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return ", ".join(map(str, parts))
    if NoneType in parts:
        return f"{in_words(parts[0])}, or None"
    if get_origin(hint) is tuple:
        several = {int: "whole numbers", float: "numbers", str: "names"}
        return several.get(parts[0], "several values")
    return SCALARS[hint]


def cell(text: str) -> str:
    """Text as it stands in a table's cell."""
    return code_spans(" ".join(text.split())).replace("|", "\\|")


def code_spans(text: str) -> str:
    """Text of which Markdown reads nothing but its `code`, whatever underscores it has."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<>])", r"\\\1", p) for p in parts)


def count_lines(name: str) -> int:
    path = ROOT / "deeplab_jax" / name
    files = [path] if path.is_file() else [f for f in path.glob("*.py") if f.name != "cpu.py"]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def reading_order() -> str:
    """The table of the files to read, with their lines."""
    rows = [(name, count_lines(name), what) for name, what in READING]
    table = "\n| | file of `deeplab_jax/` | lines | what |\n|---|---|---|---|\n"
    for i, (name, lines, what) in enumerate(rows, start=1):
        shown = name if name.endswith(".py") else f"{name}/"
        table += f"| {i} | `{shown}` | {lines} | {what} |\n"
    return table + f"| | all | {sum(lines for _, lines, _ in rows)} | |\n\n"


def architecture(text: str) -> str:
    """The text of architecture.md with today's reading order."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}{reading_order()}{END}{after}"


def main() -> None:
    page = DOCS / "architecture.md"
    text = architecture(page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
    (DOCS / "configuration.md").write_text(configuration(), encoding="utf-8")


if __name__ == "__main__":
    main()
