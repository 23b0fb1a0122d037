"""Studies: one experiment in several variants, trained alike and compared in a table.

`PAPER` has the paper's own, each on any base configuration. A file with `get_study() -> Study` is
one of yours. Every variant, and every seed of it, is a run of `fit` in a folder of its own: what is
finished is taken as it is, what was interrupted resumes.
"""

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from deeplab_jax.config import (
    Config,
    ModelConfig,
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
from deeplab_jax.data.pipeline import open_split
from deeplab_jax.errors import UserError
from deeplab_jax.files import json_text
from deeplab_jax.inference.evaluate import Evaluator, protocol, write_evaluation
from deeplab_jax.inference.tta import scaled_size
from deeplab_jax.models.summary import parameters, trace
from deeplab_jax.parallel.mesh import device_mesh, place
from deeplab_jax.progress import duration
from deeplab_jax.reporting.report import write_study
from deeplab_jax.training.loop import check_same, fit, recipe
from deeplab_jax.weights.files import load_weights

Changes = Mapping[str, Any]  # {"model.decoder_convs": 1}
Numbers = dict[str, Any]  # an evaluation.json
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's "MS"


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
    """Keys of `METRICS`, or trimap_WIDTH for a width of the base's eval.trimap_widths."""

    def __post_init__(self) -> None:
        folders = [slug(row.name) for row in self.rows]
        require(len(folders) > 0, "study.rows", (), "one Row or more")
        for name in folders:
            allowed = "each row needs a name, and so a folder, of its own"
            require(name != "" and folders.count(name) == 1, "study.rows", name, allowed)
        trimaps = [f"trimap_{w}" for w in self.base.eval.trimap_widths]
        for key in self.columns:
            one_of("study.columns", key, [*METRICS, *trimaps])
        for row in self.rows:
            self.configs(row, Path())

    def configs(self, row: Row, out: Path, seed: int = 0) -> tuple[Config, Config]:
        """The configuration in which a row is trained, and that in which it is evaluated.

        It is evaluated once, at the end: the best of several evaluations would reward chance.
        """
        first = next(r for r in self.rows if r.changes == row.changes)
        try:
            for name in row.evaluation:
                ok = name == "model.output_stride" or name.startswith("eval.")
                require(ok, "evaluation", name, "it changes model.output_stride and eval.* alone")
            config = changed(self.base, row.changes)
            train = dataclasses.replace(config.train, seed=config.train.seed + seed)
            workdir = str(out / slug(first.name) / f"seed{train.seed}")
            machine = dataclasses.replace(
                config.machine, workdir=workdir, eval_every=config.train.steps
            )
            config = dataclasses.replace(config, machine=machine, train=train)
            return config, changed(config, row.evaluation)
        except UserError as e:
            raise UserError(f"study {self.name}, row {row.name!r}: {e}") from e


def changed(config: Config, changes: Changes) -> Config:
    """`config` with the changes; of another output stride, rates and sizes follow.

    Raises:
      UserError: there is no such field, or the values are not possible.
    """
    rest = dict(changes)
    stride = rest.pop("model.output_stride", config.model.output_stride)
    model, task = at_output_stride(config.model, config.task, stride)
    crop = fit_to_stride(config.data.crop_size, model, stride)
    data = dataclasses.replace(config.data, crop_size=crop)
    window = fit_to_stride(config.eval.window, model, stride)
    views = dataclasses.replace(config.eval, window=window)
    values = to_dict(dataclasses.replace(config, model=model, task=task, data=data, eval=views))
    for name, value in rest.items():
        *sections, last = name.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
            require(isinstance(section, dict), "change", name, "it has to name a field of Config")
        section[last] = value
    config = from_dict(Config, values)
    return config


def slug(name: str) -> str:
    """A row's name as the name of a folder."""
    return re.sub(r"[^a-z0-9+]+", "-", name.lower()).strip("-")


# What a run is measured by.


class Metric(NamedTuple):
    """A column: its title, whether chance has a part in it, and how it is found."""

    label: str
    varies: bool
    of: Callable[[Numbers, Config], float | None]


def percent(key: str) -> Callable[[Numbers, Config], float | None]:
    """A share of evaluation.json, times 100; None where it is undefined or was not measured."""

    def of(numbers: Numbers, config: Config) -> float | None:
        share = numbers.get(key)
        return None if share is None else 100 * share

    return of


def billions(padded: bool) -> Callable[[Numbers, Config], float]:
    """Multiply-adds of one image through all views of an evaluation, in 10^9."""

    def of(numbers: Numbers, config: Config) -> float:
        size, model = config.task.eval_size or config.data.crop, config.model
        sizes = [scaled_size(size, scale, model.output_stride) for scale in config.eval.scales]
        total = sum(multiply_adds(model, seen)[padded] for seen in sizes)
        return total * (2 if config.eval.flip else 1) / 1e9

    return of


@cache  # tracing a network takes a second, and the table is written after each run
def multiply_adds(model: ModelConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Multiply-adds for one image of `size`: as they are, and padded as the paper counted."""
    convolutions, _ = trace(model, size)
    return (
        sum(c.multiply_adds for c in convolutions),
        sum(c.padded_multiply_adds for c in convolutions),
    )


METRICS = {
    "miou": Metric("mIoU %", True, percent("eval/miou")),
    "pixel_accuracy": Metric("pixel accuracy %", True, percent("eval/pixel_accuracy")),
    "boundary_iou": Metric("boundary IoU %", True, percent("eval/boundary_iou")),
    "parameters": Metric("parameters, 10^6", False, lambda _, c: parameters(c.model) / 1e6),
    "multiply_adds": Metric("multiply-adds, 10^9", False, billions(padded=False)),
    "padded_multiply_adds": Metric("padded, 10^9", False, billions(padded=True)),
    "seconds_per_image": Metric("s an image", False, lambda n, _: n["seconds_per_image"]),
}


def metric(key: str) -> Metric:
    """The metric of a column."""
    if key in METRICS:
        return METRICS[key]
    width = key.removeprefix("trimap_")
    return Metric(f"mIoU % within {width} px", True, percent(f"eval/{key}_miou"))


# Running one.


def run_study(study: Study, out: Path, seeds: int = 1) -> str:
    """Train and evaluate what is missing under `out`, and write its tables; returns the table.

    They are written after each run, with what is known so far.
    """
    require(seeds >= 1, "--seeds", seeds, "1 or more")
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Numbers]] = {row.name: [] for row in study.rows}
    todo = [(row, seed) for seed in range(seeds) for row in study.rows]
    start, before = time.monotonic(), seconds_so_far(out / "study.json")
    table = ""
    for i, (row, seed) in enumerate(todo, start=1):
        trained, evaluated = study.configs(row, out, seed)
        numbers = run_row(row, trained, evaluated)
        results[row.name].append(numbers)
        seconds = before + time.monotonic() - start
        miou = cell(METRICS["miou"].of(numbers, evaluated))
        note = f"{row.name}, seed {trained.train.seed}: mIoU {miou} %"
        print(f"[{i}/{len(todo)}] {note}, {duration(seconds)}", file=sys.stderr, flush=True)
        summary = summarise(study, results, seeds, seconds)
        (out / "study.json").write_text(json_text(summary, indent=1) + "\n", encoding="utf-8")
        table = markdown(summary)
        page = f"# {study.title}\n\n{study.about}\n\n{table}\n"
        (out / "table.md").write_text(page, encoding="utf-8")
        write_study(out)
    return table


def seconds_so_far(file: Path) -> float:
    """What earlier calls of the same study took."""
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError):
        return 0.0


def run_row(row: Row, trained: Config, evaluated: Config) -> Numbers:
    """The evaluation of a row: the one that is there, or that of a run made now."""
    run = Path(trained.machine.workdir)
    numbers = measured(run / "evaluation", trained)
    if numbers is not None:
        there = flatten(to_dict(load_json(run / "config.json")))
        # What is read from the data stands there alone.
        asked = {k: v for k, v in flatten(recipe(trained)).items() if v not in (None, [])}
        check_same(run, there, asked, trained.machine.accept_changes)
    else:
        with output_to(run / "output.txt"):
            fit(trained)
        numbers = measured(run / "evaluation", trained)
    if evaluated != trained:
        folder = run / f"evaluation-{slug(row.name)}"
        numbers = measured(folder, evaluated)
        if numbers is None:
            evaluate_again(run, evaluated, folder)
            numbers = measured(folder, evaluated)
    assert numbers is not None  # both have just been written
    return numbers


def measured(folder: Path, config: Config) -> Numbers | None:
    """The folder's evaluation.json; None where there is none of this protocol."""
    try:
        text = (folder / "evaluation.json").read_text(encoding="utf-8")
        numbers: Numbers = json.loads(text)
    except (OSError, ValueError):
        return None
    wanted = json.loads(json.dumps(protocol(config)))
    return numbers if numbers.get("protocol") == wanted else None


@contextmanager
def output_to(file: Path) -> Iterator[None]:
    """What a run prints at its end goes to its own folder; its progress stays on the screen."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as stream, redirect_stdout(stream):
        yield


def evaluate_again(run: Path, config: Config, folder: Path) -> None:
    """Evaluate a run's weights in another way."""
    mesh, weights = device_mesh(config.mesh.shape), load_weights(run)
    source = open_split(config, config.data.eval_split)
    variables = place(weights.variables, mesh)
    write_evaluation(Evaluator(config, source, mesh)(variables), source, folder)


# Its table.


def summarise(
    study: Study, results: Mapping[str, list[Numbers]], seeds: int, seconds: float
) -> dict[str, Any]:
    """study.json: columns, rows (null: not known yet) and trimap curves, means over the seeds.

    With several seeds a column that chance has a part in has one beside it: smallest to largest.
    """
    columns: list[dict[str, Any]] = []
    for key in study.columns:
        columns.append({"key": key, "label": metric(key).label, "paper": False})
        if seeds > 1 and metric(key).varies:
            columns.append({"key": f"{key}_spread", "label": "min to max", "paper": False})
    quoted = dict.fromkeys(label for row in study.rows for label in row.paper)
    columns += [{"key": f"paper: {x}", "label": f"paper: {x}", "paper": True} for x in quoted]
    rows = []
    for row in study.rows:
        values = row_values(study, row, results[row.name])
        cells = {c["key"]: values.get(c["key"]) for c in columns}
        rows.append({"name": row.name, "values": cells})
    curves = [trimap_curve(name, r) for name, r in results.items() if r and r[0]["trimaps"]]
    return {
        "name": study.name,
        "title": study.title,
        "about": study.about,
        "columns": columns,
        "rows": rows,
        "curves": curves,
        "x_label": "pixels from a boundary, at most" if curves else "",
        "y_label": "mIoU %" if curves else "",
        "seconds": round(seconds, 1),
    }


def row_values(study: Study, row: Row, results: list[Numbers]) -> dict[str, Any]:
    """The cells of a row by column."""
    config = study.configs(row, Path())[1]
    values: dict[str, Any] = {f"paper: {label}": value for label, value in row.paper.items()}
    for key in study.columns:
        found = [metric(key).of(numbers, config) for numbers in results]
        known = [x for x in found if x is not None]
        values[key] = sum(known) / len(known) if known else None
        if known:
            values[f"{key}_spread"] = f"{min(known):.2f} to {max(known):.2f} ({len(known)})"
    return values


def trimap_curve(label: str, results: list[Numbers]) -> dict[str, Any]:
    """mIoU % over the width of the band, mean over seeds; a width with no pixel is left out."""
    points = []
    for width in results[0]["trimaps"]:
        values = [r["trimaps"][width]["miou"] for r in results]
        known = [100 * x for x in values if x is not None]
        if known:
            points.append((int(width), sum(known) / len(known)))
    return {"label": label, "x": [p[0] for p in points], "y": [p[1] for p in points]}


def markdown(summary: Mapping[str, Any]) -> str:
    """The table, readable as it stands."""
    columns = summary["columns"]
    lines = [["", *(c["label"] for c in columns)]]
    for row in summary["rows"]:
        lines.append([row["name"], *(cell(row["values"][c["key"]]) for c in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(x.ljust(w) for x, w in zip(line, widths, strict=True))} |" for line in lines
    )


def cell(value: float | str | None) -> str:
    """A number to four digits, at least the decimals of the paper's tables."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


# The paper's (arXiv 1802.02611). Its numbers are percent of mIoU on VOC val unless they say else.


def with_decoder(base: Config, **model: Any) -> Config:
    """`base` with a v3+ decoder."""
    return changed(
        base, {"model.head": "deeplabv3plus", **{f"model.{k}": v for k, v in model.items()}}
    )


def decoder_width(base: Config) -> Study:
    table = {8: 77.61, 16: 77.92, 32: 78.16, 48: 78.21, 64: 77.94}
    return Study(
        "decoder-width",
        "Channels of the decoder's 1x1 convolution",
        "How many channels the low-level features are reduced to before they join the encoder's"
        " (paper, Table 1: ResNet-101, one 3x3 convolution of 256 channels).",
        with_decoder(base, decoder_strides=(4,), decoder_convs=1, decoder_kernel=3),
        tuple(
            Row(f"{n} channels", {"model.decoder_low_level_channels": n}, paper={"Table 1": miou})
            for n, miou in table.items()
        ),
    )


def decoder_convs(base: Config) -> Study:
    full = base.model.decoder_channels
    half = max(1, full // 2)

    def row(name: str, paper: float, **model: int) -> Row:
        changes = {f"model.{k}": v for k, v in model.items()}
        return Row(name, changes, paper={"Table 2": paper})

    return Study(
        "decoder-convs",
        "Convolutions of the decoder",
        "What refines the joined features (paper, Table 2: ResNet-101, 48 low-level channels; 256"
        " channels, or 128).",
        with_decoder(base, decoder_strides=(4,), decoder_convs=1, decoder_kernel=3),
        (
            row(f"3x3, {full}", 78.21),
            row(f"3x3, {full}, twice", 78.85, decoder_convs=2),
            row(f"3x3, {full}, three times", 78.02, decoder_convs=3),
            row(f"3x3, {half}", 77.25, decoder_channels=half),
            row(f"1x1, {full}", 78.07, decoder_kernel=1),
        ),
    )


def low_level(base: Config) -> Study:
    return Study(
        "low-level",
        "Low-level features",
        "Which features the decoder adds: those at stride 4 (the paper's Conv2), or first those at"
        " stride 8 (Conv3) and then those (paper, Table 2: ResNet-101, one 3x3 convolution each).",
        with_decoder(base, decoder_convs=1, decoder_kernel=3),
        (
            Row("Conv2", {"model.decoder_strides": (4,)}, paper={"Table 2": 78.21}),
            Row("Conv2 and Conv3", {"model.decoder_strides": (8, 4)}, paper={"Table 2": 78.61}),
        ),
    )


# Table 3, ResNet-101: (train, eval output stride, decoder, MS, flip, mIoU, multiply-adds in 10^9).
TABLE_3 = (
    (16, 16, False, False, False, 77.21, 81.02),
    (16, 8, False, False, False, 78.51, 276.18),
    (16, 8, False, True, False, 79.45, 2435.37),
    (16, 8, False, True, True, 79.77, 4870.59),
    (16, 16, True, False, False, 78.85, 101.28),
    (16, 16, True, True, False, 80.09, 898.69),
    (16, 16, True, True, True, 80.22, 1797.23),
    (16, 8, True, False, False, 79.35, 297.92),
    (16, 8, True, True, False, 80.43, 2623.61),
    (16, 8, True, True, True, 80.57, 5247.07),
    (32, 32, False, False, False, 75.43, 52.43),
    (32, 32, True, False, False, 77.37, 74.20),
    (32, 16, True, False, False, 77.80, 101.28),
    (32, 8, True, False, False, 77.92, 297.92),
)
# Table 5, Xception-65, trained at 16: (eval output stride, decoder, MS, flip) -> mIoU. Of its rows
# with a decoder those with plain convolutions, which has all.
TABLE_5 = {
    (16, False, False, False): 79.17,
    (8, False, False, False): 79.64,
    (8, False, True, False): 81.15,
    (8, False, True, True): 81.34,
    (16, True, False, False): 79.93,
    (16, True, True, False): 81.38,
    (16, True, True, True): 81.44,
    (8, True, False, False): 80.22,
    (8, True, True, False): 81.60,
    (8, True, True, True): 81.63,
}


def output_stride(base: Config) -> Study:
    rows = []
    for train, stride, decoder, scales, flip, miou, adds in TABLE_3:
        seen = {"eval.scales": SCALES if scales else (1.0,), "eval.flip": flip}
        paper = {"Table 3": miou, "multiply-adds": adds}
        if train == 16:
            paper["Table 5"] = TABLE_5[stride, decoder, scales, flip]
        network = "v3+" if decoder else "v3"
        rows.append(
            Row(
                f"{network} {train}/{stride}{' MS' if scales else ''}{' flip' if flip else ''}",
                {
                    "model.output_stride": train,
                    "model.head": "deeplabv3plus" if decoder else "deeplabv3",
                },
                {"model.output_stride": stride, **seen},
                paper,
            )
        )
    return Study(
        "output-stride",
        "Output stride, decoder, scales and flip",
        "Four trained networks, each evaluated in several ways: output stride of training /"
        " evaluation, six scales (MS), mirror images (paper, Table 3: ResNet-101, and Table 5:"
        " Xception-65). Padded multiply-adds are counted as the paper did, its maps padded to"
        " multiples of the atrous rate.",
        with_decoder(base),
        tuple(rows),
        ("miou", "multiply_adds", "padded_multiply_adds", "seconds_per_image"),
    )


def aspp(base: Config) -> Study:
    rates = base.model.rates
    halves = tuple(max(1, r // 2) for r in rates)
    with_pooling = {"Table 7, Cityscapes": 78.79}
    without_pooling = {"Table 7, Cityscapes": 79.14}
    pooling, atrous = "model.image_pooling", "model.atrous_rates"
    return Study(
        "aspp",
        "Parts of the ASPP",
        "Its atrous branches and its image pooling (paper, Table 7: on Cityscapes, Xception-65 v3+"
        " is better without image pooling).",
        with_decoder(base),
        (
            Row(f"rates {words(rates)}, image pooling", {pooling: True}, paper=with_pooling),
            Row(f"rates {words(rates)}", {pooling: False}, paper=without_pooling),
            Row(f"rates {words(halves)}, image pooling", {pooling: True, atrous: halves}),
            Row("image pooling alone", {pooling: True, atrous: ()}),
            Row("neither", {pooling: False, atrous: ()}),
        ),
    )


def words(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def trimap(base: Config) -> Study:
    widths = (1, 2, 5, 10, 20, 40)
    plain, gain = "Table 5", "gain in the narrowest band"
    return Study(
        "trimap",
        "Boundaries with and without a decoder",
        "mIoU within a few pixels of a boundary, of DeepLab v3 and v3+ (paper, Figure 5; mIoU of"
        " Table 5: Xception-65, output stride 16).",
        changed(with_decoder(base), {"eval.trimap_widths": widths}),
        (
            Row("DeepLab v3", {"model.head": "deeplabv3"}, paper={plain: 79.17}),
            Row("DeepLab v3+", {"model.head": "deeplabv3plus"}, paper={plain: 79.93, gain: 5.4}),
        ),
        ("miou", "trimap_1", "trimap_5", "trimap_20", "multiply_adds"),
    )


PAPER: dict[str, Callable[[Config], Study]] = {
    "decoder-width": decoder_width,
    "decoder-convs": decoder_convs,
    "low-level": low_level,
    "output-stride": output_stride,
    "aspp": aspp,
    "trimap": trimap,
}


def load_study_file(path: str) -> Study:
    """`get_study()` of a Python file.

    Raises:
      UserError: there is no such file or no such function.
    """
    if not Path(path).is_file():
        raise UserError(f"study {path}: no such Python file; or name one of {', '.join(PAPER)}")
    return call_in_file(Path(path), "get_study", Study, f"study {path}")


def load_study(name: str, config: str | None, changes: list[str]) -> Study:
    """A study by its name, or of a Python file, on a configuration and its changes."""
    own = load_study_file(name) if name.endswith(".py") else None
    if own is None:
        one_of("study", name, list(PAPER))
    base = own.base if own and config is None else load_config_file(config or "scenes")
    base = override(base, changes)
    return dataclasses.replace(own, base=base) if own else PAPER[name](base)
