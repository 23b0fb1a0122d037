"""Whether the numbers on the accelerator are those of the CPU, and the same ones again."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.measure import ROOT, Entry, Figures
from benchmarks.accelerator.steps import TINY, Setting, compare_runs, start
from deeplab_jax import build_model
from deeplab_jax.ops.conv import conv, spatial_pads
from deeplab_jax.ops.norm import batch_norm
from deeplab_jax.training.losses import mean_loss, pixel_losses

LIMIT = 1e-4  # of an array's largest value, in float32 at highest precision
NETWORKS = ("xception_65", "resnet_v1_50_beta", "mobilenet_v2", "mobilenet_v3_large_seg")
PRECISIONS = {  # of the network, and of its products: by default TF32 on a GPU, bfloat16 on a TPU
    "highest": ("float32", "highest"),
    "default": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}


def distance(a: Any, b: Any) -> float:
    """The largest difference of two trees' arrays, each of its array's largest value."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    arrays = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs]
    return max(float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30)) for x, y in arrays)


def compare_logits(setting: Setting, left: float) -> Figures:
    """The logits of random weights beside this machine's CPU, which has the official ones."""
    config = replace(setting.model, dtype="float32")
    sys.path.append(str(ROOT / "tests"))
    from synthetic import random_variables

    variables = random_variables(config)
    image = (
        np.random.default_rng(0)
        .uniform(0, 255, (2, setting.size, setting.size, 3))
        .astype(np.float32)
    )
    with jax.default_device(jax.devices("cpu")[0]):
        want = jax.jit(partial(build_model(config).apply, train=False))(variables, image)
    errors = {}
    for name, (dtype, precision) in PRECISIONS.items():
        model = build_model(replace(config, dtype=dtype))  # type: ignore[arg-type]
        with jax.default_matmul_precision(precision):
            errors[name] = distance(
                jax.jit(partial(model.apply, train=False))(variables, image), want
            )
    return {"right": errors["highest"] <= LIMIT, **errors}


def compare_gradients(name: str, dry: bool, left: float) -> Figures:
    """Gradients of what has a backward pass of its own or several forms, beside the CPU's."""
    h, c = (9, 8) if dry else (65, 256)
    maps, kernel, rng = (2, h, h, c), (3, 3, 1, c), np.random.default_rng(0)
    label = rng.integers(0, 22, (2, 4 * h - 3, 4 * h - 3))  # 21 is no class

    def depthwise(x: Any, kernel: Any, stride: int, rate: int) -> Any:
        return conv(x, kernel, stride, rate, spatial_pads((h, h), 3, stride, rate, False), groups=c)

    function, *shapes = {
        "loss": (lambda z: mean_loss(*pixel_losses(z, label, 255)), (2, h, h, 21)),
        "BatchNorm": (lambda *a: batch_norm(*a, 1e-3)[0], maps, (c,), (c,)),
        "depthwise, stride 2": (partial(depthwise, stride=2, rate=1), maps, kernel),
        "depthwise, rate 2": (partial(depthwise, stride=1, rate=2), maps, kernel),
    }[name]

    def weigh(*operands: Any) -> Any:  # no two outputs count the same
        y = function(*operands)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    operands = [rng.standard_normal(shape, np.float32) for shape in shapes]
    gradients = jax.grad(weigh, tuple(range(len(operands))))
    with jax.default_matmul_precision("highest"):
        here = jax.jit(lambda *a: gradients(*a))(*operands)
        with jax.default_device(jax.devices("cpu")[0]):
            error = distance(here, jax.jit(lambda *a: gradients(*a))(*operands))
    return {"right": error <= LIMIT, "highest": error}


def run_tests(left: float) -> Figures:
    """`pytest -m gpu`: the tests that say something of another device than the CPU too."""
    platforms = f"{jax.default_backend().replace('gpu', 'cuda')},cpu"
    settings = "JAX_DISABLE_MOST_OPTIMIZATIONS=0 JAX_DEFAULT_MATMUL_PRECISION=highest"
    tests = f"{sys.executable} -m pytest -m gpu -n 0 -q -p no:cacheprovider"
    command = ["bash", "-c", f"JAX_PLATFORMS={platforms} {settings} exec {tests}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left)
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    return {"right": done.returncode == 0, **counts, "details": done.stdout[-6000:]}


def repeat_entries(dry: bool) -> list[Entry]:
    """The same bits from the same state; where not, the flag that makes them so is the cause."""
    if dry:
        return [Entry("same bits again", "yes", lambda left: compare_runs(TINY))]
    setting = Setting("mobilenet_v2", 8, 257, mode="repeat")
    flags = {
        "": "no: autotuning, or sums by atomics",
        "--xla_gpu_autotune_level=0": "yes, if autotuning was the cause",
        "--xla_gpu_deterministic_ops=true": "yes",
    }
    return [
        Entry(f"same bits again {flag}", predicted, partial(start, replace(setting, flags=flag)))
        for flag, predicted in flags.items()
    ]


def entries(*, dry: bool) -> list[Entry]:
    predicted = "1e-5, TF32 1e-3, bfloat16 1e-2"
    settings = [TINY] if dry else [Setting(network, size=129) for network in NETWORKS]
    return [
        *[Entry(f"logits, {s.network}", predicted, partial(compare_logits, s)) for s in settings],
        *[
            Entry(f"gradients, {name}", "1e-5", partial(compare_gradients, name, dry))
            for name in ("loss", "BatchNorm", "depthwise, stride 2", "depthwise, rate 2")
        ],
        *repeat_entries(dry),
        *([] if dry else [Entry("pytest -m gpu", "all pass", run_tests)]),
    ]
