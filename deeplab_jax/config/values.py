"""A configuration as plain values, as JSON has them, and back: every value is checked."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from deeplab_jax.config.checks import one_of
from deeplab_jax.errors import UserError

MAX_JSON_BYTES = 2**20  # a config.json has 3 kB


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration, or a section of one, as JSON-ready nested dictionaries."""
    return dataclasses.asdict(config)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`to_dict` as {"section.field": value}, tuples as the lists that JSON makes of them."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        out |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return {k: json.loads(json.dumps(v)) if isinstance(v, tuple) else v for k, v in out.items()}


def unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        target = out
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    return out


def from_dict(cls: type[Any], values: Any, where: str = "") -> Any:
    """The inverse of `to_dict`; an unknown field or a wrong type is a `UserError` that names it."""
    hints = get_type_hints(cls)
    if not isinstance(values, Mapping):
        shown = f"{values!r:.80}"
        raise UserError(f"{where or 'config'}: expected an object with fields, got {shown}")
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"fields are {', '.join(hints)}"
            raise UserError(f"{where}{key:.80}: there is no such field; {hint}")
    converted = {k: from_value(hints[k], v, f"{where}{k}") for k, v in values.items()}
    return cls(**converted)


def from_value(hint: Any, value: Any, where: str) -> Any:
    """A value of JSON as a field's type: lists as tuples, whole numbers as floats where asked."""
    kind, parts = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, f"{where}.")
    if NoneType in parts:  # X | None
        return None if value is None else from_value(parts[0], value, where)
    if kind is Literal:
        one_of(where, value, parts)
        return value
    return from_list(parts, value, where) if kind is tuple else from_scalar(hint, value, where)


def from_list(parts: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} = {value!r:.80}: expected a list")
    parts = parts[:1] * len(value) if parts[-1] is ... else parts
    if len(value) != len(parts):
        raise UserError(f"{where} = {value!r:.80}: expected {len(parts)} values")
    items = enumerate(zip(parts, value, strict=True))
    return tuple(from_value(part, item, f"{where}[{i}]") for i, (part, item) in items)


def from_scalar(hint: type[Any], value: Any, where: str) -> Any:
    if type(value) is not hint and (hint, type(value)) != (float, int):
        raise UserError(f"{where} = {value!r:.80}: expected {hint.__name__}")
    if isinstance(value, int | float) and not abs(value) < 2**63:  # NaN is not below either
        raise UserError(f"{where} = {value!r:.80}: expected a finite number of at most 64 bits")
    if isinstance(value, str) and "\0" in value:  # nearly all are paths
        raise UserError(f"{where} = {value!r:.80}: expected text without NUL")
    return hint(value)


def read_json(path: Path) -> Any:
    """What a small JSON file holds.

    Raises:
      UserError: it is missing, no plain file, above 1 MB or not JSON.
    """
    try:
        if not path.is_file():
            raise ValueError("no such file")
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES >> 20} MB")
        return json.loads(content.decode())
    except (OSError, ValueError, RecursionError) as e:  # RecursionError: brackets a thousand deep
        raise UserError(f"{path}: not a readable {path.name} ({e})") from e
