"""What the masks of a data set mean, decided from all of them (or many) and the list of classes.

Where one reading alone fits, it is taken, and told. Where two do, neither is: the error names both,
each with the flag that chooses it.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from deeplab_jax.config import Color, DataConfig
from deeplab_jax.config.experiment import LABEL_MAP
from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.colors import parse_color, voc_colormap
from deeplab_jax.data.datasets import camvid
from deeplab_jax.data.layouts import BACKGROUND_NAMES, VOID_NAMES, ClassTable
from deeplab_jax.data.masks import (
    Edges,
    MaskCode,
    hexadecimal,
    list_some,
    pack,
    unpack,
)
from deeplab_jax.data.tally import Tally
from deeplab_jax.errors import UserError

MOST_COLORS = 64  # that are classes where nothing lists them
SOFT = 0.25  # of all pixels: at most so many are soft edges
RARE = 0.01  # of all pixels: a value beyond that is no part of a soft edge
LABEL_FLAG = "--data.label_map"
VOC_BORDER = pack((224, 224, 192))
WHITE = pack((255, 255, 255))  # of gray masks, 255
BINARY = ("background", "foreground")


class Reading(NamedTuple):
    """The code of masks, the classes that it gives, and what to tell of it."""

    code: MaskCode
    names: tuple[str, ...]
    colors: tuple[Color, ...]
    told: tuple[str, ...] = ()


# ---- deciding


def decide(
    found: Tally,
    table: ClassTable | None,
    data: DataConfig,
    num_classes: int | None = None,
) -> Reading:
    """The one reading of masks that fits what they hold and the `table`, if there is one.

    Raises:
      UserError: none fits, or several; what the masks hold, and the flag for each reading.
    """
    if data.label_map:
        return _as_told(found, table, data)
    if data.zero == "class":  # whatever the files say of it
        found = found._replace(values=found.values + Counter(dict(found.nodata)), nodata=())
    if table is not None and table.by_color and (found.colored or _are_colors(found, table)):
        known = {pack(color): i for color, i in table.by_color}
        known.setdefault(VOC_BORDER if found.colored or found.palettes else WHITE, VOID)
        edges, told = _edges(found, set(known), data, table.origin, by_color=True)
        return _reading(known, table.names, table.colors, edges, told, by_color=True)
    if found.colored or _clash(found.palettes):
        return _by_colors_alone(found, table, data)
    if found.lossy and not _is_binary(found):
        raise UserError(
            "the masks are JPEG (or WebP with loss), which changes class ids: save them as PNG;"
            " JPEG is read of masks of two values, 0 and 255, or in the colours of a list of"
            " classes"
        )
    return _by_values(found, table, data, num_classes)


def _reading(
    known: Mapping[int, int],
    names: Sequence[str],
    colors: Sequence[Color],
    edges: Edges = "refuse",
    told: Iterable[str] = (),
    *,
    by_color: bool = False,
) -> Reading:
    code = MaskCode(by_color, tuple(sorted(known.items())), edges)
    usual = voc_colormap(len(names))
    colors = tuple(colors) if len(colors) == len(names) else usual
    return Reading(code, tuple(names), colors, tuple(told))


def _as_told(found: Tally, table: ClassTable | None, data: DataConfig) -> Reading:
    """By data.label_map: pairs 'value=name' or '#rrggbb=name'."""
    pairs = [match.groups() for entry in data.label_map if (match := LABEL_MAP.fullmatch(entry))]
    by_color = pairs[0][0].startswith("#")
    if any(key.startswith("#") != by_color for key, _ in pairs):
        raise UserError("data.label_map: give values or colours, not both")
    told_names = dict.fromkeys(n for _, n in pairs if n.lower() not in VOID_NAMES)
    names = list(table.names) if table else [*told_names]
    if table and (strange := [name for name in told_names if name not in names]):
        raise UserError(f"data.label_map: {strange[0]!r} is none of {list_some(names)}")
    known = {
        pack(parse_color(key[1:])) if by_color else int(key): names.index(name)
        if name in names
        else VOID
        for key, name in pairs
    }
    if not by_color:
        known.setdefault(VOID if data.ignore_label is None else data.ignore_label, VOID)
    edges, told = _edges(found, set(known), data, "data.label_map", by_color=by_color)
    return _reading(known, names, table.colors if table else (), edges, told, by_color=by_color)


def _edges(
    found: Tally, known: set[int], data: DataConfig, origin: str, *, by_color: bool
) -> tuple[Edges, list[str]]:
    """What becomes of values that are not `known`; raises UserError if they are no soft edges."""
    counts = found.colors if by_color else found.values
    others = Counter({value: n for value, n in counts.items() if value not in known})
    if not others:
        return (data.edges if data.edges != "auto" else "refuse"), []
    share = others.total() / counts.total()
    show = hexadecimal if by_color else str
    worst, pixels = others.most_common(1)[0]
    few = list_some((show(value) for value, _ in others.most_common()), 4)
    kinds = "colours" if by_color else "values"
    soft = found.lossy or (share <= SOFT and pixels <= RARE * counts.total() and len(others) > 3)
    soft &= not (by_color and found.mixed)
    if data.edges == "auto" and not soft:
        raise UserError(
            f"the masks hold {few}, which {origin} does not list ({share:.2%} of their pixels,"
            f" {pixels} of them {show(worst)}): add it there, as a class or as 'void', or set"
            " --data.edges=ignore or nearest"
        )
    edges: Edges = ("nearest" if found.lossy else "ignore") if data.edges == "auto" else data.edges
    done = "ignored" if edges == "ignore" else "taken for the nearest that is listed"
    other = "nearest" if edges == "ignore" else "ignore"
    return edges, [
        f"soft edges: {share:.2%} of the masks' pixels have {len(others)} {kinds} that are not"
        f" listed ({few}) and are {done} (--data.edges={other})"
    ]


# ---- colours


def _are_colors(found: Tally, table: ClassTable) -> bool:
    """Whether palettes and grays are to be read by the table's colours: they may be ids."""
    known = {pack(color) for color, _ in table.by_color}
    ids = dict(table.values) or {i: i for i in range(len(table.names))}
    own = {pack(color): i for color, i in table.by_color}
    if found.palettes:  # indices are ids, unless a colour or another mask contradicts
        pairs = [(i, color) for i, color in found.palettes if color in own]
        return _clash(found.palettes) or any(own[color] != ids.get(i) for i, color in pairs)
    gray = all(len({*color}) == 1 for color, _ in table.by_color)
    if gray and {color & 255 for color in known} >= found.values.keys() - {VOID}:
        return True
    return found.share(known, of_colors=True) > 1 - SOFT and max(found.values) >= len(ids)


