"""What the values of all masks together say: which setting helps, where they decide it at all."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from deeplab_jax.config import Color

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


def list_some(values: Iterable[object], at_most: int = MANY) -> str:
    """The first of some values, and how many more there are."""
    shown = [str(value) for value in values]
    more = f" and {len(shown) - at_most} more" if len(shown) > at_most else ""
    return ", ".join(shown[:at_most]) + more


def drawn_in_255(values: set[int], class_names: Sequence[str]) -> str:
    """What to tell of two classes whose masks hold only `values` 0 and 255; "" of others.

    With 255 ignored, a mask drawn in 0/255 looks valid: all of class 1 is ignored.
    """
    if len(class_names) != 2 or values != {0, VOID}:
        return ""
    return (
        f"no mask holds class 1 ({class_names[1]!r}), only 0 and 255: they look like binary masks "
        "saved as 0/255; save them as 0/1 (mask // 255) and leave --task.ignore_label at 255"
    )


def judge_values(pixels: Pixels, class_names: Sequence[str], ignore_label: int) -> Verdict:
    """Say what values that are neither classes nor `ignore_label` seem to be."""
    n, values = len(class_names), sorted(pixels)
    wrong = [v for v in values if v >= n and v != ignore_label]
    ids = [v for v in values if v not in (VOID, ignore_label)]
    if not wrong:
        return Verdict()
    if ids and ids[-1] == n and (0 not in values or ignore_label == 0):
        return Verdict(_count_from_one(pixels, class_names, ignore_label))
    if wrong == [VOID] and ignore_label in values:
        both = f"{VOID}, which usually marks pixels to ignore, and {ignore_label} (ignore_label)"
        return Verdict(f"the masks hold {both}; only one value is ignored: save one as the other")
    if wrong == [VOID] and len(ids) > 1 and ids[0] == 0:
        flag = f"--task.ignore_label={VOID}"
        reason = f"the masks hold {VOID}, which marks pixels to ignore, and never {ignore_label}"
        return Verdict(f"{reason}: set {flag}", flag)
    if wrong == [n]:
        return Verdict(_one_too_many(n, ignore_label, ignore_label in values))
    many = "are they gray levels or colours, or numbers of single objects, instead of class ids?"
    few = "is the list of classes complete (line 1 of classes.txt is id 0)?"
    beyond = f"the masks hold {list_some(wrong)}, beyond the ids 0 to {n - 1} of the {n} classes"
    levels = _find_levels(pixels, n)
    return Verdict(levels or f"{beyond}: {many if len(wrong) >= MANY else few}")


def warn_of_values(pixels: Pixels, class_names: Sequence[str], ignore_label: int) -> str:
    """What to say of masks whose values are all valid and yet seem to start at 1; else ""."""
    classes = [v for v in pixels if v != ignore_label]
    if not classes or 0 in pixels or ignore_label == 0 or max(classes) >= len(class_names):
        return ""
    return _count_from_one(pixels, class_names, ignore_label)


def judge_palettes(
    palettes: Iterable[Mapping[int, Color]], class_names: Sequence[str], colors: Sequence[Color]
) -> str:
    """Why the indices of palette masks are no class ids by their colours; "" if they can be.

    A program that reduces colours numbers them anew in each file.
    """
    seen = sorted({pair for palette in palettes for pair in palette.items()})
    for (index, color), (following, other) in pairwise(seen):
        if index == following:
            both = f"#{bytes(color).hex()} and #{bytes(other).hex()} in different masks"
            return (
                f"the same index, {index}, stands for {both}: the indices are no class ids; map "
                "the colours to ids (image.convert('RGB') shows them)"
            )
    for index, color in seen:
        if index < len(colors) and color != colors[index] and color in colors:
            k = colors.index(color)
            return (
                f"index {index} has the colour #{bytes(color).hex()}, which is that of class {k} "
                f"({class_names[k]!r}): if the indices are class ids, set "
                "--data.palette_masks=True, and give the classes these colours in classes.txt"
            )
    return ""


def _count_from_one(values: Iterable[int], class_names: Sequence[str], ignore_label: int) -> str:
    """Of masks whose ids seem to start at 1."""
    n, values = len(class_names), set(values)
    zero = "0 is ignored" if 0 in values else f"no mask holds class 0 ({class_names[0]!r})"
    last = f", and {n} is ignored" if ignore_label == n and n in values else ""
    ignored = max((v for v in values if v > n and v in (VOID, ignore_label)), default=0)
    named = (
        f"If your ids start at 1, every class has the name of the next: {_name_zero(n, ignored)}"
    )
    return f"{zero}{last}. {named}"


def _name_zero(n: int, ignored: int) -> str:
    flags = f"--model.num_classes={n + 1} --task.ignore_label={ignored}"
    return f"put a name for id 0, such as void, first in classes.txt, and set {flags}"


def _one_too_many(n: int, ignore_label: int, ignored: bool) -> str:
    """Of masks that hold the value n beside the ids of n classes; `ignored`: another one is."""
    more = f"add its name in its place in classes.txt, and set --model.num_classes={n + 1}"
    void = f"{n} marks pixels to ignore, too: save it as {ignore_label}"
    lacking = f"the list lacks a class: {more}"
    readings = [void, lacking]
    if not ignored:
        void = f"{n} marks pixels to ignore: set --task.ignore_label={n}"
        from_one = f"0 marks pixels to ignore, and the ids start at 1: {_name_zero(n, 0)}"
        readings = [void, lacking, from_one]
    told = f"the masks hold {n}, but there are {n} classes, 0 to {n - 1}; they do not tell whether"
    return "\n  - ".join([told, *readings])


def _find_levels(pixels: Pixels, n: int) -> str:
    """Of masks drawn in gray levels, one a class, with sharp or soft edges; "" of others."""
    values = sorted(pixels)
    common = sorted(sorted(values, key=lambda v: -pixels[v])[:n])
    between = (common[0], common[-1]) == (values[0], values[-1])
    if len(common) < n or min(np.diff(common)) < 2 or not between:
        return ""
    share = sum(pixels[v] for v in common) / sum(pixels.values())
    if len(values) > n and (share < SOFT or len(values) < n + MANY):
        return ""
    levels = f"{', '.join(map(str, common[:-1]))} and {common[-1]}"
    soft = f" and, in {1 - share:.0%} of the pixels, soft edges between" if len(values) > n else ""
    middles = [(a + b) // 2 for a, b in pairwise(common)]
    return (
        f"the masks hold {levels}{soft}: perhaps a gray level for each of the {n} classes. If so, "
        f"save them as ids: numpy.digitize(mask, {middles}, right=True).astype('uint8')"
    )
