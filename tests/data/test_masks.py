"""What all masks hold: each situation is told by its own advice; flags only where it is decided."""

import re

import numpy as np
import pytest

from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.masks import Verdict, judge_palettes, judge_values, warn_of_values

NAMES = ("grass", "red", "blue")


def judge(values: list[int], ignore_label: int = 255, n: int = 3) -> Verdict:
    return judge_values(dict.fromkeys(values, 100), [f"c{i}" for i in range(n)], ignore_label)


# (values of all masks, ignore_label, number of classes, what is said)
UNDECIDED = [
    (
        [1, 2, 3],
        255,
        3,
        r"no mask holds class 0.* start at 1.*void.*s=4 .*ignore_label=0",
    ),
    ([1, 2, 3], 0, 3, r"no mask holds class 0.* start at 1.*num_classes=4 .*ignore_label=0"),
    ([0, 1, 2, 3], 0, 3, r"0 is ignored.* start at 1.*num_classes=4 .*ignore_label=0"),
    ([1, 3, 255], 255, 3, r"start at 1.*num_classes=4 .*ignore_label=255"),
    ([1, 3, 255], 254, 3, r"start at 1.*num_classes=4 .*ignore_label=255"),
    ([0, *range(12)], 255, 11, r"11 marks.*ignore_label=11\n.*lacks a class.*s=12\n.*0 marks"),
    (
        [0, 1, 2, 3, 255],
        255,
        3,
        r"3 marks.* too: save it as 255\n.*the list lacks a class: .*_classes=4$",
    ),
    ([0, 1, 255], 0, 2, r"hold 255, which usually.* and 0 \(ignore_label\); only one"),
    ([0, 255], 254, 3, r"hold 255, beyond the ids 0 to 2"),
    ([0, 127, 255], 255, 3, r"hold 0, 127 and 255: perhaps a gray level for each"),
    ([0, 65535], 255, 2, r"hold 0 and 65535: perhaps a gray level for each"),
    ([0, 1, 2, 7], 255, 3, r"hold 7, beyond the ids 0 to 2 of the 3 classes: is the list"),
    (
        list(range(200)),
        255,
        3,
        r"3, 4, .* 189 more.*gray levels or colours, or numbers of single",
    ),
]


@pytest.mark.parametrize("case", UNDECIDED, ids=lambda case: f"{case[0][:5]}-{case[1]}-{case[2]}")
def test_what_is_undecided_is_said_without_a_remedy(case: tuple[list[int], int, int, str]) -> None:
    values, ignore_label, n, said = case
    verdict = judge(values, ignore_label, n)
    assert re.search(said, verdict.reason, re.DOTALL) and not verdict.remedy


def test_what_is_decided_has_a_remedy() -> None:
    assert judge([0, 2, 255], 254).remedy == "--task.ignore_label=255"
    assert judge([0, 1, 2, 255]) == judge([0, 1, 2]) == judge([0, 3], 3) == Verdict()


@pytest.mark.parametrize("levels", [(0, 255), (0, 127, 255)])
def test_soft_edges_are_told_from_gray_levels(levels: tuple[int, ...]) -> None:
    """And the line of code in the advice turns the masks into ids."""
    n, rng = len(levels), np.random.default_rng(0)
    ids = rng.integers(0, n, 5000)
    mask = np.array(levels)[ids]
    mask[:500] = rng.integers(0, 256, 500)
    values, counts = np.unique_counts(mask)
    names = [str(i) for i in range(n)]
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    reason = judge_values(pixels, names, 255).reason
    code = re.search(r"soft edges.*save them as ids: (numpy\.digitize\(.*)$", reason)
    assert code
    made = eval(code[1], {"numpy": np, "mask": mask})
    np.testing.assert_array_equal(made[500:], ids[500:])
    assert made.dtype == np.uint8


def test_ids_that_may_start_at_one_are_warned_of() -> None:
    def warn(values: list[int], ignore_label: int = 255) -> str:
        return warn_of_values(dict.fromkeys(values, 1), NAMES, ignore_label)

    assert re.search(r"class 0 \('grass'\)\. If.*num_classes=4 .*ignore_label=0", warn([1, 2]))
    assert "('grass'), and 3 is ignored. If your ids start at 1" in warn([1, 2, 3], 3)
    assert warn([1, 2, 255]).endswith("--task.ignore_label=255")
    for values, ignore_label in (([0, 1], 255), ([255], 255), ([], 255), ([1, 2], 0), ([1, 3], 9)):
        assert warn(values, ignore_label) == ""


def test_palettes_decide_whether_indices_are_ids() -> None:
    colors = voc_colormap(3)
    assert judge_palettes([dict(enumerate(colors)), {2: colors[2]}], NAMES, colors) == ""
    assert judge_palettes([{0: (1, 1, 1), 1: (9, 9, 9)}], NAMES, colors) == ""
    renumbered = [{0: colors[0], 1: colors[1]}, {0: colors[0], 1: colors[2]}]
    assert "the same index, 1, stands for #008000 and #800000" in judge_palettes(
        renumbered, NAMES, colors
    )
    assert "index 1 has the colour #008000, which is that of class 2 ('blue')" in judge_palettes(
        renumbered[1:], NAMES, colors
    )
