"""Lists of classes in every form that people and tools write, as one `ClassTable`."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from deeplab_jax.config import Color
from deeplab_jax.data.annotations.gather import class_name
from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.colors import parse_color, voc_colormap
from deeplab_jax.data.datasets import ade20k
from deeplab_jax.data.layouts import BACKGROUND_NAMES, VOID_NAMES, ClassTable
from deeplab_jax.errors import UserError
from deeplab_jax.files import read_user_text

ADE20K = "objectInfo150.txt"
SUPERVISELY = "obj_class_to_machine_color.json"
MAPILLARY = ("config_v2.0.json", "config_v1.2.json")  # of which a download has both
# Where a folder's table is looked for, in this order.
FILES = (
    *("classes.txt", "classes.json", "classes.csv", "dataset_meta.json", "labelmap.txt"),
    *("label_colors.txt", "class_dict.csv", "class_dict_seg.csv", "labels.txt", "class_names.txt"),
    *("codes.txt", ADE20K, *MAPILLARY, "_classes.csv", SUPERVISELY),
)
# Which are tables in some data sets (Mapillary, nnU-Net), and something else in others.
PERHAPS = ("config.json", "dataset.json")
HEAD = 2**16  # bytes, in which they name labels
_RGB = r"(?P<red>\d+)[\s,;]+(?P<green>\d+)[\s,;]+(?P<blue>\d+)"
_HEX = r"(?:[\s,;:=]+(?:#|0x)(?P<hex>[0-9a-fA-F]{6}))?"
# What every line of a file must match, in this order; the header, where there is one.
GRAMMARS = tuple(
    re.compile(pattern)
    for pattern in (
        # CVAT's and Datumaro's labelmap.txt
        rf"\s*(?P<name>[^:#]+?)\s*:\s*(?:{_RGB})?\s*:[^:]*:[^:#]*(?:\s#.*)?",
        # ADE20K's objectInfo150.txt: share of pixels, images, in one edition whether it is stuff
        r"\s*(?P<value>\d+)\s+0\.\d+\s+\d+\s+\d+\s+(?:[01]\s+)?(?P<name>\S.*?)\s*",
        rf"\s*{_RGB}[\s,;]+(?P<name>\S.*?)\s*",  # CamVid's label_colors.txt
        rf"\s*(?P<place>\d+)[\s,;:]+(?P<name>[^\d\s].*?)[\s,;:]+{_RGB}\s*",
        rf"\s*(?P<name>[^\d\s].*?)\s*[,;]\s*(?P<place>\d+)\s*[,;]\s*{_RGB}\s*",
        # class_dict.csv; with an alpha of 255, or other columns
        rf"\s*(?P<name>[^\d\s].*?)[\s,;:=(\[\"]+{_RGB}[)\]\"]?\s*(?:[,;]\s*(?:255\s*|(?!\d).*))?",
        rf"\s*(?P<value>\d+)\s*[:=,;\t]\s*(?P<name>[^\s,;].*?){_HEX}\s*",  # Roboflow's _classes.csv
        r"\s*(?P<name>[^\d\s].*?)\s*[:=,;\t]\s*(?P<value>\d+)\s*",
        rf"\s*(?P<place>\d+)[.)]?\s+(?P<name>\S.*?){_HEX}\s*",  # counted; see `_is_counted`
        rf"\s*(?P<name>[^#]*?[^#\s]){_HEX}\s*",  # our own
    )
)
PLAIN = GRAMMARS[-1]
_NAMED = r"(name|class|label)"
_HEAD = r"\W+r(ed)?\W+g(reen)?\W+b(lue)?"
HEADER = re.compile(
    rf"(?i)\s*({_NAMED}{_HEAD}(\W.*)?|r\W+g\W+b\W+name|(pixel )?value\W+class|idx\W.*"
    rf"|names?|class(es)?|(id|index|value)\W+{_NAMED}({_HEAD})?"
    rf"|{_NAMED}\W+(id|index|value|colou?r|rgb)({_HEAD})?)\s*"
)
CLASSIFICATION = re.compile(r"(?i)\s*(filename|class_index)\s*,.*")
# Parts of tables and programs that would else become part of a name.
FOREIGN = re.compile(
    r"^\W*\d+\s*[,:;=\t]|(?:\d+[\s,:;]+){2}\d+\W*$|[\[\]{}\"=<>;\t]|^\s*[-*']\s*\S|[,:]\s*$"
)
MOST = 255  # classes
WRAPPERS = ("classes", "names", "categories", "id2label")  # what JSON calls a list of them


class Entry(NamedTuple):
    """A line of a table: `color` and `value` (in masks) where it gives them."""

    name: str
    color: Color | None = None
    value: int | None = None


def find_table(folders: Iterable[Path]) -> ClassTable | None:
    """The first table of these folders (`FILES`); colours that it lacks, from another of theirs.

    Raises:
      UserError: it is malformed, or Mapillary's for two versions of the masks.
    """
    folders = [*folders]
    files = [folder / name for folder in folders for name in (*FILES, *PERHAPS)]
    table: ClassTable | None = None
    for file in filter(_may_be_table, files):
        try:
            other = read_table(file)
        except UserError:
            if table is None and file.name in FILES:
                raise
            continue  # a file that only has such a name
        if table is None:
            table = other
            both = [file.with_name(name) for name in MAPILLARY]
            if file in both and all(map(Path.is_file, both)):
                flags = " or ".join(f"--data.classes={one}" for one in both)
                raise UserError(f"{file.parent} lists classes for two kinds of masks: {flags}")
            continue
        if other.colors and not table.colors and set(other.names) == set(table.names):
            colors = tuple(other.colors[other.names.index(name)] for name in table.names)
            ids = {i: table.names.index(name) for i, name in enumerate(other.names)} | {VOID: VOID}
            by_color = tuple((color, ids[i]) for color, i in other.by_color)
            return table._replace(colors=colors, by_color=by_color)
    return table


def _may_be_table(file: Path) -> bool:
    if not file.is_file() or file.name in FILES:
        return file.is_file()
    with file.open("rb") as stream:
        return b'"labels"' in stream.read(HEAD)


def read_table(path: Path) -> ClassTable:
    """Read a file of names, and of colours or values where it gives them.

    JSON (names to colours or values, values to names, a list, Datumaro's dataset_meta.json,
    Mapillary's config), or lines of text in one of `GRAMMARS`. An entry named as in `VOID_NAMES`
    stands for ignored pixels. One name alone is that of the class beside the background.

    Raises:
      UserError: names the file, the line and what is allowed.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: write one class name a line, or 'name #rrggbb'")
    text = read_user_text(path)
    if path.suffix.lower() == ".json":
        entries = _entries_of_json(text, path)
        if path.name == SUPERVISELY and not any(e.value == 0 for e in entries):
            colored = any(e.color for e in entries)
            black = Entry("background", (0, 0, 0)) if colored else Entry("background", None, 0)
            entries.insert(0, black)  # which is not listed
        return make_table(entries, str(path))
    lines = text.rstrip().splitlines()
    if lines and CLASSIFICATION.fullmatch(lines[0]):
        raise UserError(f"{path}:1: {lines[0]!r:.60} is a table for classification, not for masks")
    if len(lines) == 1 and "," in lines[0] and not FOREIGN.search(lines[0]):
        lines = lines[0].split(",")
    entries = _entries_of_lines(lines, path)
    if path.name == ADE20K:  # which numbers from 1: 0 is what is none of them
        entries.insert(0, Entry("void", None, 0))
        table = make_table(entries, str(path))
        if len(entries) == len(ade20k.CLASS_NAMES):  # of each class's names one, as weights have
            table = table._replace(names=ade20k.CLASS_NAMES[1:], colors=ade20k.COLORS[1:])
        return table
    labelmap = any(GRAMMARS[0].fullmatch(line) for line in lines)
    return make_table(_background_first(entries) if labelmap else entries, str(path))


def make_table(entries: list[Entry], origin: str) -> ClassTable:
    """The table of entries; raises UserError, naming `origin`, for what is doubled or too much."""
    entries = [e._replace(name=class_name(e.name, origin)) for e in entries]
    classes = [e for e in entries if e.name.lower() not in VOID_NAMES]
    names = [e.name for e in classes]
    merged = len(set(names)) < len(names) and all(e.value is not None for e in classes)
    if merged:  # several values of one class
        names = list(dict.fromkeys(names))
    doubled = {name for name in names if names.count(name) > 1}
    if doubled or not 1 <= len(names) <= MOST:
        what = f"lists {min(doubled)!r} twice" if doubled else f"lists {len(names)} classes"
        raise UserError(f"{origin}: {what}; allowed are 1 to {MOST} different names")
    numbered = any(e.value is not None for e in entries)
    places = [i if e.value is None else e.value for i, e in enumerate(entries)]
    ids = [names.index(e.name) if e in classes else VOID for e in entries]
    values = tuple(zip(places, ids, strict=True))
    colored = all(e.color is not None for e in entries)
    if len(names) == 1 == len(entries) and not (
        numbered or colored or names[0] in BACKGROUND_NAMES
    ):
        return ClassTable(("background", names[0]), origin=origin)
    usual = voc_colormap(len(names))
    shown = [next((e.color for e in classes if e.name == name), None) for name in names]
    return ClassTable(
        tuple(names),
        tuple(c or u for c, u in zip(shown, usual, strict=True)) if any(shown) else (),
        () if values == tuple((i, i) for i in range(len(names))) else values,
        tuple((e.color, i) for e, i in zip(entries, ids, strict=True) if e.color)
        if colored
        else (),
        origin,
    )


def _background_first(entries: list[Entry]) -> list[Entry]:
    """CVAT lists labels by the alphabet; a mask of one channel has their places in the file."""
    entries = [e._replace(value=i) for i, e in enumerate(entries)]
    black = next((e for e in entries if e.color == (0, 0, 0)), None)
    first = next((e for e in entries if e.name.lower() in BACKGROUND_NAMES), black)
    return entries if first is None else [first, *(e for e in entries if e is not first)]


def _entries_of_lines(lines: list[str], path: Path) -> list[Entry]:
    numbered = [(i, line) for i, line in enumerate(lines, 1) if not HEADER.fullmatch(line)]
    told = [
        (i, line) for i, line in numbered if not re.match(r"\s*(#(?![0-9a-fA-F]{6}\b)|$)", line)
    ]
    for grammar in GRAMMARS[:-1]:
        matches = [grammar.fullmatch(line) for _, line in told]
        if told and all(matches) and _is_counted(grammar, matches) and not _is_foreign(matches):
            return [_entry(match, path, i) for match, (i, _) in zip(matches, told, strict=True)]
    entries: dict[str, Entry] = {}
    for i, line in numbered:
        match, foreign = PLAIN.fullmatch(line), FOREIGN.search(line)
        if match and path.suffix.lower() == ".csv":
            foreign = foreign or re.search(",.*", match["name"])
        if not match or match["name"] in entries or foreign:
            why = f" (because of {foreign[0]!r})" if foreign else ""
            raise UserError(
                f"{path}:{i}: {line!r} is not a new class{why}: write 'name', 'name #rrggbb', 'r g"
                " b name' or 'value: name' in every line; without values, line 1 is class 0"
            )
        entries[match["name"]] = _entry(match, path, i)
    return [*entries.values()]


def _is_foreign(matches: Iterable[re.Match[str] | None]) -> bool:
    return any(match and FOREIGN.search(match["name"]) for match in matches)


def _is_counted(grammar: re.Pattern[str], matches: list[re.Match[str] | None]) -> bool:
    """Numbers before names and a space count only in order: a class may be called "2 wheeler"."""
    if "place" not in grammar.groupindex:
        return True
    numbers = [int(match["place"]) for match in matches if match]
    return len(numbers) > 1 and numbers in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])


