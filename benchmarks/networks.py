"""Every network of the lecture on *scenes*, each for the same time on this machine.

    python -m benchmarks.networks --minutes 5

trains them one after the other (run again, it trains only what is missing) and prints a table:
parameters, multiply-adds at the crop's size, steps done in the time, mIoU, and apart from it the
classes that ask for something in particular: `boat` and `car` for context, being the same sprite;
`person` and `buoy`, small and thin, for sharp boundaries. A step is timed before, so that the
learning rate ends where the time does. Nothing else should run meanwhile.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax

from deeplab_jax import Config, ModelConfig
from deeplab_jax.config import load_config_file
from deeplab_jax.data.batches import train_batches
from deeplab_jax.models.summary import multiply_adds, parameters
from deeplab_jax.parallel.mesh import device_mesh, place_batch
from deeplab_jax.process import restart_with_huge_pages
from deeplab_jax.training.loop import fit, open_sources
from deeplab_jax.training.start import initial_variables
from deeplab_jax.training.state import fresh_state
from deeplab_jax.training.step import compile_train_step

CONTEXT, BOUNDARIES = ("boat", "car"), ("person", "buoy")


def networks(base: ModelConfig) -> dict[str, ModelConfig]:
    """The networks by name, on the same narrow Xception where they have no encoder of their own."""
    change = dataclasses.replace
    return {
        "DeepLab v3+": base,
        "DeepLab v3": change(base, head="deeplabv3"),
        "PSPNet": change(base, head="pspnet"),
        "U-Net on Xception": change(base, head="unet"),
        "U-Net": change(base, head="unet", backbone="unet"),
    }


def seconds_per_step(config: Config) -> float:
    """Median time of a training step, compiled."""
    mesh = device_mesh()
    config, _, source, _ = open_sources(config, mesh)
    state = fresh_state(config, initial_variables(config, source), mesh)
    step = compile_train_step(config, state, mesh, source.ignore_label)
    batches = train_batches(source, config)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        state, metrics = step(state, place_batch(next(batches), mesh))
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[len(times) // 2]


def train(config: Config, minutes: float) -> None:
    """One network for the given time, or nothing where that is done already."""
    if (Path(config.machine.workdir) / "evaluation" / "evaluation.json").exists():
        return
    steps = int(60 * minutes / seconds_per_step(config))
    train = dataclasses.replace(config.train, steps=steps)
    machine = dataclasses.replace(config.machine, eval_every=steps, checkpoint_every=steps)
    fit(dataclasses.replace(config, train=train, machine=machine))


def row(name: str, config: Config) -> str:
    """A line of the table."""
    folder = Path(config.machine.workdir)
    result = json.loads((folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    steps = json.loads((folder / "config.json").read_text(encoding="utf-8"))["train"]["steps"]

    def mean(classes: tuple[str, ...]) -> float:
        return sum(result["iou"][c] for c in classes) / len(classes)

    return (
        f"| {name} | {parameters(config.model) / 1e6:.2f} M"
        f" | {multiply_adds(config.model, config.data.crop) / 1e9:.2f} G | {steps}"
        f" | {result['eval/miou']:.3f} | {mean(CONTEXT):.3f} | {mean(BOUNDARIES):.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="for each network [5]")
    parser.add_argument("--out", default="runs/networks", help="folder of the runs")
    args = parser.parse_args()
    base = load_config_file("scenes")
    lines = []
    for name, model in networks(base.model).items():
        folder = name.lower().replace(" ", "_").replace("+", "plus")
        machine = dataclasses.replace(base.machine, workdir=f"{args.out}/{folder}")
        config = dataclasses.replace(base, model=model, machine=machine)
        train(config, args.minutes)
        lines.append(row(name, config))
    print(
        "\n| network | parameters | multiply-adds | steps | mIoU |"
        f" {' and '.join(CONTEXT)} | {' and '.join(BOUNDARIES)} |\n|---|---|---|---|---|---|---|"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
