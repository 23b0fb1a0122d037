"""The command check-data: what a data set holds, what is wrong, and arguments that would help."""

import contextlib
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_jax.config import Config, require, round_up, save_json
from deeplab_jax.data.findings import (
    Finding,
    SplitCheck,
    check_split,
    find_problems,
    find_warnings,
    group_findings,
    sum_up,
    warn_of_reading,
)
from deeplab_jax.data.folder import understand
from deeplab_jax.data.samples import draw_augmented
from deeplab_jax.data.settle import choose, format_choices, open_data, open_split, with_choices
from deeplab_jax.data.source import (
    UNREADABLE,
    Facts,
    Source,
    check_source,
    image_of,
    read_as,
)
from deeplab_jax.data.transforms import GREY, fit_size, whole
from deeplab_jax.errors import UserError
from deeplab_jax.files import inside, writable_file, writable_folder
from deeplab_jax.progress import Ticker
from deeplab_jax.reporting.figures import gallery, index_image

FILES_SHOWN = 3  # of each kind of finding
SAMPLES = 8  # of each split
SAMPLE_CELL = 320  # pixels


def check_data(config: Config, out: Path) -> tuple[str, bool]:
    """Check the data of a configuration: the report, and whether there is no problem.

    Writes OUT/problems.txt, every finding, and for segmentation OUT/samples.png.

    Raises:
      UserError: a split cannot be opened at all.
    """
    writable_folder(out, "--out")
    splits = (config.data.train_split, config.data.eval_split)
    sources = {split: open_split(config, split) for split in splits}
    chosen = choose(config, sources[splits[0]])
    settled = with_choices(config, chosen)
    sources = {split: read_as(source, settled) for split, source in sources.items()}
    workers = config.machine.workers
    checks = [check_split(source, split, workers) for split, source in sources.items()]
    problems, warnings = find_problems(checks), find_warnings(checks, config)
    every = f"{list_findings('problems', problems)}\n\n{list_findings('warnings', warnings)}\n"
    (out / "problems.txt").write_text(every, encoding="utf-8", errors="backslashreplace")
    written = f"all findings: {out / 'problems.txt'}"
    if not config.data.one_label and (samples := draw_samples(checks)):
        samples.save(out / "samples.png")
        written += f"; images under their masks: {out / 'samples.png'}"
    save_json(settled, out / "data.json")
    written += f"; what was understood, as settings: {out / 'data.json'}"
    text = [
        *map(describe_split, checks),
        class_table(checks),
        f"training would choose\n{format_choices(chosen)}",
        describe_findings("warnings", warnings),
        describe_findings("problems", problems),
        describe_advice(suggest(checks, [*problems, *warnings], settled)),
        written,
    ]
    return "\n\n".join(text), not problems


def write_masks(config: Config, out: Path) -> str:
    """Write the labels of every split as they are understood: OUT/SPLIT/NAME.png, and classes.txt.

    They are PNGs of class ids, of VOID where pixels are ignored, under the images' own names; what
    cannot be read is left out. Returns what was written, in words.

    Raises:
      UserError: the folder holds something already.
    """
    writable_folder(out, "--write-masks")
    if any(out.iterdir()):
        raise UserError(f"--write-masks={out}: the folder is not empty; name a new one")
    splits: Sequence[str] = (config.data.train_split, config.data.eval_split)
    if config.data.source == "folder":
        splits = [*understand(Path(config.machine.root), config.data, None).splits]
    count = 0
    for split in splits:
        source = open_data(config, split)
        with Ticker(f"writing {split}", len(source), unit="mask") as ticker:
            for index in range(len(source)):
                with contextlib.suppress(*UNREADABLE):
                    example = source[index]
                    file = inside(out / split, f"{example['id']}.png")
                    file.parent.mkdir(parents=True, exist_ok=True)
                    index_image(example["label"], source.colors).save(file)
                    count += 1
                ticker.tick(index + 1)
    pairs = zip(source.class_names, source.colors, strict=True)
    lines = (f"{name} #{bytes(color).hex()}\n" for name, color in pairs)
    (out / "classes.txt").write_text("".join(lines), encoding="utf-8")
    return f"wrote {count} masks and classes.txt to {out}"


def write_augmented(config: Config, file: Path) -> str:
    """Draw sixteen training examples as they are augmented; what was written, in words.

    Raises:
      UserError: as `draw_augmented`, or the file is no PNG or cannot be written.
    """
    allowed = "a drawing is a PNG: --augmented FILE.png"
    require(file.suffix.lower() == ".png", "--augmented", str(file), allowed)
    writable_file(file, "--augmented")
    draw_augmented(config).save(file)
    return f"augmented training samples: {file}"


def warn_of_samples(sources: Mapping[str, Source], config: Config) -> None:
    """Try samples of each split before training, and print what check-data would warn of.

    Each kind once, with a count and one file.

    Raises:
      UserError: as `check_source`, where training would fail or learn nothing.
    """
    most = config.machine.max_bad_records
    checks = [sum_up(source, s, check_source(source, most)) for s, source in sources.items()]
    count = sum(len(check.sound) for check in checks)
    kinds = group_findings(warn_of_reading(checks, config))
    for alike in kinds:
        first = f"{alike[0].where}: {alike[0].reason}"
        print(f"warning: {first} ({len(alike)} of {count} samples)", file=sys.stderr)
    if kinds:
        advice = "These are samples; deeplab check-data, with the same arguments, reads them all"
        print(advice, file=sys.stderr)


