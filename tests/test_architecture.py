"""The dependency order of the package, read from its imports: downward only."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "deeplab_jax"

# A room may import from those above it, and anything of its own.
ROOMS = [
    ["errors", "version", "process", "files", "progress"],
    ["config"],
    ["ops", "parallel"],
    ["lowering"],
    ["models"],
    ["reporting"],
    ["data"],
    ["weights"],
    ["inference"],
    ["export"],
    ["training"],
    ["plan"],
    ["arguments"],
    ["cli"],
    ["__main__"],
]
RANK = {room: rank for rank, line in enumerate(ROOMS) for room in line}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def imported(file: Path) -> set[str]:
    """Rooms of this package that a file imports, at any level."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deeplab_jax"):
            _, *inner = (node.module or "").split(".")
            rooms |= {inner[0]} if inner else {alias.name for alias in node.names}
    return rooms & RANK.keys()


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_downward(file: Path) -> None:
    room = module_name(file).split(".")[0]
    assert room in RANK, f"{room} is new: give it a line in ROOMS"
    for other in imported(file):
        assert RANK[other] <= RANK[room], f"{room} must not import {other}"


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_files_are_chapters_and_functions_fit_on_a_screen(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{module_name(file)} tells more than one story"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 50, f"{node.name} of {module_name(file)} has {lines} lines"


def test_what_anyone_can_lift_out_knows_no_configuration_and_no_mesh() -> None:
    files = [f for f in FILES if f.parent.name == "ops"]
    files += [PACKAGE / "training" / "losses.py", PACKAGE / "inference" / "metrics.py"]
    for file in files:
        assert not imported(file) & {"config", "parallel"}, module_name(file)


def test_a_wheel_has_every_room_and_what_ships_beside_them() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = tomllib.loads(text)["tool"]["setuptools"]["packages"]
    rooms = {f.parent.relative_to(ROOT) for f in PACKAGE.rglob("*.py")}
    names = {".".join(room.parts) for room in rooms}
    assert set(listed) == names | {"deeplab_jax.configs", "deeplab_jax.studies"}


def text_files(file: Path) -> list[str]:
    """Calls that read or write text in whatever encoding the machine has, as 'file:line'."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        owner = getattr(getattr(node.func, "value", None), "id", "")
        given = [*node.args, *(k.value for k in node.keywords)]
        binary = any(isinstance(a, ast.Constant) and "b" in str(a.value)[:3] for a in given)
        opens = (
            name == "open" and owner not in ("Image", "gzip", "archive", "av", "os") and not binary
        )
        if name in ("read_text", "write_text") or opens:
            found.append(f"{file.name}:{node.lineno}")
    return found


def test_text_is_utf_8_on_every_machine() -> None:
    others = [
        ROOT / "train.py",
        *(ROOT / "benchmarks").glob("*.py"),
        *(ROOT / "configs").glob("*.py"),
    ]
    assert [found for file in (*FILES, *others) for found in text_files(file)] == []


def test_the_package_can_be_imported_where_there_is_no_posix() -> None:
    """Modules that Windows lacks are imported where they are needed, never at the top of a file."""
    posix = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    for file in FILES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            assert not names & posix, f"{module_name(file)} imports {names & posix}"


def test_only_models_know_flax_linen() -> None:
    users = {module_name(f) for f in FILES if "flax.linen" in f.read_text()}
    assert {m.split(".")[0] for m in users} == {"models"}


def test_jax_is_not_needed_to_decode_or_draw() -> None:
    for module in (
        "data.decode",
        "data.transforms",
        "data.source",
        "data.folder",
        "data.tfds",
        "data.classes",
        "data.findings",
        "data.sizes",
        "data.settle",
        "data.datasets.drawing",
        "data.datasets.scenes",
        "data.checks",
        "data.masks",
        "reporting.figures",
    ):
        text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
        assert "import jax" not in text and "from jax" not in text
