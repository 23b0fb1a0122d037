"""Whole steps, each setting in a process of its own: time, memory, and where the time goes.

    python -m benchmarks.accelerator.steps '{"network": "mobilenet_v2", "batch": 16}'

measures one setting and prints its figures as JSON.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks.accelerator.measure import ROOT, Entry, Figures, measure_ceilings

# A training step's passes over memory: each convolution reads and writes three times, and of what
# BatchNorm reads: sums 1, apply 2; backward sums 2, dx 3. So XLA can fuse it; no cache is counted.
CONVOLUTION_PASSES, NORM_PASSES = 3, 8
KERNELS = {  # by their names: the first that fits
    "depthwise": r"c1_k1|depthwise|conv2d_grouped|forward_kernel|gradient_kernel",
    "convolution": r"conv(?!ert)|fprop|dgrad|wgrad|xmma|implicit",
    "product": r"gemm|cublas|cutlass|dot",
    "copy": r"transpose|copy|memcpy|memset|nchw",
    "sums": r"reduce",
    "elementwise": r"fusion|loop|add|select|convert|broadcast",
}


@dataclass(frozen=True)
class Setting:
    """What is measured: mode is train, inference, repeat or ceilings.

    forms: names as in `apply_forms`, or a file of winners; flags: XLA's, for a process of its own.
    """

    network: str = "xception_65"
    batch: int = 32
    size: int = 513
    mode: str = "train"
    remat: str = "none"
    dtype: str = "bfloat16"
    width: float = 1.0
    forms: tuple[str, ...] = ()
    flags: str = ""
    profile: bool = False
    rounds: int = 5
    steps: int = 10

    @property
    def model(self) -> Any:
        from deeplab_jax import ModelConfig

        options: Any = {"backbone": self.network, "remat": self.remat, "dtype": self.dtype}
        options["head"] = "unet" if self.network == "unet" else "deeplabv3plus"
        return ModelConfig(**options, num_classes=21, width=self.width)


def apply_forms(names: tuple[str, ...]) -> ExitStack:
    """The network with other forms of its operations, until the stack is closed."""
    from benchmarks.accelerator.forms import depthwise_by, read_winners
    from deeplab_jax.models import layers
    from deeplab_jax.models.xception import Xception
    from deeplab_jax.ops import resize
    from deeplab_jax.ops.cpu import pointwise_product

    stack = ExitStack()
    for name in names:
        if name == "product":
            target: Any = (layers, "pointwise_conv", pointwise_product)
        elif name == "unrolled":  # as it is for whoever looks inside
            target = (Xception, "is_mutable_collection", lambda self, name: True)
        elif name.endswith("rows"):
            target = (resize, "ROW_COUNTS", (int(name.split()[0]),))
        else:
            file = name.endswith(".json")
            choose = read_winners(Path(name)) if file else lambda call, _, name=name: name
            target = (layers, "depthwise_conv", depthwise_by(choose))
        stack.enter_context(patch.object(*target))
    return stack


def make_run(setting: Setting, model: Any = None) -> tuple[Callable[[], Any], Figures]:
    """What runs a step, compiled, and returns its result; and what is known before it has run.

    model: another ModelConfig than the setting's.
    """
    import jax
    import numpy as np

    from deeplab_jax import Config, DataConfig, TrainConfig
    from deeplab_jax.inference.step import predict_labels
    from deeplab_jax.models import build_model
    from deeplab_jax.models.build import init_variables
    from deeplab_jax.parallel.mesh import bind_mesh, device_mesh, place, place_batch
    from deeplab_jax.plan.estimate import peak
    from deeplab_jax.training.memory import held_bytes
    from deeplab_jax.training.state import fresh_state
    from deeplab_jax.training.step import compile_train_step

    s, mesh = setting, device_mesh(devices=jax.devices()[:1])
    model = model or setting.model
    data, train = DataConfig(crop_size=(s.size, s.size)), TrainConfig(batch_size=s.batch)
    config = Config(model=model, data=data, train=train)
    rng, shape = np.random.default_rng(0), (s.batch, s.size, s.size)
    label = rng.integers(0, 21, shape, dtype=np.uint8)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    batch = place_batch({"image": image, "label": label}, mesh)
    variables = jax.jit(partial(init_variables, model))(jax.random.key(0))
    state: Any = fresh_state(config, variables, mesh)
    jitted: Any = compile_train_step(config, state, mesh, 255)
    if s.mode == "inference":
        predict, state = partial(predict_labels, model=build_model(model)), place(variables, mesh)
        jitted = jax.jit(
            bind_mesh(lambda variables, batch: predict(variables, batch["image"]), mesh)
        )
    start = time.perf_counter()
    with apply_forms(s.forms):
        compiled = jitted.lower(state, batch).compile()
    memory = {"compiled": held_bytes(compiled.memory_analysis()) / 1e9}
    if s.mode == "train":
        memory["estimated"] = peak(config, 1, gpu=jax.default_backend() == "gpu")

    def run() -> Any:
        nonlocal state
        out = compiled(state, batch)
        state = state if s.mode == "inference" else out[0]
        return out

    return run, {"compile s": time.perf_counter() - start, "memory GB": memory}


def measure(setting: Setting) -> Figures:
    """All figures of a setting, on this process's first device."""
    import jax

    if setting.mode == "ceilings":
        return measure_ceilings()
    if setting.mode == "repeat":
        return compare_runs(replace(setting, mode="train"))
    (run, found), times = make_run(setting), []
    for _ in range(setting.rounds + 1):
        start = time.perf_counter()
        for _ in range(setting.steps):
            out = run()
        jax.block_until_ready(out)
        times.append((time.perf_counter() - start) / setting.steps / setting.batch)
    best = statistics.median(times[1:])
    found |= {"ms an image": 1e3 * best, "range": [1e3 * min(times[1:]), 1e3 * max(times[1:])]}
    used = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in used:  # autotuning's buffers are in it
        found["memory GB"]["used"] = used["peak_bytes_in_use"] / 1e9
    flops, bytes_ = count_work(setting)
    found |= {"images/s": 1 / best, "TFLOP/s": flops / best / 1e12}
    found |= {"TB/s of the floor": bytes_ / best / 1e12, "device": jax.devices()[0].device_kind}
    if setting.profile:
        found["ms a step by kernel"], found["details"] = profile(run)
    return found