def _entry(match: re.Match[str] | None, path: Path, line: int) -> Entry:
    found = match.groupdict() if match else {}
    value = found.get("value") or found.get("place")
    if value is not None and int(value) > 65535:
        raise UserError(f"{path}:{line}: the value {value}; allowed are 0 to 65535")
    color = parse_color(found["hex"]) if found.get("hex") else None
    if found.get("red") is not None:
        rgb = [int(found[part]) for part in ("red", "green", "blue")]
        color = _color(rgb, f"{path}:{line}")
    return Entry(found["name"], color, None if value is None else int(value))


def _is_rgb(value: Any) -> bool:
    return isinstance(value, list) and all(type(part) is int for part in value)


def _color(rgb: Any, where: str) -> Color:
    if (
        not isinstance(rgb, list)
        or len(rgb) not in (3, 4)
        or not all(isinstance(c, int) and 0 <= c <= 255 for c in rgb)
    ):
        raise UserError(f"{where}: the colour {rgb!r:.60}; expected are 3 numbers from 0 to 255")
    return rgb[0], rgb[1], rgb[2]


# ---- JSON


def _entries_of_json(text: str, path: Path) -> list[Entry]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    inner = [data[key] for key in WRAPPERS if key in data] if isinstance(data, dict) else []
    if inner and isinstance(inner[0], dict | list) and not _is_rgb(inner[0]):
        data = inner[0]
    entries = _entries_of(data, str(path))
    if not entries:
        raise UserError(
            f'{path}: no list of classes; allowed are {{"name": [r, g, b]}}, {{"value": "name"}}, '
            '{"name": value} and ["name", ...]'
        )
    return entries


