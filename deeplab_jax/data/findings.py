"""Every image and mask of a split read once, and judged.

A *problem* is a record that training cannot read, or all of a kind; a *warning* is worth knowing,
such as what is read in another way than it may be meant.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import grain
import numpy as np

from deeplab_jax.config import Config, DataConfig, Size
from deeplab_jax.data.decode import Header
from deeplab_jax.data.masks import list_some
from deeplab_jax.data.pixels import Range, describe_range, likely_white
from deeplab_jax.data.source import UNREADABLE, Facts, Source, examine
from deeplab_jax.data.workers import read
from deeplab_jax.progress import Ticker

FRAME = re.compile(r"(?:.*[\\/])?([^\\/]*?[A-Za-z][^\\/]*?[_-])f?\d{2,}(?:\.\w+)?")
FRAMES = 3  # of a sequence in each split


class Finding(NamedTuple):
    """A problem or a warning: its split, the file or record, and the reason.

    `remedy`: arguments of the command line that resolve it, where the evidence decides; else "".
    """

    split: str
    where: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class SplitCheck:
    """What one reading of a split has found: facts of the sound examples, and the refused.

    `pixels` and `images`, i64[classes], count a class's pixels and the images that show it;
    `ignored` counts the ignored pixels.
    """

    split: str
    source: Source
    sound: list[Facts]
    refused: list[Finding]
    pixels: np.ndarray
    images: np.ndarray
    ignored: int

    @property
    def sizes(self) -> list[Size]:
        """Heights and widths of the sound images, as they are read."""
        return [facts.header.size for facts in self.sound]


# ---- reading


def check_split(source: Source, split: str, workers: int = 0) -> SplitCheck:
    """Read every example of a split as training does, by so many worker processes."""
    examples = grain.MapDataset.range(len(source)).map(partial(_read, source=source, split=split))
    found: list[Facts | Finding] = []
    with Ticker(f"reading {split}", len(source), unit="image") as ticker:
        for item in read(examples, workers):
            found.append(item)
            ticker.tick(len(found))
    return sum_up(source, split, found)


def _read(index: int, source: Source, split: str) -> Facts | Finding:
    try:
        return examine(source, index)
    except UNREADABLE as error:
        where, _, reason = str(error).partition(": ")
        if not reason:
            where, reason = f"record {index}", where
        return Finding(split, where, reason)


def sum_up(source: Source, split: str, found: Sequence[Facts | Finding]) -> SplitCheck:
    """Count what is in examples of a split that have been read."""
    sound = [item for item in found if isinstance(item, Facts)]
    refused = [item for item in found if isinstance(item, Finding)]
    pixels, images = np.zeros((2, len(source.class_names)), np.int64)
    for facts in sound:
        for class_id, count in facts.pixels.items():
            pixels[class_id] += count
            images[class_id] += 1
    ignored = sum(facts.ignored for facts in sound)
    return SplitCheck(split, source, sound, refused, pixels, images, ignored)


# ---- what is wrong


def find_problems(checks: Sequence[SplitCheck]) -> list[Finding]:
    """Every record that cannot be read, and a split of which nothing can be learnt."""
    problems = [problem for check in checks for problem in check.refused]
    for check in checks:
        if check.sound and not check.pixels.any():
            problems.append(Finding(check.split, "all masks", "every pixel is ignored"))
    if doubt := checks[0].source.doubt:
        every = " and ".join(check.split for check in checks)
        problems.append(Finding(every, "some masks", doubt))
    return problems


# ---- what may be meant otherwise


def find_warnings(checks: Sequence[SplitCheck], config: Config) -> list[Finding]:
    """What training would pass over; the first split is that of training."""
    train = checks[0]
    absent = [
        Finding(train.split, name, f"these classes never occur in {train.split}")
        for name, n in zip(train.source.class_names, train.pixels, strict=True)
        if n == 0 and train.pixels.any()
    ]
    others = [*_find_doubles(checks), *_find_shared_sequences(checks), *_find_overlaps(checks)]
    return [*warn_of_reading(checks, config), *absent, *others]


def warn_of_reading(checks: Sequence[SplitCheck], config: Config) -> list[Finding]:
    """What is read in another way than it may be meant."""
    sound = [(check.split, facts) for check in checks for facts in check.sound]
    warnings = [
        Finding(split, facts.name, reason)
        for split, facts in sound
        for reason in _warn_of_example(facts, config.data)
    ]
    if config.task.range == checks[0].source.reading.range:  # else it was found in the images
        every, headers = " and ".join(c.split for c in checks), [f.header for _, f in sound]
        warnings += _warn_of_range(headers, every, config.task.range)
    return warnings


def _warn_of_example(facts: Facts, data: DataConfig) -> list[str]:
    header, reasons = facts.header, []
    if header.frames > 1:
        reasons.append(f"the file holds {header.frames} frames, of which the first is used")
    # Undecided: image and mask have one size, as stored and as EXIF turns the image.
    square = header.size[0] == header.size[1]
    undecided = header.orientation in (2, 3, 4) or (header.orientation > 4 and square)
    if undecided and not data.exif_upright:
        setting = "; if not, set --data.exif_upright=True" if data.source == "folder" else ""
        reasons.append(
            f"EXIF orientation {header.orientation}: training and evaluation read the pixels as "
            "stored, and nothing proves that the mask is drawn on these; predict turns them. Look "
            f"at samples.png of check-data: do image and mask agree?{setting}"
        )
    if not facts.pixels:
        reasons.append("every pixel of the mask is ignored: nothing is learnt from it")
    return reasons


def _warn_of_range(headers: Sequence[Header], split: str, range: Range | None) -> list[Finding]:
    """Of images above 8 bits, which all use little of their range, or more than is set."""
    deep = [(h.peak, h.mode) for h in headers if h.peak is not None]
    if not deep:
        return []
    peak, where = max(deep)[0], f"all {len(deep)} images of more than 8 bits"
    if range is not None and peak > range[1]:
        reason = f"values go up to {peak}: all above {range[1]:g} (task.range) are white"
        return [Finding(split, where, reason)]
    # 16-bit colour cannot be scaled, nor 8 bits be told from more in 32, where a range is set.
    colour = next((mode for _, mode in deep if not mode.startswith("I")), "")
    narrow = any(h.peak is None and (h.format, h.mode) == ("TIFF", "I") for h in headers)
    remedy = "" if colour or narrow else f"--task.range 0 {likely_white(peak)}"
    reason = describe_range(peak, colour or "I", range)
    return [Finding(split, where, reason, remedy)] if reason else []


def _find_doubles(checks: Iterable[SplitCheck]) -> list[Finding]:
    places = defaultdict(list)
    for check in checks:
        for facts in check.sound:
            places[facts.digest].append((check.split, facts.name))
    doubles = []
    for same in places.values():
        if len(same) == 1:
            continue
        splits = list(dict.fromkeys(split for split, _ in same))
        where = " = ".join(f"{name} ({split})" for split, name in same)
        often = f"more than once in {splits[0]}"
        if len(splits) > 1:
            often = f"in {' and '.join(splits)}: scores will flatter"
        doubles.append(Finding(splits[0], where, f"the same image, byte for byte, {often}"))
    return doubles


def _find_shared_sequences(checks: Sequence[SplitCheck]) -> list[Finding]:
    """Names that count up, as frames of one video do, on both sides of the split."""
    frames = [
        Counter(match[1] for facts in check.sound if (match := FRAME.fullmatch(facts.name)))
        for check in checks
    ]
    if len(frames) < 2:
        return []
    if len(frames[0] + frames[1]) < 2:  # as a camera numbers all that it takes
        return []
    shared = [name for name, n in frames[0].items() if min(n, frames[1].get(name, 0)) >= FRAMES]
    where = list_some(re.split(r"[\\/]", name)[-1].strip("_- ") for name in shared)
    reason = (
        f"images of {checks[0].split} and {checks[1].split} are numbered alike: if they are frames"
        " of one sequence, neighbours are on both sides, and scores will flatter"
    )
    return [Finding(checks[1].split, where, reason)] if shared else []


def _find_overlaps(checks: Iterable[SplitCheck]) -> list[Finding]:
    """Pixels that shapes of several classes claim."""
    found = []
    for check in checks:
        images = [facts for facts in check.sound if facts.several]
        if share := sum(facts.several for facts in images) / max(1, check.pixels.sum()):
            reason = (
                f"{share:.2%} of the pixels belong to shapes of several classes, in {len(images)}"
                " images: the shape on top counts; or none, with --data.overlap=ignore"
            )
            found.append(Finding(check.split, "all annotations", reason))
    return found


def group_findings(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings grouped by reasons that are alike but for numbers; the largest group first."""
    kinds = defaultdict(list)
    for finding in findings:
        kinds[re.sub(r"\d+(?:, \d+)*(?: and \d+ more)?", "#", finding.reason)].append(finding)
    return sorted(kinds.values(), key=len, reverse=True)