def compare_runs(setting: Setting) -> Figures:
    """Whether three steps, compiled and run twice from one state, end in the same bits."""
    import jax
    import numpy as np

    states = []
    for _ in range(2):
        run, _ = make_run(setting)
        state, _ = [run() for _ in range(3)][-1]
        states.append(jax.tree.map(np.asarray, state))
    same = jax.tree.leaves_with_path(jax.tree.map(np.array_equal, *states))
    differ = [jax.tree_util.keystr(path) for path, equal in same if not equal]
    return {"right": not differ, "arrays that differ": len(differ), "details": differ[:20]}


def count_work(setting: Setting) -> tuple[float, float]:
    """Operations, and least bytes of main memory by XLA's own fusions, for one image."""
    from benchmarks.accelerator.forms import record_calls
    from deeplab_jax.models.summary import multiply_adds

    calls, wide = record_calls(setting.model, setting.size).items(), 2  # bytes of bfloat16
    adds = multiply_adds(setting.model, (setting.size, setting.size))
    made = sum(n * prod(call.result) for call, n in calls)
    moved = made + sum(n * prod(call.map) for call, n in calls)
    if setting.mode == "inference":
        return 2 * adds, wide * moved
    return 6 * adds, wide * (CONVOLUTION_PASSES * moved + NORM_PASSES * made)


def profile(run: Callable[[], Any], steps: int = 3) -> tuple[Figures, Figures]:
    """Milliseconds a step on the device: by class of kernel, and of the thirty largest kernels."""
    import jax

    with TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready([run() for _ in range(steps)][-1])
        file = next(Path(folder).rglob("*.xplane.pb"))
        trace = jax.profiler.ProfileData.from_file(str(file))
    kernels: Counter[str] = Counter()
    for plane in trace.planes:
        for line in plane.lines if "/device:" in plane.name else ():
            if line.name.startswith(("Stream", "XLA Ops")):  # of GPUs, of TPUs
                for event in line.events:
                    kernels[event.name] += event.duration_ns / 1e6 / steps
    classes: Counter[str] = Counter()
    for name, ms in kernels.items():
        classes[classify(name)] += ms
    return dict(classes.most_common()), dict(kernels.most_common(30))