def _entries_of(data: Any, where: str) -> list[Entry]:
    if isinstance(data, dict) and {"label_map", "labels", "segmentation_colors"} & data.keys():
        return _entries_of_meta(data, where)
    if isinstance(data, list):
        return [_entry_of_item(item, where) for item in data]
    if not isinstance(data, dict):
        return []
    entries = []
    for key, item in data.items():
        if isinstance(item, list):
            entries.append(Entry(key.strip(), _color(item, where)))
        elif isinstance(item, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", item):
            entries.append(Entry(key.strip(), parse_color(item[1:])))
        elif isinstance(item, str) and re.fullmatch(r"\d{1,5}", key):
            entries.append(Entry(item.strip(), None, int(key)))
        elif isinstance(item, dict) and {"id", "value", "color"} & item.keys():
            entries.append(_entry_of_item({"name": key, **item}, where))
        elif type(item) is int and 0 <= item <= 65535 and not re.search(r"\d\W+\d", key):
            entries.append(Entry(key.strip(), None, item))
        else:
            raise UserError(f"{where}: {key!r:.60}: {item!r:.60} is no class with colour or value")
    return entries


def _entries_of_meta(data: dict[str, Any], where: str) -> list[Entry]:
    """Datumaro's dataset_meta.json, or Mapillary's config."""
    labels: Any = data.get("label_map") or data.get("labels")
    if isinstance(labels, dict):
        entries = _entries_of(labels, where)
    else:
        entries = _entries_of(labels or [], where)
    colors = data.get("segmentation_colors")
    if isinstance(colors, list) and len(colors) == len(entries):
        entries = [e._replace(color=_color(c, where)) for e, c in zip(entries, colors, strict=True)]
    return entries


def _entry_of_item(item: Any, where: str) -> Entry:
    """An entry of a JSON list: a name, or an object with name, color, and id or value."""
    if isinstance(item, str):
        return Entry(item.strip())
    keys = ("readable", "name", "title")
    name = (
        next((item[key] for key in keys if key in item), None) if isinstance(item, dict) else None
    )
    if not isinstance(name, str):
        raise UserError(f"{where}: {item!r:.60} has no name")
    value, color = item.get("id", item.get("value")), item.get("color")
    if isinstance(color, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        color = list(parse_color(color[1:]))
    return Entry(
        name.strip(),
        None if color is None else _color(color, where),
        value if isinstance(value, int) and 0 <= value <= 65535 else None,
    )
