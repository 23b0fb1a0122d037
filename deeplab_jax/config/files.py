"""Configurations in files: configs/NAME.py, a run's config.json, a user's own Python file."""

import importlib.util
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from deeplab_jax.config.experiment import Config
from deeplab_jax.config.formats import FORMAT, current
from deeplab_jax.config.values import from_dict, read_json, to_dict
from deeplab_jax.errors import UserError
from deeplab_jax.files import write_atomically

PACKAGE = Path(__file__).resolve().parents[1]
T = TypeVar("T")


def load_json(path: Path) -> Config:
    """Read a `config.json` that `save_json` wrote, now or in an older version."""
    values = read_json(path)
    try:
        config: Config = from_dict(Config, current(values))
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    return config


def save_json(config: Config, path: Path) -> None:
    """Write a configuration as JSON."""
    values = {"format": FORMAT, **to_dict(config)}
    write_atomically(path, json.dumps(values, indent=2) + "\n")


def shipped(kind: str) -> Path:
    """The folder of the `configs` or `studies` that ship: in a wheel inside it, else beside it."""
    inside = PACKAGE / kind
    return inside if inside.is_dir() else PACKAGE.parent / kind


def find_shipped(name: str, kind: str) -> Path:
    """The file of a path, or of a name such as voc, or of configs/voc.py, from any folder."""
    given, ships = Path(name), shipped(kind)
    if given.is_file():
        return given
    if given.suffix == "" and (ships / f"{name}.py").is_file():
        return ships / f"{name}.py"
    is_ours = given.parent == Path(kind) and (ships / given.name).is_file()
    return ships / given.name if is_ours else given


def load_config_file(name: str) -> Config:
    """`get_config()` of a Python file, the configuration that ships as NAME, or a config.json."""
    file = find_shipped(name, "configs")
    if not file.is_file():
        raise UserError(f"--config={name}: no such file; {_instead_of(file)}")
    if file.suffix == ".json":
        return load_json(file)
    return call_in_file(file, "get_config", Config, f"--config={name}")


def names_of(kind: str) -> list[str]:
    """The names that `find_shipped` knows."""
    return sorted(file.stem for file in shipped(kind).glob("[a-z]*.py"))


def _instead_of(file: Path) -> str:
    """What could be meant by a configuration that is not there."""
    if (file / "config.json").is_file():
        return f"that is a run's folder: --config={file / 'config.json'}"
    if there := sorted(str(p) for p in file.parent.glob("*.py") if file.suffix == ".py"):
        return f"files there: {', '.join(there)}"
    return (
        f"give one that ships ({', '.join(names_of('configs'))}), a Python file with get_config()"
        " -> Config, or a run's config.json"
    )


def find_in_file(file: Path, function: str, where: str, returns: str) -> Callable[..., Any]:
    """A function of a Python file of the user's; `where` begins every message.

    Raises:
      UserError: the file cannot be run, or has no such function, which should `returns` so much.
    """
    spec = importlib.util.spec_from_file_location(f"deeplab_jax_{function}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look themselves up
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, function):
            raise UserError(f"{where}: has no function {function}() -> {returns}")
    except UserError:
        raise
    except Exception as error:  # whatever a user's own code raises
        raise UserError(f"{where}: {in_user_code(error, file)}") from error
    found: Callable[..., Any] = getattr(module, function)
    return found


def call_in_file(file: Path, function: str, result: type[T], where: str, *arguments: object) -> T:
    """What `function` of a Python file of the user's returns; `where` begins every message.

    Raises:
      UserError: the file cannot be run, has no such function, or that returns something else.
    """
    own = find_in_file(file, function, where, result.__name__)
    try:
        value = own(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: {in_user_code(error, file)}") from error
    if not isinstance(value, result):
        found = type(value).__name__
        raise UserError(f"{where}: {function}() returned {found}, not a {result.__name__}")
    return value


def in_user_code(error: Exception, file: Path) -> str:
    """'line 3: NameError: ...': the last line of the file that an error went through."""
    own = str(file.absolute())  # as Python names it
    what = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    if isinstance(error, SyntaxError):
        other = "" if error.filename in (None, own) else f"{error.filename}, "
        what, line = f"{type(error).__name__}: {error.msg}", error.lineno
        return f"{other}line {line}: {what}" if line else f"{other}{what}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == own]
    return f"line {frames[-1].lineno}: {what}" if frames else what