def _clash(palettes: Iterable[tuple[int, int]]) -> bool:
    """Whether one index stands for several colours, in different masks: it is no class id."""
    return any(a[0] == b[0] for a, b in pairwise(sorted(palettes)))


def _by_colors_alone(found: Tally, table: ClassTable | None, data: DataConfig) -> Reading:
    """Each colour is a class, where no list says otherwise."""
    shown = found.colors.most_common()
    total = found.colors.total()
    solid = (
        [c for c, n in shown if n > RARE * total / 10]
        if len(shown) > MOST_COLORS
        else [c for c, _ in shown]
    )
    each = list_some(f"{hexadecimal(c)} {n / total:.2%}" for c, n in shown)
    if table is not None or found.lossy or len(solid) > MOST_COLORS:
        whose = f"and {table.origin} gives none" if table else "and no list says what they mean"
        lines = "\n".join(f"  NAME {hexadecimal(color)}" for color in sorted(solid)[:16])
        advice = (
            f"Write a class in every line of classes.txt with its colour ('void' for ignored"
            f" pixels):\n{lines}"
        )
        if table is not None and not found.colored:
            pairs = _flags(enumerate(table.names[:16]))
            advice = (
                "Their palettes differ, which ids have no need of. "
                f"{advice}\nOr, if the indices are ids all the same: {LABEL_FLAG} {pairs}"
            )
        raise UserError(f"the masks are in colours, {whose}: {each}. {advice}")
    solid.sort(key=unpack)
    edges, told = _edges(found, set(solid), data, "the list of classes", by_color=True)
    told = [
        f"no list of classes: each of the {len(solid)} colours is one; name them in classes.txt",
        *told,
    ]
    known = {color: i for i, color in enumerate(solid)}
    names = [hexadecimal(color) for color in solid]
    return _reading(known, names, [unpack(c) for c in solid], edges, told, by_color=True)


