"""The command line of a configuration: `--config=NAME --section.field=value ...`."""

import ast
import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from deeplab_jax.config.cell import Branch, read_cell
from deeplab_jax.config.checks import one_of, require
from deeplab_jax.config.experiment import Config
from deeplab_jax.config.files import load_config_file
from deeplab_jax.config.formats import GONE, SHORT, is_white, today
from deeplab_jax.config.values import from_scalar, from_value
from deeplab_jax.errors import UserError

SCALARS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
NO_FLAGS = ("task.classes", "task.colors")  # read from the data


class Field(NamedTuple):
    """A field as `--help-all` and docs/configuration.md show it."""

    name: str
    type: Any
    default: Any
    doc: str


def fields() -> Iterator[tuple[str, str, list[Field]]]:
    """Each section of the configuration: its name, what is said of it, its fields."""
    for section in dataclasses.fields(Config):
        cls = get_type_hints(Config)[section.name]
        default, docs, hints = cls(), _docs(cls), get_type_hints(cls)
        found = [
            Field(f"{section.name}.{f.name}", hints[f.name], getattr(default, f.name), docs[f.name])
            for f in dataclasses.fields(cls)
        ]
        yield section.name, inspect.getdoc(cls) or "", found


def _docs(cls: type[Any]) -> dict[str, str]:
    """The docstring below each field, which Python itself does not keep; "" without one."""
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    docs, name = dict.fromkeys((f.name for f in dataclasses.fields(cls)), ""), ""
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name = line.target.id
        elif name and isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            docs[name] = inspect.cleandoc(str(line.value.value))
        else:
            name = ""
    return docs


def format_fields() -> str:
    """Every field with its default and what is said of it: what `--help-all` prints."""
    lines = []
    for name, doc, found in fields():
        lines += ["", f"{name}: {doc.partition(chr(10))[0]}"]
        for f in found:
            lines.append(f"  --{f.name} {describe_type(f.type)}  [{describe(f.default)}]")
            lines += [f"      {line}" for line in f.doc.splitlines() if line]
    return "\n".join(lines)


def describe(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, tuple):
        words = ["=".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value]
        return " ".join(words) or "()"
    return str(value) if value != "" else "''"


def describe_type(hint: Any) -> str:
    """'INT', 'H W', 'a|b': what is typed for a field."""
    parts = get_args(hint)
    if NoneType in parts:
        return f"{describe_type(parts[0])}|None"
    if get_origin(hint) is Literal:
        return "|".join(map(str, parts))
    if parts[:1] == (Branch,):
        return "JSON"
    if is_named(hint):
        return "NAME=NUMBER ..."
    if get_origin(hint) is tuple:
        inner = describe_type(parts[0])
        return f"{inner} ..." if parts[-1] is ... else " ".join([inner] * len(parts))
    return str(getattr(hint, "__name__", hint)).upper()


def pop_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The name of `--config=NAME` (or `--config NAME`), and the other arguments."""
    path, rest = None, []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            path = next(remaining, "")
        elif argument.startswith("--config="):
            path = argument.removeprefix("--config=")
        else:
            rest.append(argument)
        if path == "":
            raise UserError("--config: the name is missing, such as --config=voc")
    return path, rest


def override(base: Config, arguments: Sequence[str]) -> Config:
    """`base` with the changes of `--section.field=value` arguments; see `change`."""
    sections = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    return Config(**change(sections, arguments))


def changes_of(sections: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By section the fields that arguments name, and those of `sections` that are no defaults."""
    changed = change(sections, arguments)
    return {
        section: {
            f.name: getattr(values, f.name)
            for f in dataclasses.fields(values)
            if getattr(values, f.name) != f.default
            or given(arguments, f"{section}.{f.name}") is not None
        }
        for section, values in changed.items()
    }


