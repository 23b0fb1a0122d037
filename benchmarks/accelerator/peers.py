"""PyTorch beside ours on one card: segmentation_models.pytorch's DeepLabV3Plus, 512x512.

Each of PyTorch's ways runs alone; the best and ours then take turns. Both compute in bfloat16 with
float32 parameters, sums, loss and SGD, on one random batch that lies on the card.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from benchmarks.accelerator.measure import Entry, Figures
from benchmarks.accelerator.steps import Setting, make_run
from benchmarks.turns import Contender, serve, take_turns

ENCODERS = {  # timm's, and torchvision's two
    "xception_65": "tu-xception65",
    "resnet_v1_50": "resnet50",
    "resnet_v1_101": "resnet101",
}
WAYS = {"eager": None, "compile": "default", "graphs": "reduce-overhead"}  # of torch.compile
WARM_UP = 3  # steps before each timed round: others ran meanwhile
Running = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[], int]]  # step, wait, bytes


def make_ours(setting: Setting) -> Running:
    import jax

    run, _ = make_run(setting)
    used = lambda: (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)  # noqa: E731
    return run, jax.block_until_ready, used


def make_torch(setting: Setting, way: str) -> Running:
    import segmentation_models_pytorch as smp  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]

    cuda, training = torch.cuda.is_available(), setting.mode == "train"
    device, encoder = "cuda" if cuda else "cpu", ENCODERS[setting.network]
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    model = smp.DeepLabV3Plus(encoder, encoder_weights=None, encoder_output_stride=16, classes=21)
    model = model.to(device, memory_format=torch.channels_last).train(training)
    shape = (setting.batch, setting.size, setting.size)
    image = torch.rand(shape[0], 3, *shape[1:], device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, 21, shape, device=device)
    options = {"momentum": 0.9, "weight_decay": 4e-5, "fused": cuda}
    optimizer = torch.optim.SGD(model.parameters(), 0.007, **options)

    def forward() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=setting.dtype == "bfloat16"):
            y = model(image)
            if not training:
                return y.argmax(1)
            return torch.nn.functional.cross_entropy(y.float(), label, ignore_index=255)

    run = torch.compile(forward, mode=WAYS[way]) if WAYS[way] else forward

    def step() -> None:
        if not training:
            with torch.inference_mode():
                run()
            return
        optimizer.zero_grad(set_to_none=True)
        run().backward()
        optimizer.step()

    wait = (lambda _: torch.cuda.synchronize()) if cuda else (lambda _: None)
    return step, wait, torch.cuda.max_memory_allocated if cuda else lambda: 0


def work(setting: Setting, way: str) -> None:
    """A contender's process: milliseconds an image, for each line that it is sent."""
    running: list[Running] = []

    def make() -> Callable[[], float]:
        running.append(make_ours(setting) if way == "ours" else make_torch(setting, way))
        return measure

    def measure() -> float:
        run, wait, _ = running[0]
        for steps in (WARM_UP, setting.steps):
            start = time.perf_counter()
            for _ in range(steps):
                out = run()
            wait(out)
        return 1e3 * (time.perf_counter() - start) / setting.steps / setting.batch

    packages = ("jax",) if way == "ours" else ("torch", "segmentation_models_pytorch")
    serve(make, packages, lambda: f"{running[0][2]() / 1e9:.1f} GB")


def compare(setting: Setting, rounds: int, left: float) -> Figures:
    """Each way of PyTorch alone for a half of the time at most, then the best and ours in turns."""

    def begin(way: str) -> Contender:
        arguments = [json.dumps(asdict(setting)), way]
        return Contender(sys.executable, "benchmarks.accelerator.peers", arguments)

    end, alone, about = time.monotonic() + left / 2, {}, {}
    for way in WAYS:
        if time.monotonic() > end:
            break
        try:
            contender = begin(way)
        except RuntimeError:  # it has said why
            about[way] = "does not run"
            continue
        alone[way] = statistics.median(contender.measure() for _ in range(3))
        about[way] = contender.about
        contender.close()
    best = min(alone, key=lambda way: alone[way])
    contenders = {way: begin(way) for way in ("ours", best)}
    found = take_turns(contenders, rounds)
    for way, contender in contenders.items():
        about[way] = contender.about
        contender.close()
    ms = {way: statistics.median(each) for way, each in found.items()}
    ratio, rate = ms[best] / ms["ours"], 1e3 / ms["ours"]
    figures = {"ratio": ratio, "ours, images/s": rate, "ms an image": ms, "alone": alone}
    return {**figures, "about": about, "details": found}


def entries(*, dry: bool) -> list[Entry]:
    if dry:
        tiny = Setting("resnet_v1_50", 2, 64, dtype="float32", steps=1)
        return [Entry("resnet_v1_50 train", "dry", partial(compare, tiny, 1))]
    goals = {
        ("xception_65", "train"): "PyTorch 4.5-8 ms; ratio 1.5",
        ("xception_65", "inference"): "ratio 1.3",
        **{(n, m): "ratio 1.1" for n in list(ENCODERS)[1:] for m in ("train", "inference")},
    }
    setting = Setting(size=512)
    return [
        Entry(f"{n} {m}", goal, partial(compare, replace(setting, network=n, mode=m), 5))
        for (n, m), goal in goals.items()
    ]


if __name__ == "__main__":
    work(Setting(**json.loads(sys.argv[1])), sys.argv[2])
