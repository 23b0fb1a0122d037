"""The model card of weights: README.md beside them, as the Hugging Face Hub shows it.

card.md, in this folder, is its text; this file gathers what stands in it. A card is written when a
model is handed on and not by every run: only then are its name and licence known, and until then a
run may replace its best weights.
"""

import html
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deeplab_jax.config import Config, ModelConfig, TaskConfig, load_json
from deeplab_jax.errors import UserError
from deeplab_jax.reporting.figures import class_scores
from deeplab_jax.reporting.report import is_number, percent
from deeplab_jax.version import VERSION

CARD = "README.md"
MOST_CHARACTERS = 2**20


def model_card(
    name: str,
    model: ModelConfig,
    task: TaskConfig,
    folder: Path | None,
    *,
    note: Mapping[str, Any],
    licence: str | None,
) -> str:
    """The card of a network that is to be loaded by `name`: user/model, or a folder.

    What is known of it lies where it was loaded from, `folder`: the report of the run whose best
    weights they are; or else a card, whose text goes on; or else an evaluation. `note` is what was
    saved with the weights (`read_note`).

    Raises:
      UserError: the licence is not written as the Hub's are, or a card that goes on has no place
        for it.
    """
    if licence is not None and not re.fullmatch(r"[a-z0-9.-]+", licence):
        ours = "one of the Hub's identifiers, such as cc-by-4.0, apache-2.0, other"
        raise UserError(f"licence = {licence!r}: write {ours}")
    run = folder.parent if folder and folder.name == "best" else None
    run = run if run and (run / "metrics.jsonl").is_file() else None
    if folder and not run and (text := read_card(folder)):
        return rename(text, name, licence)
    file = (run or folder or Path()) / "evaluation" / "evaluation.json"
    result = read_result(file, folder / "model.safetensors") if folder else {}
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters |= {"percent": percent, "plain": plain, "quote": quote, "shell": shlex.quote}
    return pages.get_template("card.md").render(
        name=name,
        licence=licence,
        model=model,
        task=task,
        trained=load_json(run / "config.json") if run else None,
        note={k: x for k, x in note.items() if is_number(x)},  # it may be a stranger's
        result=result,
        measured=load_json(file.with_name("config.json")) if result else None,
        class_scores=class_scores(np.array(result["confusion"])) if result else {},
        data_name=data_name,
        version=VERSION,
    )


def read_result(file: Path, weights: Path) -> dict[str, Any]:
    """An evaluation.json; {} without one, or where it is of weights before, as these are newer."""
    if not file.is_file() or file.stat().st_mtime < weights.stat().st_mtime:
        return {}
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def data_name(config: Config) -> str:
    """What data are called, without where they lie on a machine."""
    root = Path(config.machine.root).name if config.data.source == "folder" else ""
    return root or config.data.source


def plain(text: str) -> str:
    """A name as one line of Markdown, and in a cell of a table."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def quote(text: str) -> str:
    """A text as Python and YAML write it."""
    return json.dumps(text, ensure_ascii=False)


def read_card(folder: Path) -> str:
    """The text of the card in a folder; "" if there is none, or a README.md of something else."""
    file = folder / CARD
    if not file.is_file():
        return ""
    with file.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(MOST_CHARACTERS)
    return text if text.startswith("---\n") and "\nlibrary_name: deeplab_jax\n" in text else ""


def rename(text: str, name: str, licence: str | None) -> str:
    """A card under another name, and licence, with all else that somebody wrote into it."""
    if old := re.search(r'from_pretrained\("([^"\\\n]+)"\)', text):
        for before, after in zip(mentions(old[1]), mentions(name), strict=True):
            text = text.replace(before, after)
    if licence is None:
        return text
    text, count = re.subn(r"(?m)^license:.*$", f"license: {licence}", text, count=1)
    if not count:
        raise UserError(f"licence = {licence}: {CARD} has no line `license:` for it; write one")
    return text


def mentions(name: str) -> tuple[str, ...]:
    """How a card names its model, place by place."""
    code, shell = quote(name), shlex.quote(name)
    title, index = f"\n# {plain(name)}\n", f"\n- name: {code}\n"
    return title, index, f"retrained({code})", f"--weights {shell}\n", f"--pretrained {shell}\n"
