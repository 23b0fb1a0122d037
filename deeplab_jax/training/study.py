"""Studies: one experiment in several variants, trained alike and compared in a table.

A study is a configuration file with one function more: `get_config() -> Config`, what it varies
unless another configuration is named, and `get_study(base: Config) -> Study`. The paper's are in
`studies/`. Every variant, and every seed of it, is a run of `fit` in a folder of its own: what is
finished is taken as it is, what was interrupted resumes.
"""

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from deeplab_jax.config import (
    Config,
    at_output_stride,
    call_in_file,
    fit_to_stride,
    flatten,
    from_dict,
    load_config_file,
    load_json,
    one_of,
    override,
    require,
    to_dict,
)
from deeplab_jax.config.files import find_shipped, names_of
from deeplab_jax.data.settle import open_split
from deeplab_jax.errors import UserError
from deeplab_jax.files import json_text
from deeplab_jax.inference.results import evaluate_weights, protocol
from deeplab_jax.inference.tta import scaled_size
from deeplab_jax.models.summary import parameters, trace
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.progress import duration
from deeplab_jax.reporting.report import format_column, write_study
from deeplab_jax.training.choices import settle_run
from deeplab_jax.training.loop import fit
from deeplab_jax.training.resume import check_same, recipe
from deeplab_jax.weights.files import load_weights

Changes = Mapping[str, Any]  # {"model.decoder_convs": 1}
Numbers = dict[str, float | None]  # of a run by column; None: undefined
SCORES = {
    "miou": "mIoU %",
    "pixel_accuracy": "pixel accuracy %",
    "boundary_iou": "boundary IoU %",
}
COSTS = {
    "parameters": "parameters, 10^6",
    "multiply_adds": "multiply-adds, 10^9",
    "padded_multiply_adds": "padded, 10^9",
    "seconds_per_image": "s an image",
}
cached_trace = cache(trace)  # of a second, for each of a study's looks at the same network


@dataclass(frozen=True)
class Row:
    """A variant."""

    name: str
    changes: Changes = field(default_factory=dict)
    """Fields that differ from the base. Of an output stride, rates and sizes follow.

    Rows with equal changes share one training, and differ in how its weights are evaluated.
    """
    evaluation: Changes = field(default_factory=dict)
    """Fields that differ only when evaluating: model.output_stride and eval.*."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """The paper's numbers: title of the column -> value."""


@dataclass(frozen=True)
class Study:
    """What is compared. Its rows are checked before the first is trained.

    Raises:
      UserError: two rows of one name, a change of a field that does not exist, or a column that
        cannot be measured.
    """

    name: str
    title: str
    about: str
    base: Config
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = ("miou", "multiply_adds")
    """Keys of `SCORES` and `COSTS`, or trimap_WIDTH for one of the base's eval.trimap_widths."""

    def __post_init__(self) -> None:
        folders = [slug(row.name) for row in self.rows]
        require(len(folders) > 0, "study.rows", (), "one Row or more")
        for name in folders:
            allowed = "each row needs a name, and so a folder, of its own"
            require(name != "" and folders.count(name) == 1, "study.rows", name, allowed)
        for key in self.columns:
            one_of("study.columns", key, list(self.labels))
        for row in self.rows:
            try:
                for name in row.evaluation:
                    ok = name == "model.output_stride" or name.startswith("eval.")
                    require(ok, "evaluation", name, "it changes model.output_stride and eval.*")
                changed(self.run_config(row), row.evaluation)
            except UserError as e:
                raise UserError(f"study {self.name}, row {row.name!r}: {e}") from e

    @property
    def labels(self) -> dict[str, str]:
        """The titles of all columns that there can be."""
        widths = self.base.eval.trimap_widths
        return SCORES | COSTS | {f"trimap_{w}": f"mIoU % within {w} px" for w in widths}

    def run_config(self, row: Row, out: Path = Path(), seed: int = 0) -> Config:
        """The configuration of the run of a row under `out`; `seed` is added to the base's.

        It is evaluated once, at the end: the best of several evaluations would reward chance.
        """
        first = next(r for r in self.rows if r.changes == row.changes)
        config = changed(self.base, row.changes)
        seed += config.train.seed
        workdir = str(out / slug(first.name) / f"seed{seed}")
        run = {"machine.workdir": workdir, "machine.eval_every": config.train.length}
        return changed(config, {"train.seed": seed, **run})


