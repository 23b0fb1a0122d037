"""Every image and mask of a data set, read once: what is in it, what is wrong, what would help.

A *problem* is a record that training cannot read, or all of a kind; a *warning* is worth knowing.
"""

import hashlib
import re
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from PIL import Image

from deeplab_jax.config import PAPER_CROP, Config, DataConfig, TaskConfig, round_up
from deeplab_jax.data.decode import (
    TURNING,
    Header,
    Held,
    MaskError,
    count_values,
    describe_range,
    examine_image,
    likely_white,
)
from deeplab_jax.data.masks import Verdict, judge_palettes, judge_values, warn_of_values
from deeplab_jax.data.pipeline import crop_size, open_split, read
from deeplab_jax.data.sources import (
    UNREADABLE,
    Source,
    drawn_in_255,
    evenly_spread,
    image_of,
)
from deeplab_jax.data.transforms import GREY, fit_size, whole
from deeplab_jax.files import writable_folder
from deeplab_jax.progress import Ticker
from deeplab_jax.reporting.figures import gallery

FILES_SHOWN = 3  # of each kind of finding
SAMPLES = 8  # of each split
SAMPLE_CELL = 320  # pixels


class Finding(NamedTuple):
    """A problem or a warning: its split, the file or record, and the reason.

    `remedy`: arguments of the command line that resolve it, where the evidence decides; else "".
    """

    split: str
    where: str
    reason: str
    remedy: str = ""


class Refused(NamedTuple):
    """A record that training cannot read; what its mask holds, if that alone is the reason."""

    finding: Finding
    mask: Held | None


class Facts(NamedTuple):
    """What is known of one sound example; `pixels` by class id, without the `ignored` ones."""

    position: int
    name: str
    digest: bytes
    header: Header
    pixels: dict[int, int]
    ignored: int


@dataclass(frozen=True)
class SplitCheck:
    """What one reading of a split has found: facts of the sound examples, and the refused.

    `pixels` and `images`, i64[classes], count a class's pixels and the images that show it;
    `ignored` counts the ignored pixels.
    """

    split: str
    count: int
    sound: tuple[Facts, ...]
    refused: tuple[Refused, ...]
    pixels: np.ndarray
    images: np.ndarray
    ignored: int


def check_data(config: Config, out: Path) -> tuple[str, bool]:
    """Check the data of a configuration: the report, and whether there is no problem.

    Writes OUT/problems.txt, every finding, and for segmentation OUT/samples.png.

    Raises:
      UserError: a split cannot be opened at all.
    """
    writable_folder(out, "--out")
    data = config.data
    splits = dict.fromkeys((data.train_split, data.eval_split))
    sources = {split: open_split(config, split) for split in splits}
    checks = {split: check_split(sources[split], split, config.machine.workers) for split in splits}
    found, class_names = list(checks.values()), sources[data.train_split].class_names
    problems = find_problems(found, sources, config)
    warnings = find_warnings(found, sources, config)
    listed = [list_findings(problems, "problems"), list_findings(warnings, "warnings")]
    (out / "problems.txt").write_text(
        "\n\n".join(listed) + "\n", encoding="utf-8", errors="backslashreplace"
    )
    samples = None if data.one_label else draw_samples(sources, found, config.task.white)
    if samples:
        samples.save(out / "samples.png")
    text = [
        *map(describe_split, found),
        class_table(found, class_names),
        describe_findings(warnings, "warnings"),
        describe_findings(problems, "problems"),
        describe_advice(suggest(checks, [*problems, *warnings], config)),
        f"all findings: {out / 'problems.txt'}",
    ]
    if samples:
        text[-1] += f"; images under their masks: {out / 'samples.png'}"
    return "\n\n".join(text), not problems


# ---- reading


def check_split(source: Source, split: str, workers: int = 0) -> SplitCheck:
    """Read every example of a split as training does; `workers` is that of `DataConfig`."""
    examine = partial(_examine, source=source, split=split)
    examples = grain.MapDataset.source(range(len(source))).map(examine)
    found: list[Facts | Refused] = []
    items: Iterator[Any] = read(examples, workers)
    with Ticker(f"reading {split}", len(source), unit="image") as ticker:
        for item in items:
            found.append(item)
            ticker.tick(len(found))
    return _sum_up(source, split, found)


