"""What the masks of a data set mean: they are read, counted, and decided on together."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from deeplab_jax.config import DataConfig
from deeplab_jax.data.codes import Reading, decide, find_mixture
from deeplab_jax.data.decode import read_file
from deeplab_jax.data.layouts import ClassTable, Tile
from deeplab_jax.data.masks import list_some, read_mask
from deeplab_jax.data.tally import Tally, add_up, tally
from deeplab_jax.data.tiles import READERS, read_mask_tile
from deeplab_jax.errors import UserError

LOOKED_AT = 256  # masks, where a list of classes says what their values are
FEW = 4  # names shown

Mask = Path | Tile
T = TypeVar("T")


def find_meaning(
    masks: Sequence[Mask], table: ClassTable | None, data: DataConfig, num_classes: int | None
) -> tuple[Reading, str]:
    """How masks are read; and what is wrong with some of them, "" if nothing is.

    All are looked at where nothing lists the classes, else many.

    Raises:
      UserError: no reading fits, or several, for most of them.
    """
    every = table is None and not data.label_map
    chosen = tuple(masks) if every else spread(masks, LOOKED_AT)
    found = _tally_all(chosen)
    reading, doubt = _decide(found, table, data, num_classes)
    return reading._replace(told=(*reading.told, *_warn_of_one_value(found))), doubt


def _warn_of_one_value(found: Sequence[tuple[Mask, Tally]]) -> list[str]:
    if len({value for _, one in found for value in one.colors or one.values}) > 1:
        return []
    first = found[0][0]
    where = (first.file if isinstance(first, Tile) else first).parent
    return [
        f"warning: the masks in {where} are all of one value, of which nothing is learnt: if they"
        " are not those that you mean, set --data.mask_dir"
    ]


def _decide(
    found: Sequence[tuple[Mask, Tally]],
    table: ClassTable | None,
    data: DataConfig,
    num_classes: int | None,
) -> tuple[Reading, str]:
    """The reading of masks, or of most: then also what is wrong with the others.

    Raises:
      UserError: there is none; it names a mask.
    """

    def read(tallies: Iterable[Tally]) -> Reading:
        return decide(add_up(tallies), table, data, num_classes)

    try:
        reading = read(one for _, one in found)
        return reading, "" if data.label_map else find_mixture(found, reading)
    except UserError as error:
        odd = [path for path, one in found if not _fits(read, one)]
        usual = [one for path, one in found if path not in odd]
        such = f"\nSuch are {len(odd)} of {len(found)} masks: {list_some(odd, FEW)}"
        if not odd or len(odd) > len(usual):
            raise UserError(f"{error}{such if odd else ''}") from error
        return read(usual), f"{error}{such}"


def _fits(read: Callable[[Iterable[Tally]], Reading], one: Tally) -> bool:
    try:
        read([one])
    except UserError:
        return False
    return True


def spread(paths: Sequence[T], count: int) -> tuple[T, ...]:
    where = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))
    return tuple(paths[i] for i in where)


def _tally_all(masks: Sequence[Mask]) -> list[tuple[Mask, Tally]]:
    """The tallies of masks, without those that cannot be read; UserError where none can."""

    def count(path: Mask) -> Tally | UserError:
        try:
            if isinstance(path, Tile):
                return tally(read_mask_tile(path))
            return tally(read_mask(read_file(path), str(path)))
        except UserError as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(count, masks))
    sound = [(m, one) for m, one in zip(masks, found, strict=True) if isinstance(one, Tally)]
    if not sound:
        raise next(one for one in found if isinstance(one, UserError))
    return sound