def changed(config: Config, changes: Changes) -> Config:
    """`config` with the changes; of another output stride, rates and sizes follow.

    Raises:
      UserError: there is no such field, or the values are not possible.
    """
    rest = dict(changes)
    stride = rest.pop("model.output_stride", config.model.output_stride)
    model, task = at_output_stride(config.model, config.task, stride)
    values = to_dict(config) | {"model": to_dict(model), "task": to_dict(task)}
    values["data"]["crop_size"] = fit_to_stride(config.data.crop_size, model, stride)
    values["eval"]["window"] = fit_to_stride(config.eval.window, model, stride)
    for name, value in rest.items():
        section, _, last = name.partition(".")
        values[section] = {**values.get(section, {}), last: value}
    result: Config = from_dict(Config, values)
    return result


def slug(name: str) -> str:
    """A row's name as the name of a folder."""
    return re.sub(r"[^a-z0-9+]+", "-", name.lower()).strip("-")


def load_study(name: str, config: str | None, changes: list[str]) -> Study:
    """A study by its name, or of a Python file, on a configuration and its changes.

    Raises:
      UserError: there is no such study, or its file cannot be used.
    """
    file = find_shipped(name if name.endswith(".py") else name.replace("-", "_"), "studies")
    if not file.is_file():
        names = [name.replace("_", "-") for name in names_of("studies")]
        if not name.endswith(".py"):
            one_of("study", name, names)
        raise UserError(f"study {name}: no such Python file; or name one of {', '.join(names)}")
    base = override(load_config_file(config or str(file)), changes)
    return call_in_file(file, "get_study", Study, f"study {name}", base)


def run_study(study: Study, out: Path, seeds: int = 1) -> str:
    """Train and evaluate what is missing under `out`, and write its tables; returns the table.

    They are written after each run, with what is known so far.
    """
    require(seeds >= 1, "--seeds", seeds, "1 or more")
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Numbers]] = {row.name: [] for row in study.rows}
    todo = [(row, seed) for seed in range(seeds) for row in study.rows]
    start, file, first = time.monotonic(), out / "study.json", study.columns[0]
    before = read_json_file(file).get("seconds", 0.0)  # what earlier calls took
    table = ""
    for i, (row, seed) in enumerate(todo, start=1):
        config = study.run_config(row, out, seed)
        numbers = run_row(study, row, config)
        results[row.name].append(numbers)
        seconds = before + time.monotonic() - start
        score = f"{study.labels[first]} {format_column([numbers[first]])[0]}"
        note = f"{row.name}, seed {config.train.seed}: {score}, {duration(seconds)}"
        print(f"[{i}/{len(todo)}] {note}", file=sys.stderr, flush=True)
        summary = summarise(study, results, seeds, seconds)
        file.write_text(json_text(summary, indent=1) + "\n", encoding="utf-8")
        table = markdown(summary)
        page = f"# {study.title}\n\n{study.about}\n\n{table}\n"
        (out / "table.md").write_text(page, encoding="utf-8")
        write_study(out)
    return table


def run_row(study: Study, row: Row, config: Config) -> Numbers:
    """The numbers of a row: of the run that is there, or of one made now."""
    equal = "the runs of a study have equal steps"
    require(not config.train.time, "train.time", config.train.time, equal)
    source = open_split(config, config.data.train_split)
    config, _ = settle_run(config, source, device_mesh(config.mesh.shape))
    run = Path(config.machine.workdir)
    folder = run / "evaluation"
    if not is_measured(folder, config):
        run.mkdir(parents=True, exist_ok=True)
        # What a run prints at its end goes to its folder; its progress stays on the screen.
        with (run / "output.txt").open("w", encoding="utf-8") as file, redirect_stdout(file):
            fit(config)
    there = flatten(recipe(load_json(run / "config.json")))
    check_same(run, there, flatten(recipe(config)), config.machine.accept_changes)
    if row.evaluation:
        config = changed(config, row.evaluation)
        folder = run / f"evaluation-{slug(row.name)}"
        if not is_measured(folder, config):
            evaluate_weights(load_weights(run), config, folder, str(run))
    evaluation = read_json_file(folder / "evaluation.json")
    keys = {*study.columns, *(key for key in study.labels if key.startswith("trimap_"))}
    return {key: measure(key, evaluation, config) for key in keys}