def _sum_up(source: Source, split: str, found: Sequence[Facts | Refused]) -> SplitCheck:
    sound = tuple(item for item in found if isinstance(item, Facts))
    refused = tuple(item for item in found if isinstance(item, Refused))
    pixels, images = np.zeros((2, len(source.class_names)), np.int64)
    for facts in sound:
        for class_id, count in facts.pixels.items():
            pixels[class_id] += count
            images[class_id] += 1
    ignored = sum(facts.ignored for facts in sound)
    return SplitCheck(split, len(found), sound, refused, pixels, images, ignored)


def _examine(index: int, source: Source, split: str) -> Facts | Refused:
    try:
        example, name = source[index], source.name(index)
        image, label = example["image"], example["label"]
        header = examine_image(image, name)
        if example.get("upright") and header.orientation in TURNING:
            header = header._replace(size=header.size[::-1])
    except UNREADABLE as error:
        where, _, reason = str(error).partition(": ")
        if not reason:
            where, reason = f"record {index}", where
        finding = Finding(split, where, reason)
        return Refused(finding, error.held if isinstance(error, MaskError) else None)
    content = image if isinstance(image, bytes) else image.tobytes()
    pixels = count_values(label)
    ignored = pixels.pop(source.ignore_label, 0)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Facts(index, name, digest, header, pixels, ignored)


# ---- what is wrong


def find_problems(
    checks: Sequence[SplitCheck], sources: Mapping[str, Source], config: Config
) -> list[Finding]:
    """Every problem of the splits, and what all masks say together, as settings are for all."""
    problems = [refused.finding for check in checks for refused in check.refused]
    if config.data.source == "folder":  # others' masks are what they are
        problems += _judge_masks(checks, sources[config.data.train_split])
    return problems


def _judge_masks(checks: Sequence[SplitCheck], source: Source) -> list[Finding]:
    """What the values of all masks say, and whether the indices of palette masks are class ids."""
    names, ignored = source.class_names, source.ignore_label
    problems = [
        Finding(check.split, "all masks", binary)
        for check in checks
        if (binary := drawn_in_255(set(_values([check], ignored)), names))
    ]
    problems += [
        Finding(check.split, "all masks", f"every pixel is {ignored}, which is ignored")
        for check in checks
        if set(_values([check], ignored)) == {ignored}
    ]
    values = _values(checks, ignored)
    verdict = Verdict() if problems else judge_values(values, names, ignored)
    refused = [r.mask for check in checks for r in check.refused if r.mask is not None]
    palettes = [mask.colors for mask in refused if mask.colors is not None]
    doubt = judge_palettes(palettes, names, source.colors)
    if palettes and not doubt:
        doubt = warn_of_values(values, names, ignored)
    # Gray masks with several channels stay refused, whatever is set.
    unresolved = bool(problems or doubt) or any(mask.gray for mask in refused)
    decided = not unresolved and (verdict.remedy != "" or verdict.reason == "")
    every = _name_all(checks)
    if verdict.reason:
        remedy = verdict.remedy if decided else ""
        problems.append(Finding(every, "all masks", verdict.reason, remedy))
    if doubt:
        problems.append(Finding(every, "all palette masks", doubt))
    elif palettes and decided:
        flag = "--data.palette_masks=True"
        reason = "their indices are valid class ids, with the same colours in every mask"
        problems.append(Finding(every, "all palette masks", f"{reason}: set {flag}", flag))
    return problems


def _values(checks: Sequence[SplitCheck], ignore_label: int) -> Counter[int]:
    """Pixels by the value that the masks hold, of the refused too."""
    values: Counter[int] = Counter()
    for check in checks:
        values.update({int(k): int(check.pixels[k]) for k in np.flatnonzero(check.pixels)})
        values.update({ignore_label: check.ignored} if check.ignored else {})
        for refused in check.refused:
            values.update(refused.mask.pixels if refused.mask else {})
    return values


