"""What the values of all masks together say: which setting helps, where they decide it at all."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from deeplab_jax.data.colors import Color

VOID = 255  # what most data sets mark ignored pixels with
MANY = 8  # values that are no ids: more than a forgotten class or two
SOFT = 0.8  # share of the pixels that lies on a few values, where the others are soft edges

Pixels = Mapping[int, int]  # of all masks, by value


class Verdict(NamedTuple):
    """What is wrong with the values, "" if nothing is, and the arguments that resolve it, if any.

    `remedy` is given only where no other reading of the masks is likely: a wrong one would train
    without a word, under wrong names.
    """

    reason: str = ""
    remedy: str = ""


def judge_values(pixels: Pixels, class_names: Sequence[str], ignore_label: int) -> Verdict:
    """Say what values that are neither classes nor `ignore_label` seem to be.

    Two classes drawn in 0/255 are the business of `sources.drawn_in_255`.
    """
    n, values = len(class_names), sorted(pixels)
    wrong = [v for v in values if v >= n and v != ignore_label]
    if not wrong:
        return Verdict()
    classes = [v for v in values if v < n and v != ignore_label]
    ids = [v for v in values if v not in (VOID, ignore_label)]
    if ids and ids[-1] == n and (0 not in values or ignore_label == 0):
        return Verdict(_starts_at_one(values, n, ignore_label))
    if wrong == [VOID] and ignore_label in values:
        return Verdict(
            f"the masks hold {VOID}, which usually marks pixels to ignore, and {ignore_label} "
            "(ignore_label); only one value is ignored: save one of them as the other"
        )
    if wrong == [VOID] and len(classes) > 1 and 0 in classes:
        flag = f"--task.ignore_label={VOID}"
        reason = f"the masks hold {VOID}, which marks pixels to ignore, and never {ignore_label}"
        return Verdict(f"{reason}: set {flag}", flag)
    if wrong == [n]:
        return Verdict(_one_too_many(values, n, ignore_label))
    return Verdict(_levels(pixels, n) or _unknown(wrong, n))


def warn_of_values(pixels: Pixels, class_names: Sequence[str], ignore_label: int) -> str:
    """What to say of masks whose values are all valid and yet seem to start at 1; else ""."""
    n = len(class_names)
    classes = [v for v in pixels if v != ignore_label]
    if not classes or 0 in pixels or ignore_label == 0 or max(classes) >= n:
        return ""
    last = f", and {n} is ignored" if ignore_label == n and n in pixels else ""
    return (
        f"no mask holds class 0 ({class_names[0]!r}){last}. If your ids start at 1, every class "
        f"has the name of the next. {_name_zero(n, pixels, ignore_label)}"
    )


def judge_palettes(
    palettes: Iterable[Mapping[int, Color]], class_names: Sequence[str], colors: Sequence[Color]
) -> str:
    """Why the indices of palette masks are no class ids by their colours; "" if they can be.

    A program that reduces colours numbers them anew in each file.
    """
    seen: dict[int, set[Color]] = defaultdict(set)
    for palette in palettes:
        for index, color in palette.items():
            seen[index].add(color)
    for index, found in sorted(seen.items()):
        if len(found) > 1:
            some = " and ".join(map(_hexadecimal, sorted(found)[:2]))
            return (
                f"the same index, {index}, stands for {some} in different masks: the indices are "
                "no class ids. Map the colours to ids: image.convert('RGB') shows them"
            )
        color = next(iter(found))
        if index < len(colors) and color != colors[index] and color in colors:
            other = colors.index(color)
            return (
                f"index {index} has the colour {_hexadecimal(color)}, which is that of class "
                f"{other} ({class_names[other]!r}): are the indices class ids? If they are, set "
                "--data.palette_masks=True, and give the classes these colours in classes.txt"
            )
    return ""


def _hexadecimal(color: Color) -> str:
    return f"#{bytes(color).hex()}"


def _starts_at_one(values: Sequence[int], n: int, ignore_label: int) -> str:
    zero = "0 is ignored" if 0 in values else "no mask holds 0"
    return (
        f"{zero}, and the highest class id is {n}: the ids seem to start at 1, but the first of "
        f"the {n} classes has id 0. {_name_zero(n, values, ignore_label)}"
    )


def _name_zero(n: int, values: Iterable[int], ignore_label: int) -> str:
    ignored = max((v for v in values if v > n and v in (VOID, ignore_label)), default=0)
    return (
        "Put a name for id 0, such as void, first in classes.txt, and set "
        f"--model.num_classes={n + 1} --task.ignore_label={ignored}"
    )


def _one_too_many(values: Sequence[int], n: int, ignore_label: int) -> str:
    readings = [
        f"{n} marks pixels to ignore: set --task.ignore_label={n}",
        f"the list lacks a class: add its name in its place in classes.txt, and set "
        f"--model.num_classes={n + 1}",
        "0 marks pixels to ignore, and the ids start at 1: put a name for id 0, such as void, "
        f"first in classes.txt, and set --model.num_classes={n + 1} --task.ignore_label=0",
    ]
    if ignore_label in values:
        same = f"{n} marks pixels to ignore, too: save it as {ignore_label}"
        readings = [same, readings[1]]
    return "\n  - ".join(
        [
            f"the masks hold {n}, but there are {n} classes, 0 to {n - 1}. They do not tell which "
            "it is; the description of the data set may:",
            *readings,
        ]
    )


def _levels(pixels: Pixels, n: int) -> str:
    """Of masks drawn in gray levels, one a class, with sharp or soft edges; "" of others."""
    values = sorted(pixels)
    common = sorted(sorted(values, key=lambda v: -pixels[v])[:n])
    between = (common[0], common[-1]) == (values[0], values[-1])
    if len(common) < n or min(np.diff(common)) < 2 or not between:
        return ""
    levels = f"{', '.join(map(str, common[:-1]))} and {common[-1]}"
    middles = [(a + b) // 2 for a, b in pairwise(common)]
    ids = f"numpy.digitize(mask, {middles}, right=True).astype('uint8')"
    if len(values) == n:
        return (
            f"the masks hold {levels}: perhaps a gray level for each of the {n} classes. If so, "
            f"save them as ids: {ids}"
        )
    share = sum(pixels[v] for v in common) / sum(pixels.values())
    if share < SOFT or len(values) < n + MANY:
        return ""
    return (
        f"{100 * share:.0f} % of the masks' pixels are {levels}, the others lie between: masks "
        "with soft edges (anti-aliased, scaled with interpolation, or once saved as JPEG). Save "
        f"them as ids: {ids}"
    )


def _unknown(wrong: Sequence[int], n: int) -> str:
    if len(wrong) >= MANY:
        return (
            f"the masks hold {len(wrong)} values that are no ids of the {n} classes: gray levels "
            "or colours, or numbers of single objects. A mask holds the id of each pixel's class"
        )
    some = ", ".join(map(str, wrong))
    return (
        f"the masks hold {some}, beyond the ids 0 to {n - 1} of the {n} classes. Is the list of "
        "classes complete (line 1 of classes.txt is id 0)?"
    )