def is_measured(folder: Path, config: Config) -> bool:
    """Whether the folder has an evaluation of this protocol."""
    there = read_json_file(folder / "evaluation.json").get("protocol")
    return bool(there == json.loads(json.dumps(protocol(config))))


def read_json_file(file: Path) -> dict[str, Any]:
    """A JSON file that a study writes; {}: there is none, or half of one."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def measure(key: str, evaluation: Mapping[str, Any], config: Config) -> float | None:
    """A column's number of an evaluation.json: scores in percent."""
    if key == "seconds_per_image":
        return float(evaluation[key])
    if key == "parameters":
        return parameters(config.model) / 1e6
    if key in COSTS:
        return multiply_adds(config, padded=key.startswith("padded"))
    share = evaluation.get(f"eval/{key}_miou" if key.startswith("trimap_") else f"eval/{key}")
    return None if share is None else 100 * share


def multiply_adds(config: Config, *, padded: bool) -> float:
    """10^9 multiply-adds of an image in all views of an evaluation; padded: as the paper counts."""
    size, model = config.task.eval_size or config.data.crop, config.model
    sizes = [scaled_size(size, scale, model.output_stride) for scale in config.eval.scales]
    seen = [c for size in sizes for c in cached_trace(model, size)]
    total = sum(c.padded_multiply_adds if padded else c.multiply_adds for c in seen)
    return total * (2 if config.eval.flip else 1) / 1e9


def summarise(
    study: Study, results: Mapping[str, Sequence[Numbers]], seeds: int, seconds: float
) -> dict[str, Any]:
    """study.json: columns, rows (null: not known yet) and trimap curves, means over the seeds.

    With several seeds a score has a column beside it: smallest to largest.
    """
    columns = {}
    for key in study.columns:
        columns[key] = study.labels[key]
        if seeds > 1 and key not in COSTS:
            columns[f"{key}_spread"] = "min to max"
    quoted = [f"paper: {label}" for row in study.rows for label in row.paper]
    columns |= dict(zip(quoted, quoted, strict=True))
    widths = study.base.eval.trimap_widths
    rows, curves = [], []
    for row in study.rows:
        values = averages(results[row.name]) | {f"paper: {k}": x for k, x in row.paper.items()}
        rows.append({"name": row.name, "values": {key: values.get(key) for key in columns}})
        if widths and results[row.name]:
            scores = [values.get(f"trimap_{width}") for width in widths]
            curves.append({"label": row.name, "x": widths, "y": scores})
    return {
        "name": study.name,
        "title": study.title,
        "about": study.about,
        "columns": [
            {"key": key, "label": label, "paper": key in quoted} for key, label in columns.items()
        ],
        "rows": rows,
        "curves": curves,
        "seconds": round(seconds, 1),
    }


def averages(results: Sequence[Numbers]) -> dict[str, float | str]:
    """The mean over runs of each number that is defined, and as text its spread."""
    values: dict[str, float | str] = {}
    for key in results[0] if results else ():
        known = [x for x in (numbers[key] for numbers in results) if x is not None]
        if known:
            values[key] = mean(known)
            values[f"{key}_spread"] = f"{min(known):.2f} to {max(known):.2f} ({len(known)})"
    return values


def markdown(summary: Mapping[str, Any]) -> str:
    """The table, readable as it stands."""
    rows = summary["rows"]
    columns = [["", *(row["name"] for row in rows)]]
    for c in summary["columns"]:
        columns.append([c["label"], *format_column([row["values"][c["key"]] for row in rows])])
    padded = []
    for head, *cells in columns:
        width = max(map(len, [head, *cells]))
        padded.append([text.ljust(width) for text in (head, "-" * width, *cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*padded, strict=True))