def find_warnings(
    checks: Sequence[SplitCheck], sources: Mapping[str, Source], config: Config
) -> list[Finding]:
    """What training would pass over: as `warn_of_reading`, doubled images and absent classes."""
    train = config.data.train_split
    pixels = next(check.pixels for check in checks if check.split == train)
    names = zip(sources[train].class_names, pixels, strict=True)
    absent = [name for name, n in names if n == 0 and pixels.any()]
    reason = f"these classes never occur in {train}"
    return [
        *warn_of_reading(checks, sources[train], config),
        *(Finding(train, name, reason) for name in absent),
        *_find_doubles(checks),
    ]


def warn_of_reading(checks: Sequence[SplitCheck], source: Source, config: Config) -> list[Finding]:
    """What is read in another way than it may be meant; `source` is that of any split."""
    warnings = [
        Finding(check.split, facts.name, reason)
        for check in checks
        for facts in check.sound
        for reason in _warn(facts, config.data)
    ]
    every, ignored = _name_all(checks), source.ignore_label
    if config.data.source == "folder" and (
        reason := warn_of_values(_values(checks, ignored), source.class_names, ignored)
    ):
        warnings.append(Finding(every, "all masks", reason))
    headers = [facts.header for check in checks for facts in check.sound]
    return warnings + _warn_of_range(headers, every, config.task.white)


def warn_of_samples(sources: Mapping[str, Source], config: Config) -> None:
    """Print what check-data would warn of, from the samples that `check_source` reads.

    Each kind once, with a count and one file. What cannot be read is not the matter here.
    """
    checks = []
    for split, source in sources.items():
        samples = [_examine(i, source, split) for i in evenly_spread(len(source))]
        checks.append(_sum_up(source, split, samples))
    kinds = _by_kind(warn_of_reading(checks, sources[config.data.train_split], config))
    count = sum(check.count for check in checks)
    for alike in kinds:
        _, where, reason, _ = alike[0]
        print(f"warning: {where}: {reason} ({len(alike)} of {count} samples)", file=sys.stderr)
    if kinds:
        print(
            "These are samples; python -m deeplab_jax check-data, with the same arguments, reads "
            "them all",
            file=sys.stderr,
        )


def _name_all(checks: Sequence[SplitCheck]) -> str:
    return " and ".join(check.split for check in checks)


def _warn(facts: Facts, data: DataConfig) -> list[str]:
    header, reasons = facts.header, []
    if header.frames > 1:
        reasons.append(f"the file holds {header.frames} frames, of which the first is used")
    if _is_undecided(header) and not data.exif_upright:
        setting = "; if not, set --data.exif_upright=True" if data.source == "folder" else ""
        reasons.append(
            f"EXIF orientation {header.orientation}: training and evaluation read the pixels as "
            "stored, and nothing proves that the mask is drawn on these; predict turns them. Look "
            f"at samples.png of check-data: do image and mask agree?{setting}"
        )
    if not facts.pixels:
        reasons.append("every pixel of the mask is ignored: nothing is learnt from it")
    return reasons


def _is_undecided(header: Header) -> bool:
    """Whether the sizes of image and mask are equal both as stored and as EXIF turns the image."""
    height, width = header.size
    return header.orientation in (2, 3, 4) or (header.orientation > 4 and height == width)


def _warn_of_range(headers: Sequence[Header], split: str, white: int | None) -> list[Finding]:
    """Of images above 8 bits, which all use little of their range, or more than is set."""
    deep = [header for header in headers if header.peak is not None]
    peak = max((header.peak for header in deep if header.peak is not None), default=65535)
    # 16-bit colour cannot be scaled, nor 8 bits be told from more in 32, where white is set.
    fixed = next((h for h in deep if not h.mode.startswith("I")), None)
    narrow = any(h.peak is None and (h.format, h.mode) == ("TIFF", "I") for h in headers)
    where = f"all {len(deep)} images of more than 8 bits"
    if deep and white is not None and peak > white:
        reason = f"values go up to {peak}: all above task.white = {white} are white"
        return [Finding(split, where, reason)]
    reason = describe_range(peak, fixed.mode if fixed else "I", white)
    remedy = "" if fixed or narrow else f"--task.white={likely_white(peak)}"
    return [Finding(split, where, reason, remedy)] if deep and reason else []