def classify(kernel: str) -> str:
    """The class of a kernel, by its name."""
    return next((c for c, names in KERNELS.items() if re.search(names, kernel, re.I)), "other")


# --------------------------------------------------------------------------------- the experiments


def start(setting: Setting, left: float) -> Figures:
    """`measure` in a process of its own, which has the whole device and ends with the time.

    Raises:
      RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.accelerator.steps", json.dumps(asdict(setting))]
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {setting.flags}"}
    if setting.mode != "repeat":  # whose parent holds a part of the device
        environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_CLIENT_MEM_FRACTION": "0.92"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=left
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-1500:])
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


TINY = Setting("unet", 1, 33, width=0.06, dtype="float32", rounds=1, steps=1)
AS_IT_IS = ("3.5-5.0 ms", Setting(profile=True))
FLAGS = {
    "deterministic_ops=true": "up to twice the time",
    "enable_command_buffer=": "no graphs: 0.1 ms more",
    "enable_latency_hiding_scheduler=true": "nothing on one card",
    "experimental_enable_conv_fusion=true": "0.1 ms either way",
    "native_emitter_tune_unroll_factor_for_loops=true": "0.1 ms either way",
    "fusion_autotune_top_k_configs=4": "0.1 ms either way",
}
GRAPHS = "--xla_gpu_enable_command_buffer=+CONVOLUTION"
SIX = [
    *[Setting(remat=remat) for remat in ("none", "convolutions", "units")],
    *[Setting("resnet_v1_50"), Setting("resnet_v1_101"), Setting("mobilenet_v2", 64)],
]
# By part and name what is predicted, and of what; the largest gain that is predicted comes first.
EXPERIMENTS: dict[str, dict[str, tuple[str, Setting]]] = {
    "step": {
        "ceilings": ("3.0 TB/s, 800 TFLOP/s", Setting(mode="ceilings")),
        "as it is": AS_IT_IS,
        "depthwise pallas": ("0.4-0.7 ms less", Setting(forms=("pallas",), profile=True)),
        "graphs over convolutions": ("0.1-0.2 ms less", Setting(flags=GRAPHS)),
        "depthwise shifted": ("more than pallas", Setting(forms=("shifted",))),
        "inference": ("a quarter of a step", Setting(mode="inference")),
        "1x1 as products": ("0.15 ms either way", Setting(forms=("product",))),
        "middle flow unrolled": ("0.1 ms less", Setting(forms=("unrolled",))),
        "loss in one block": ("0.05 ms less", Setting(forms=("513 rows",))),
        "mobilenet_v2": ("not predicted", Setting("mobilenet_v2")),
    },
    "batches": {
        f"batch {n}": ("best from 24 to 48, within 8 %", Setting(batch=n))
        for n in (48, 16, 24, 64, 80)
    },
    "memory": {f"{s.network} {s.remat}": ("used within 15 % of both", s) for s in SIX},
    "flags": {
        "as it is": AS_IT_IS,
        **{flag: (text, Setting(flags=f"--xla_gpu_{flag}")) for flag, text in FLAGS.items()},
    },
}


def entries(part: str, winners: str, *, dry: bool) -> list[Entry]:
    """A part's experiments, by the forms in the file `winners` third; dry: TINY, here."""
    if dry:
        return [Entry("dry", "", lambda left: measure(replace(TINY, profile=True)))]
    found = [Entry(name, text, partial(start, s)) for name, (text, s) in EXPERIMENTS[part].items()]
    if winners:
        setting = Setting(forms=(winners,))
        found.insert(2, Entry("depthwise by shape", "-0.4 to -0.7 ms", partial(start, setting)))
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Setting(**json.loads(sys.argv[1])))))
