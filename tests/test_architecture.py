"""The dependency order of the package, read from its imports: downward only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "deeplab_jax"

# Each line may import from the lines above it (and modules of its own line).
LAYERS = [
    ["errors", "cpu", "version", "files"],
    ["sharding"],
    [
        "config",
        "models.layers",
        "models.receptive_field",
        "data.colors",
        "data.cityscapes",
        "data.transforms",
        "data.walk",
    ],
    ["data.layout"],
    [
        "losses",
        "metrics",
        "optim",
        "progress",
        "interruption",
        "distributed",
        "data.augment",
        "data.decode",
        "pictures",
        "report",
    ],
    ["models.xception", "models.resnet", "models.mobilenet", "data.scenes", "data.voc"],
    ["models.deeplab", "models.pspnet", "models.unet", "models.classifier"],
    ["models.build", "models", "data.sources"],
    ["models.summary"],
    [
        "data.pipeline",
        "data.checks",
        "data.values",
        "state",
        "views",
        "weights.slots",
        "weights.tf_names",
        "weights.timm",
        "weights.batch_norm",
    ],
    ["step", "checkpoint", "weights", "weights.files", "weights.convert"],
    ["evaluate", "predict"],
    ["predict_files"],
    ["plan.chips", "plan.programs"],
    ["plan.compilers", "plan.estimate"],
    ["plan.planner"],
    ["log"],
    ["loop"],
    ["study"],
    ["commands"],
    ["__main__"],
]
RANK = {module: rank for rank, line in enumerate(LAYERS) for module in line}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def imported(file: Path) -> set[str]:
    """Modules of this package that a file imports, at any level."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deeplab_jax"):
            base = (node.module or "").removeprefix("deeplab_jax").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                names.add(inner if inner in RANK else base)
    return names - {""}


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_downward(file: Path) -> None:
    module = module_name(file)
    assert module in RANK, f"{module} is new: give it a line in LAYERS"
    for other in imported(file):
        assert RANK[other] <= RANK[module], f"{module} must not import {other}"


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
        opens = name == "open" and owner not in ("Image", "gzip", "archive", "os") and not binary
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
        "data.sources",
        "data.scenes",
        "data.checks",
        "data.values",
        "pictures",
    ):
        text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
        assert "import jax" not in text and "from jax" not in text


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_every_module_can_be_imported_on_windows(file: Path) -> None:
    """What only Unix has is imported where it is used."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"fcntl", "resource", "termios", "pwd", "grp"}