def _find_doubles(checks: Sequence[SplitCheck]) -> list[Finding]:
    places = defaultdict(list)
    for check in checks:
        for facts in check.sound:
            places[facts.digest].append((check.split, facts.name))
    doubles = []
    for same in places.values():
        if len(same) > 1:
            splits = list(dict.fromkeys(split for split, _ in same))
            where = " = ".join(f"{name} ({split})" for split, name in same)
            reason = (
                f"the same image, byte for byte, in {' and '.join(splits)}: scores will flatter"
                if len(splits) > 1
                else f"the same image, byte for byte, more than once in {splits[0]}"
            )
            doubles.append(Finding(same[0][0], where, reason))
    return doubles


# ---- what would help


def class_weights(pixels: np.ndarray) -> np.ndarray:
    """Weights f64[classes] from pixels i64[classes]: 1/sqrt(share), of mean 1 over the pixels.

    As in configs/camvid.py. A class that never occurs has weight 1.
    """
    roots = np.sqrt(pixels / pixels.sum())
    return np.divide(1 / roots.sum(), roots, out=np.ones_like(roots), where=roots > 0)


def suggest(
    checks: Mapping[str, SplitCheck], findings: Sequence[Finding], config: Config
) -> list[tuple[str, str]]:
    """Arguments of the command line, each with its reason: remedies, then what suits the data."""
    data, stride = config.data, config.model.output_stride
    remedies = {f.remedy: f"{f.where}: {f.reason}" for f in findings if f.remedy}
    advice = list(remedies.items())
    train, evaluation = checks[data.train_split], checks[data.eval_split]
    if data.one_label or not train.sound:
        return advice
    crop, now = crop_size(sizes_of(train), stride), data.crop_size
    if now is not None and crop != tuple(round_up(n, stride) for n in now):
        advice.append(
            (
                f"--data.crop_size {crop[0]} {crop[1]}",
                f"the median image of {train.split} as k * {stride} + 1, at most {max(PAPER_CROP)}; "
                f"now {now[0]} {now[1]}; smaller crops cost less",
            )
        )
    advice += _suggest_eval_size(sizes_of(evaluation), config.task, stride)
    if train.pixels.any() and not remedies:  # which may change what is counted
        weights = " ".join(f"{w:.3g}" for w in class_weights(train.pixels))
        reason = (
            f"for rare classes in short runs: 1/sqrt(share of {train.split}'s labelled pixels), "
            "of mean 1 over the pixels, as in configs/camvid.py"
        )
        advice.append((f"--train.class_weights {weights}", reason))
    return advice


def _suggest_eval_size(sizes: np.ndarray, task: TaskConfig, stride: int) -> list[tuple[str, str]]:
    if task.eval_size is not None or len(np.unique(sizes, axis=0)) < 2:
        return []
    largest, median = sizes.max(axis=0), np.median(sizes, axis=0)
    if largest.prod() > 4 * median.prod():
        h, w = (round_up(max(17, int(n)), stride) for n in median)
        reason = "the largest image has over 4 times the median's pixels, and all are padded to it"
        return [(f"--task.resize=fit --task.eval_size {h} {w}", reason)]
    h, w = (round_up(max(17, int(n)), stride) for n in largest)
    return [(f"--task.eval_size {h} {w}", "the largest image, which all are padded to: as now")]


# ---- as text and as an image


def sizes_of(check: SplitCheck) -> np.ndarray:
    """Heights and widths i64[n 2] of the sound images."""
    return np.array([facts.header.size for facts in check.sound], np.int64).reshape(-1, 2)


def describe_split(check: SplitCheck) -> str:
    """Number, sizes and kinds of a split's images, and the share of ignored pixels."""
    title = f"{check.split}: {check.count} images, {len(check.sound)} of them sound"
    if not check.sound:
        return title
    sizes = sizes_of(check)
    named = zip(
        ("smallest", "median", "largest"),
        (sizes.min(axis=0), np.median(sizes, axis=0), sizes.max(axis=0)),
        strict=True,
    )
    spread = ", ".join(f"{name} {int(h)} x {int(w)}" for name, (h, w) in named)
    same = len(np.unique(sizes, axis=0)) == 1
    headers = [facts.header for facts in check.sound]
    stored = Counter(f"{header.format} {header.mode}" for header in headers)
    turned = sum(header.orientation != 1 for header in headers)
    total = check.ignored + check.pixels.sum()
    rows = (
        ("height x width", f"all {sizes[0][0]} x {sizes[0][1]}" if same else f"{spread}, by side"),
        ("stored as", ", ".join(f"{kind} ({n})" for kind, n in stored.most_common())),
        ("EXIF says", f"turned ({turned})" if turned else "all are upright"),
        ("ignored", f"{100 * check.ignored / total:.2f} % of the pixels"),
    )
    return "\n".join([title, *(f"  {name:<14}  {value}" for name, value in rows)])


