"""What masks hold, counted."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from deeplab_jax.data.masks import Mask, is_gray


class Tally(NamedTuple):
    """How often masks hold what, in pixels: `values`, gray or indices; `colors`, packed.

    `colored`: there are colours beside grays; `mixed`: in some masks, and small values in others.
    `nodata`: pairs of a value that files mark as no data, not counted in the others, and a count.
    """

    values: Counter[int]
    colors: Counter[int]
    colored: bool = False
    palettes: frozenset[tuple[int, int]] = frozenset()
    lossy: bool = False
    mixed: bool = False
    nodata: tuple[tuple[int, int], ...] = ()

    def share(self, some: Iterable[int], *, of_colors: bool) -> float:
        """The share of the pixels that has some of the values, or colours."""
        counts = self.colors if of_colors else self.values
        return sum(counts[value] for value in some) / max(1, counts.total())


def tally(mask: Mask) -> Tally:
    """Count what a mask holds; run by run, because neighbours are mostly equal."""
    flat = mask.values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    found, which = np.unique(flat[starts], return_inverse=True)
    pixels = np.bincount(which, np.diff(np.append(starts, flat.size))).astype(int)
    counts = Counter(dict(zip(found.tolist(), pixels.tolist(), strict=True)))
    nodata = Counter({v: n for v, n in counts.items() if v == mask.nodata})
    counts -= nodata
    if mask.kind == "color":
        gray = bool(is_gray(found).all())
        values = Counter({value & 255: n for value, n in counts.items()} if gray else {})
        return Tally(values, counts, not gray, lossy=mask.lossy)
    if mask.kind == "palette":
        pairs = frozenset((i, mask.palette[i]) for i in counts if i < len(mask.palette))
        colors = Counter[int]()
        for i, color in pairs:
            colors[color] += counts[i]
        return Tally(counts, colors, palettes=pairs)
    colors = Counter({v * 0x010101: n for v, n in counts.items() if v <= 255})
    return Tally(counts, colors, lossy=mask.lossy, nodata=(*nodata.items(),))


def add_up(tallies: Iterable[Tally]) -> Tally:
    """The tally of several masks."""
    values, colors, nodata = Counter[int](), Counter[int](), Counter[int]()
    palettes: set[tuple[int, int]] = set()
    colored = lossy = ids = False
    for one in tallies:
        values.update(one.values)
        colors.update(one.colors)
        nodata.update(dict(one.nodata))
        palettes |= one.palettes
        colored, lossy = colored or one.colored, lossy or one.lossy
        ids |= not one.palettes and one.values.keys() - {0, 255} != set()
    mixed = colored and ids
    return Tally(values, colors, colored, frozenset(palettes), lossy, mixed, (*nodata.items(),))
