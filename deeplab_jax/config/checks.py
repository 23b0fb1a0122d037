"""How a field of the configuration says what it allows, and the one checker that reads it."""

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from deeplab_jax.errors import UserError

Check = Callable[[Any], bool]


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise the one form of error that a wrong field gets."""
    if not ok:
        raise UserError(f"{name} = {value!r} is not possible: {allowed}")


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    require(value in choices, name, value, f"choose one of {', '.join(map(str, choices))}{hint}")


def limited(default: Any, allowed: str, check: Check, heeded_by: tuple[str, ...] = ()) -> Any:
    """A field whose value `check` must find possible, as `allowed` says, unless it may be None.

    `heeded_by` names the data sources that take notice of it; (): all do.
    """
    metadata = {"allowed": allowed, "check": check, "heeded_by": heeded_by}
    return dataclasses.field(default=default, metadata=metadata)


def heeded(default: Any, *sources: str) -> Any:
    """A field that only these data sources take notice of."""
    return limited(default, "", lambda _: True, sources)


def at_least(default: Any, least: int) -> Any:
    return limited(default, f"{least} or more", lambda x: x >= least)


def share(default: float) -> Any:
    return limited(default, "from 0 up to below 1", lambda x: 0 <= x < 1)


def check_fields(section: Any, name: str) -> None:
    """Raise UserError unless each field of a section has a value that it allows."""
    hints = get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value, hint = getattr(section, field.name), hints[field.name]
        if get_origin(hint) is Literal:
            one_of(f"{name}.{field.name}", value, get_args(hint))
        if "check" not in field.metadata or (value is None and NoneType in get_args(hint)):
            continue
        ok = value is not None and field.metadata["check"](value)
        require(ok, f"{name}.{field.name}", value, field.metadata["allowed"])


def check_heeded(section: Any, name: str, source: str) -> None:
    """Raise UserError where a field is set of which the data's source takes no notice."""
    for field in dataclasses.fields(section):
        sources, value = field.metadata.get("heeded_by", ()), getattr(section, field.name)
        allowed = (
            f"data.source = {source} takes no notice of it: leave {field.default!r}, or choose"
            f" --data.source={' or '.join(sources)}"
        )
        ok = not sources or source in sources or value == field.default
        require(ok, f"{name}.{field.name}", value, allowed)


def round_up(size: int, stride: int) -> int:
    """The smallest k * stride + 1 that is not below `size`: a size whose corners stay aligned."""
    return -(-(size - 1) // stride) * stride + 1


def round_near(size: float, stride: int) -> int:
    """The nearest k * stride + 1, with k from 1."""
    return max(1, round((size - 1) / stride)) * stride + 1
