"""The dependency order of the package, read from its imports: downward only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "deeplab_jax"

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