def class_table(checks: Sequence[SplitCheck], class_names: Sequence[str]) -> str:
    """A line per class: its share of each split's labelled pixels, and images that show it."""
    width = max(len(name) for name in [*class_names, "class"])
    heads = [(f"{check.split} %", "in images") for check in checks]
    lines = [f"{'class':<{width}}" + "".join(f"  {a:>12}  {b:>11}" for a, b in heads)]
    for k, name in enumerate(class_names):
        cells = ((100 * c.pixels[k] / max(1, c.pixels.sum()), c.images[k]) for c in checks)
        lines.append(f"{name:<{width}}" + "".join(f"  {a:>12.3f}  {b:>11}" for a, b in cells))
    return "\n".join(lines)


def describe_findings(findings: Sequence[Finding], title: str) -> str:
    """Findings by kind, the most frequent first: how many, the first reason, the first files."""
    blocks = [f"{title}: {len(findings) or 'none'}"]
    for alike in _by_kind(findings):
        text = textwrap.indent(alike[0].reason, " " * 8).strip()
        example = "such as: " if len({finding.reason for finding in alike}) > 1 else ""
        rows = [f"  {len(alike):>4}  {example}{text}"]
        rows += [f"        - {finding.where}" for finding in alike[:FILES_SHOWN]]
        if len(alike) > FILES_SHOWN:
            rows.append(f"        - and {len(alike) - FILES_SHOWN} more, see problems.txt")
        blocks.append("\n".join(rows))
    return "\n".join(blocks)


def _by_kind(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings grouped by reasons that are alike but for numbers; the largest group first."""
    kinds = defaultdict(list)
    for finding in findings:
        kinds[re.sub(r"\d+(?:, \d+)*(?: and \d+ more)?", "#", finding.reason)].append(finding)
    return sorted(kinds.values(), key=len, reverse=True)


def describe_advice(advice: Sequence[tuple[str, str]]) -> str:
    """Arguments to copy, each below its reason."""
    lines = (f"  # {reason}\n  {argument}" for argument, reason in advice)
    return "\n".join(["suggestions", *lines]) if advice else "suggestions: none"


def list_findings(findings: Sequence[Finding], title: str) -> str:
    """Every finding on a line (or more, where its advice has several)."""
    lines = (f"{finding.split}  {finding.where}: {finding.reason}" for finding in findings)
    return "\n".join([f"{title}: {len(findings)}", *lines])


def draw_samples(
    sources: Mapping[str, Source], checks: Sequence[SplitCheck], white: int | None
) -> Image.Image | None:
    """Some sound examples of each split under their masks; None if there are none."""
    images, labels, titles = [], [], []
    for check in checks:
        source = sources[check.split]
        for facts in _samples(check.sound):
            example = source[facts.position]
            scaled = fit_size(facts.header.size, (SAMPLE_CELL, SAMPLE_CELL))
            image = image_of(example, facts.name)
            images.append(whole(image, scaled, scaled, GREY, smooth=True))
            ignored = source.ignore_label
            labels.append(whole(example["label"], scaled, scaled, ignored, smooth=False))
            titles.append(f"{check.split}: {example['id']}")
    if not images:
        return None
    return gallery(
        images,
        labels,
        titles,
        source.colors,
        source.class_names,
        source.ignore_label,
        cell=SAMPLE_CELL,
    )


def _samples(sound: Sequence[Facts]) -> list[Facts]:
    """Some of the examples, evenly spread; two of those that EXIF turns, where there are any."""
    turned = [i for i, facts in enumerate(sound) if facts.header.orientation != 1][:2]
    spread = np.linspace(0, len(sound), SAMPLES - len(turned), endpoint=False).astype(int)
    return [sound[i] for i in sorted({*turned, *spread.tolist()})] if sound else []