# ---- values


def _by_values(
    found: Tally,
    table: ClassTable | None,
    data: DataConfig,
    num_classes: int | None,
) -> Reading:
    void = VOID if data.ignore_label is None else data.ignore_label
    listed = dict(table.values) if table is not None else {}
    names, colors = (table.names, table.colors) if table is not None else ((), ())
    if listed:
        known = listed if void in listed and data.ignore_label is None else {**listed, void: VOID}
        edges, told = _edges(found, set(known), data, table.origin if table else "", by_color=False)
        return _reading(known, names, colors, edges, told)
    n = len(names) or num_classes
    asked = data.ignore_label is not None or data.zero not in ("auto", "class")
    if n in (2, None) and not asked and _is_binary(found):
        return _binary(found, table, data)
    values = sorted(set(found.values) - {void})
    if n is None:
        n = _count(values, found.values, void)
        names = tuple(f"class {i}" for i in range(n))
        told = [f"the masks hold {n} classes, named 'class 0' to 'class {n - 1}': there is no list"]
    else:
        names, told = names or tuple(f"class {i}" for i in range(n)), []
    known, more = _number(values, names, data, found.values, void)
    if lost := [v for v, _ in found.nodata if v in known and void != v and data.zero == "auto"]:
        raise UserError(_which_nodata(lost[0], names))
    if more.background:
        names, colors = ("background", *names), ()
    edges, soft = _edges(found, {*known, void}, data, "the list of classes", by_color=False)
    return _reading({**known, void: VOID}, names, colors, edges, [*told, *more.told, *soft])


def _is_binary(found: Tally) -> bool:
    """Whether 0 and a value too high to be an id hold nearly all pixels.

    Values near them, as JPEG makes of them, count with them.
    """
    values = found.values
    low, high = min(values, default=0), max(values, default=0)
    if low != 0 or high < 4:
        return False
    near, between = (high - low) // 8, (high - low) // 4
    ends = sum(n for v, n in values.items() if v - low <= near or high - v <= near)
    if found.lossy:  # were there ids from 1, JPEG would leave more of them
        soft = 2 * sum(values[v] for v in (1, 2, 3)) < values[high]
    else:  # no ids from 1, and 255
        soft = len(values) > 8 and any(low + between < v < high - between for v in values)
    return len(values) == 2 or (soft and ends > (1 - SOFT) * values.total())


def _binary(found: Tally, table: ClassTable | None, data: DataConfig) -> Reading:
    """Masks of 0 and another value, such as 255, for two classes."""
    high = max(found.values)
    names = table.names if table is not None else BINARY
    edges, soft = _edges(found, {0, high}, data, "the list of classes", by_color=False)
    told = f"the masks hold 0 and {high}: {high} is {names[1]!r}"
    colors = table.colors if table is not None else ()
    return _reading({0: 0, high: 1}, names, colors, edges, [told, *soft])


def _count(values: Sequence[int], counts: Counter[int], void: int) -> int:
    """How many classes there are by the values alone; raises UserError where there are gaps."""
    n = max([*values, 1]) + 1
    if n <= 2 * max(len(values), 2):
        return n
    there = f"the masks hold {list_some(values)}, and there is no list of classes"
    raise UserError(f"{there}: {_ask_for_map(counts, (), void)}")


def _ask_for_map(counts: Counter[int], names: Sequence[str], void: int) -> str:
    """Advice to name the values that are no ids by a map, filled in as far as it is known."""
    common = sorted(v for v, _ in counts.most_common(16))
    known = dict(enumerate(names))
    if names and void in counts:  # else it may be a gray level like the others
        known[void] = "void"
    flags = _flags((value, known.get(value, "NAME")) for value in common)
    return f"say what each stands for, 'void' for ignored pixels: {LABEL_FLAG} {flags}"


def _flags(pairs: Iterable[tuple[int, str]]) -> str:
    return " ".join(shlex.quote(f"{value}={name}") for value, name in pairs)


class More(NamedTuple):
    """What comes with a numbering: whether 'background' is a class before the others."""

    told: tuple[str, ...] = ()
    background: bool = False