# ---- what would help


def suggest(
    checks: Sequence[SplitCheck], findings: Sequence[Finding], config: Config
) -> dict[str, str]:
    """Arguments of the command line, each with its reason."""
    advice = {f.remedy: f"{f.where}: {f.reason}" for f in findings if f.remedy}
    evaluation, stride = checks[-1], config.model.output_stride
    if config.task.eval_size is None and evaluation.sound and not config.data.one_label:
        largest, median = np.max(evaluation.sizes, axis=0), np.median(evaluation.sizes, axis=0)
        h, w = (round_up(max(17, int(n)), stride) for n in median)
        if largest.prod() > 4 * median.prod():
            advice[f"--task.resize=fit --task.eval_size {h} {w}"] = (
                "the largest image has over 4 times the median's pixels, and needs as much more"
                " memory; scaled to fit, all need that of the median, and one compiled program"
            )
    return advice


# ---- as text and as an image


def describe_split(check: SplitCheck) -> str:
    """Number, sizes and kinds of a split's images, and the share of ignored pixels."""
    sound, count = len(check.sound), len(check.sound) + len(check.refused)
    title = f"{check.split}: {count} images, {sound} of them sound"
    if not sound:
        return title
    sizes, headers = np.array(check.sizes), [facts.header for facts in check.sound]
    spread = {"smallest": sizes.min(0), "median": np.median(sizes, 0), "largest": sizes.max(0)}
    by_side = ", ".join(f"{name} {int(h)} x {int(w)}" for name, (h, w) in spread.items())
    same = (sizes == sizes[0]).all()
    stored = Counter(f"{header.format} {header.mode}" for header in headers)
    turned = sum(header.orientation != 1 for header in headers)
    ignored = check.ignored / (check.ignored + check.pixels.sum())
    rows = {
        "height x width": f"all {sizes[0][0]} x {sizes[0][1]}" if same else f"{by_side}, by side",
        "stored as": ", ".join(f"{kind} ({n})" for kind, n in stored.most_common()),
        "EXIF says": f"turned ({turned})" if turned else "all are upright",
        "ignored": f"{100 * ignored:.2f} % of the pixels",
    }
    return "\n".join([title, *(f"  {name:<14}  {value}" for name, value in rows.items())])


def class_table(checks: Sequence[SplitCheck]) -> str:
    """A line per class: its share of each split's labelled pixels, and images that show it."""
    names = checks[0].source.class_names
    rows = [["class", *names]]
    for check in checks:
        shares = 100 * check.pixels / max(1, check.pixels.sum())
        rows.append([f"{check.split} %", *(f"{share:.3f}" for share in shares)])
        rows.append(["in images", *map(str, check.images)])
    width = max(map(len, rows[0]))
    return "\n".join(
        name.ljust(width) + "".join(cell.rjust(14 - i % 2) for i, cell in enumerate(cells))
        for name, *cells in zip(*rows, strict=True)
    )


def describe_findings(title: str, findings: Sequence[Finding]) -> str:
    """Findings by kind, the most frequent first: how many, the first reason, the first files."""
    lines = [f"{title}: {len(findings) or 'none'}"]
    for alike in group_findings(findings):
        reason = textwrap.indent(alike[0].reason, " " * 8).strip()
        example = "such as: " if len({finding.reason for finding in alike}) > 1 else ""
        lines.append(f"  {len(alike):>4}  {example}{reason}")
        lines += [f"        - {finding.where}" for finding in alike[:FILES_SHOWN]]
        if len(alike) > FILES_SHOWN:
            lines.append(f"        - and {len(alike) - FILES_SHOWN} more, see problems.txt")
    return "\n".join(lines)


def describe_advice(advice: Mapping[str, str]) -> str:
    """Arguments to copy, each below its reason."""
    lines = (f"  # {reason}\n  {argument}" for argument, reason in advice.items())
    return "\n".join(["suggestions", *lines]) if advice else "suggestions: none"


def list_findings(title: str, findings: Sequence[Finding]) -> str:
    """Every finding on a line (or more, where its advice has several)."""
    lines = (f"{finding.split}  {finding.where}: {finding.reason}" for finding in findings)
    return "\n".join([f"{title}: {len(findings)}", *lines])


def draw_samples(checks: Sequence[SplitCheck]) -> Image.Image | None:
    """Some sound examples of each split under their masks; None if there are none."""
    images, labels, titles = [], [], []
    for check in checks:
        source = check.source
        for facts in _samples(check.sound):
            example = source[facts.position]
            size = fit_size(facts.header.size, (SAMPLE_CELL, SAMPLE_CELL))
            images.append(whole(image_of(example, facts.name), size, size, GREY, smooth=True))
            labels.append(whole(example["label"], size, size, source.ignore_label, smooth=False))
            titles.append(f"{check.split}: {example['id']}")
    if not images:
        return None
    colors, names, ignored = source.colors, source.class_names, source.ignore_label
    return gallery(images, labels, titles, colors, names, ignored, cell=SAMPLE_CELL)


def _samples(sound: Sequence[Facts]) -> list[Facts]:
    """Some of the examples, evenly spread; two of those that EXIF turns, where there are any."""
    turned = [i for i, facts in enumerate(sound) if facts.header.orientation != 1][:2]
    spread = np.linspace(0, len(sound), SAMPLES - len(turned), endpoint=False).astype(int)
    return [sound[i] for i in sorted({*turned, *spread.tolist()})] if sound else []
