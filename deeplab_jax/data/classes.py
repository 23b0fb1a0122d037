"""Lists of classes: as people write them, and matched with those that a network predicts."""

import re
import sys
from dataclasses import replace
from pathlib import Path

from deeplab_jax.config import Color
from deeplab_jax.data.colors import parse_color, voc_colormap
from deeplab_jax.data.masks import list_some
from deeplab_jax.data.source import Source
from deeplab_jax.errors import UserError
from deeplab_jax.files import read_user_text

CLASS_LINE = re.compile(r"\s*([^#]*[^#\s])(?:\s+#([0-9a-fA-F]{6}))?\s*")
NUMBERED = re.compile(r"\W*(\d+)(?!\w)\W*\w")  # a number before a name
# What other tools write and would become part of a name: a number and a separator, a colour as
# three numbers, brackets, quotes, a list's dash, an empty last column, labelme's ignored pixels.
FOREIGN = re.compile(
    r"^\W*\d+\s*[,:;=\t]|(?:\d+[\s,:;]+){2}\d+\W*$|[\[\]{}\"=<>;\t]|^\s*[-*']\s*\S|[,:]\s*$"
    r"|^__ignore__$"
)


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Read names and colours (default: VOC's) from a file of lines `name` or `name #rrggbb`.

    Raises UserError, naming the line, for what is empty, doubled, malformed, a line of a table or
    program that would become part of the names, and for one class alone.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: write one class name a line, or give num_classes")
    lines = read_user_text(path).rstrip().splitlines()
    if len(lines) == 1 and not FOREIGN.search(lines[0]) and "," not in lines[0]:
        raise UserError(
            f"{path} lists one class, {lines[0]!r}; to tell it from the rest takes two: write "
            "'background' on a line before it, and 0 for it in the masks"
        )
    numbers = [int(match[1]) for match in map(NUMBERED.match, lines) if match]
    # Two in order are enough: a class may well be called "2 wheeler".
    numbered = numbers in (list(range(len(lines))), list(range(1, len(lines) + 1)))
    colors: dict[str, Color] = {}
    for i, (line, usual) in enumerate(zip(lines, voc_colormap(len(lines)), strict=True)):
        match, foreign = CLASS_LINE.fullmatch(line), FOREIGN.search(line)
        if not match or match[1] in colors or foreign or numbered or len(lines) == 1:
            why = f" (because of {foreign[0]!r})" if foreign else ""
            raise UserError(
                f"{path}:{i + 1}: {line!r} is not a new 'name' or 'name #rrggbb', such as 'red "
                f"#800000'{why}: write one class a line, without numbers; line 1 is class 0"
            )
        colors[match[1]] = parse_color(match[2]) if match[2] else usual
    return tuple(colors), tuple(colors.values())


def match_classes(
    source: Source, names: tuple[str, ...], colors: tuple[Color, ...], whose: str
) -> Source:
    """The source with its classes in the order of `names`, those that `whose` network predicts.

    The same names in another order are mapped, and this is said; so are names that differ.

    Raises:
      UserError: there is another number of classes.
    """
    theirs = source.class_names
    if len(theirs) != len(names):
        raise UserError(
            f"{whose} predicts {len(names)} classes ({list_some(names, 4)}), and the data set has "
            f"{len(theirs)} ({list_some(theirs, 4)}): choose weights that were trained on these "
            "classes, or the data with the classes of the weights"
        )
    if theirs != names and set(theirs) == set(names):
        print(f"the data's classes are in another order than {whose}'s: mapped", file=sys.stderr)
        order = tuple(theirs.index(name) for name in names)
        return replace(source, class_names=names, colors=colors, order=order)
    if other := other_names(names, theirs):
        told = f"the classes of {whose} and of the data have other names, and are compared by their"
        print(f"warning: {told} ids: {other}", file=sys.stderr)
    return source


def other_names(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """Where as many classes have other names, as "1: 'car' / 'bus'"; "" if nowhere.

    Classes without names, "class 0" and so on, differ from none.
    """
    numbered = tuple(f"class {i}" for i in range(len(ours)))
    if len(ours) != len(theirs) or numbered in (ours, theirs):
        return ""
    pairs = enumerate(zip(ours, theirs, strict=True))
    return list_some(f"{i}: {a!r} / {b!r}" for i, (a, b) in pairs if a != b)