def _number(
    values: Sequence[int],
    names: Sequence[str],
    data: DataConfig,
    counts: Counter[int],
    void: int,
) -> tuple[dict[int, int], More]:
    """Which class each value is; raises UserError where that is open."""
    n, there = len(names), set(values)
    same = {i: i for i in range(n)}
    from_one = {i + 1: i for i in range(n)}
    if data.zero == "ignore":
        return {0: VOID, **from_one}, More()
    if data.zero == "background":
        return {0: 0, **{i + 1: i + 1 for i in range(n)}}, More(background=True)
    if there <= same.keys() or data.zero == "class":
        lacking = (
            f"warning: no mask holds class 0 ({names[0]!r}): if ids start at 1, every class has"
        )
        from_1 = 0 not in there and there and data.zero == "auto" and data.ignore_label != 0
        return same, More(
            (f"{lacking} the name of the next: --data.zero=ignore",) if from_1 else ()
        )
    if there == from_one.keys():
        told = f"the masks hold 1 to {n} and never 0: 1 is {names[0]!r} (--data.zero=class if not)"
        return from_one, More((told,))
    if max(there) == n and there <= {*same, n}:
        if camvid.is_list(names):
            told = f"{n} is ignored: these are CamVid's 11 classes, and {n} is its void"
            return {**same, n: VOID}, More((told,))
        raise UserError(_one_too_many(n, names, zero=0 in there))
    many = len(values) - len(there & same.keys()) > 8
    gray = len(counts) == n and not there & {*range(1, n)}
    advice = _ask_for_map(counts, names if 0 in there and not gray else (), void)
    raise UserError(
        f"the masks hold {list_some(counts if gray else there - same.keys())}, and the ids of the"
        f" {n} classes are 0 to {n - 1}: "
        + (
            "are they gray levels, or numbers of single objects?"
            if many
            else f"is the list of classes complete? Else {advice}"
        )
    )


def _one_too_many(n: int, names: Sequence[str], *, zero: bool) -> str:
    """What to tell of masks of values up to n, with or without `zero`, and n names."""
    readings = [f"{n} marks pixels to ignore: --data.ignore_label={n}"]
    first = f"1 is the first class, {names[0]!r}"
    readings.append(f"0 marks pixels to ignore, and {first}: --data.zero=ignore")
    if zero and names[0].lower() not in BACKGROUND_NAMES:
        readings.append(f"0 is background, and {first}: --data.zero=background")
    readings.append(f"the list lacks the class {n}: add its name")
    told = f"the masks hold {n}, and there are {n} classes, 0 to {n - 1}; they do not tell whether"
    return "\n  - ".join([told, *readings])


def _which_nodata(value: int, names: Sequence[str]) -> str:
    """What to tell of masks whose files mark a value as no data that is also a class."""
    return (
        f"the masks' files mark {value} as no data (GDAL), and it is the class {names[value]!r};"
        f" they do not tell whether\n  - it is to be ignored: --data.ignore_label={value}\n  - it"
        " is that class: --data.zero=class"
    )


def find_mixture(found: Iterable[tuple[object, Tally]], reading: Reading) -> str:
    """What is wrong if some masks of two classes hold 0 and 1, and others 0 and 255; else ""."""
    if reading.code.by_color or dict(reading.code.table) != {0: 0, 1: 1, VOID: VOID}:
        return ""
    kinds = {values: name for name, one in found if (values := frozenset(one.values)) - {0}}
    ones, high = frozenset((0, 1)), frozenset((0, VOID))
    if not ({ones, high} <= kinds.keys() and kinds.keys() <= {ones, high, ones - {0}, high - {0}}):
        return ""
    return (
        f"some masks hold 0 and 1, such as {kinds[ones]}, others 0 and 255, such as {kinds[high]}:"
        f" is 255 {reading.names[1]!r} there? Save all alike; if it is to be ignored:"
        f" {LABEL_FLAG} {_flags([*enumerate(reading.names), (VOID, 'void')])}"
    )


def to_label_map(code: MaskCode, names: Sequence[str]) -> tuple[str, ...]:
    """A code as `data.label_map` takes it, in the order of the classes."""
    return tuple(
        f"{hexadecimal(value) if code.by_color else value}="
        f"{'void' if class_id == VOID else names[class_id]}"
        for value, class_id in sorted(code.table, key=lambda pair: pair[::-1])
    )