def change(sections: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Sections of a configuration with the changes of `--section.field=value` arguments.

    `--section.field value` and hyphens for underscores will do too, and the names of format 0.
    Where a field has several values they are `513 513`, `513,513`, `513x513` or `(513, 513)`.

    Raises:
      UserError: an argument is no field, or its value is not one of the field.
    """
    types = {
        f"{section}.{name}": hint
        for section, values in sections.items()
        for name, hint in get_type_hints(type(values)).items()
        if f"{section}.{name}" not in NO_FLAGS
    }
    changes: dict[str, dict[str, Any]] = {section: {} for section in sections}
    for written, words in _named(arguments):
        name = today(written)
        if name in GONE:
            continue
        if name not in types:
            raise UserError(f"--{written}: there is no such setting; {_near(written, list(types))}")
        if is_white(written) and words[-1:] != ["None"]:
            words = ["0", *words]
        section, _, field = name.partition(".")
        changes[section][field] = from_words(types[name], words, name)
    return {name: dataclasses.replace(old, **changes[name]) for name, old in sections.items()}


def _named(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each `--name=word` or `--name word word` as the name and its words."""
    named: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            named.append((name.replace("-", "_"), [value] if equals else []))
        elif named:
            named[-1][1].append(argument)
        else:
            is_config = argument.endswith((".py", ".json"))
            hint = f"--config={argument}" if is_config else "settings are --section.field=value"
            raise UserError(f"{argument!r} is no setting; {hint}")
    return named


def flag_of(name: str) -> str:
    """What is typed on the command line to set a field: --steps of train.steps.

    Of what is read from the data, it is their list of classes that decides.
    """
    name = "data.classes" if name in NO_FLAGS else name
    short = next((s.replace("_", "-") for s, field in SHORT.items() if field == name), name)
    return f"--{short}"


def given(arguments: Sequence[str], name: str) -> str | None:
    """What the arguments say of a field, unchecked; None where they do not name it."""
    words = [words for written, words in _named(arguments) if today(written) == name]
    return " ".join(words[-1]) if words else None


def _near(name: str, names: Sequence[str]) -> str:
    """What a wrong name could stand for: --steps for --train.steps; else the section's settings."""
    section, _, last = name.rpartition(".")
    ends = [n for n in names if n.rpartition(".")[2] == last]
    if near := ends or difflib.get_close_matches(name, names, 3, 0.75):
        return f"did you mean {' or '.join(f'--{n}' for n in near)}?"
    there = [n for n in names if n.startswith(f"{section or name}.")]
    return f"there are {', '.join(f'--{n}' for n in there)}" if there else "--help-all names all"


def from_words(hint: Any, words: list[str], name: str) -> Any:
    """The words of a command line as a field's type."""
    given = " ".join(words)
    if NoneType in get_args(hint):  # X | None
        if given.lower() in ("none", "auto"):
            return None
        hint = get_args(hint)[0]
    if get_args(hint)[:1] == (str,):
        return tuple(words)
    if get_args(hint)[:1] == (Branch,):
        return read_cell("" if given == "()" else given, name)
    if is_named(hint):
        return _named_numbers(hint, re.split(r"[\s,]+", given), name)
    if get_origin(hint) is tuple:
        return _several(get_args(hint), re.split(r"[\s,x×*()\[\]]+", given.lower()), name, given)
    require(len(words) == 1, name, given, "one value is needed; quote what has spaces")
    if get_origin(hint) is Literal:
        one_of(name, given, get_args(hint))
        return given
    return _scalar(hint, given, name)


def is_named(hint: Any) -> bool:
    """Whether a field is any number of (name, number): train.loss."""
    return get_origin(hint) is tuple and get_args(get_args(hint)[0])[1:] == (float,)


def _named_numbers(hint: Any, words: list[str], name: str) -> Any:
    """(name, number) from each `name=number`; a name alone has 1."""
    pairs = [word.partition("=") for word in words if word]
    return from_value(hint, [(key, _scalar(float, x or "1", name)) for key, _, x in pairs], name)


def _several(parts: tuple[Any, ...], words: list[str], name: str, given: str) -> tuple[Any, ...]:
    """A tuple's values: as many as it has, or any number."""
    words = [word for word in words if word]
    count = len(words) if parts[-1] is ... else len(parts)
    example = " ".join(((words or ["513" if parts[0] is int else "0.5"]) * count)[:count])
    what = "height and width" if parts == (int, int) else f"{count} values"
    allowed = f"{what} are needed, such as --{name} {example}"
    require(len(words) == count, name, given, allowed)
    return tuple(_scalar(parts[0], word, name) for word in words)


def _scalar(hint: type[Any], word: str, name: str) -> Any:
    try:
        if hint is bool:
            return {"true": True, "false": False}[word.lower()]
        return from_scalar(hint, hint(word), name)
    except (KeyError, ValueError):
        raise UserError(
            f"{name} = {word!r:.80} is not possible: {SCALARS[hint]} is needed"
        ) from None


def parse(arguments: Sequence[str], default: str) -> Config:
    """A `Config` from `--config=NAME` (or `default`; "": plain defaults) and changed fields."""
    path, rest = pop_config(arguments)
    path = default if path is None else path
    return override(load_config_file(path) if path else Config(), rest)
