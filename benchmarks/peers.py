"""This network's speed on a CPU beside its peers', as ratios within one interleaved run.

    python -m benchmarks.peers --network xception_65 --mode inference
    python -m benchmarks.peers --network resnet_v1_50 --mode train --rounds 7

Each contender is a process of its own; a peer's environment is made under --environments on first
use, and one that cannot be made is skipped and named. They take turns, A B C A B C ..., so that
what else the machine does falls on all of them alike; the table has the median, the spread, and the
ratio to ours. All at 512 x 512 and output stride 16 with random weights: `smp` is
segmentation_models.pytorch in channels_last; `lax` our own network with lax.conv throughout, as
flax.linen.Conv calls it; `products` the time that the network's multiply-adds take as large float32
matrix products, which is the machine's limit.
"""

import argparse
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

SIZE, CLASSES = 512, 21
PEERS = {"smp": ("torch", "segmentation_models_pytorch", "timm")}
CONTENDERS = ("ours", "lax", "smp", "products")
ENCODERS = {"xception_65": "tu-xception65", "resnet_v1_50": "resnet50"}


# ------------------------------------------------------------------------------ what is timed


def ours(network: str, mode: str, batch: int, *, lax: bool = False) -> Callable[[], None]:
    """Our network; `lax`: its convolutions replaced by those that flax.linen.Conv would call."""
    import jax
    import numpy as np

    from deeplab_jax import Config, DataConfig, ModelConfig, TrainConfig
    from deeplab_jax.models import build_model, layers
    from deeplab_jax.models.build import init_variables
    from deeplab_jax.sharding import data_mesh, place_batch, replicated
    from deeplab_jax.state import init_state
    from deeplab_jax.step import compile_train_step, make_optimizer, predict_labels

    if lax:
        layers.depthwise_conv = lax_depthwise
        layers.pointwise_conv = lax_pointwise
    config = Config(
        model=ModelConfig(backbone=network, num_classes=CLASSES),  # type: ignore[arg-type]
        data=DataConfig(crop_size=(SIZE, SIZE)),
        train=TrainConfig(batch_size=batch),
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)
    variables = init_variables(config.model, jax.random.key(0))
    if mode == "inference":
        model = build_model(config.model)
        predict = jax.jit(lambda v, x: predict_labels(v, x, model=model))
        return lambda: jax.block_until_ready(predict(variables, image))
    mesh = data_mesh()
    optimizer, _ = make_optimizer(config, variables["params"])
    state = jax.device_put(init_state(variables, optimizer), replicated(mesh))
    step = compile_train_step(config, state.params, mesh, 255)
    label = rng.integers(0, CLASSES, (batch, SIZE, SIZE), dtype=np.uint8)
    arrays = place_batch({"image": image, "label": label}, mesh)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, arrays)
        jax.block_until_ready((state, metrics))

    return run


def lax_depthwise(x, kernel, stride, rate, pads):  # type: ignore[no-untyped-def]
    from jax import lax

    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(rate, rate),
        feature_group_count=x.shape[-1],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def lax_pointwise(x, kernel, stride):  # type: ignore[no-untyped-def]
    from jax import lax

    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, "VALID", dimension_numbers=numbers)


def smp(network: str, mode: str, batch: int) -> Callable[[], None]:
    """segmentation_models.pytorch's DeepLabV3Plus, SGD, channels_last."""
    import segmentation_models_pytorch  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]

    model = segmentation_models_pytorch.DeepLabV3Plus(
        ENCODERS[network], encoder_weights=None, encoder_output_stride=16, classes=CLASSES
    ).to(memory_format=torch.channels_last)
    image = torch.rand(batch, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    if mode == "inference":
        model.eval()

        def predict() -> None:
            with torch.inference_mode():
                model(image).argmax(1)

        return predict
    label = torch.randint(0, CLASSES, (batch, SIZE, SIZE))
    optimizer = torch.optim.SGD(model.parameters(), 0.007, momentum=0.9, weight_decay=4e-5)
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(image), label, ignore_index=255).backward()
        optimizer.step()

    return step


def products(network: str, mode: str, batch: int) -> Callable[[], None]:
    """As many multiply-adds as the network has (training: three times those), in large products."""
    import jax
    import jax.numpy as jnp

    from deeplab_jax import ModelConfig
    from deeplab_jax.models.summary import multiply_adds

    config = ModelConfig(backbone=network, num_classes=CLASSES)  # type: ignore[arg-type]
    total = multiply_adds(config, (SIZE, SIZE)) * batch * (3 if mode == "train" else 1)
    n = 2048
    count = max(1, round(total / n**3))
    a = jnp.ones((n, n))
    multiply = jax.jit(lambda a: jax.lax.fori_loop(0, count, lambda _, x: (x @ a) * (1 / n), a))
    return lambda: jax.block_until_ready(multiply(a))


# --------------------------------------------------------------------------------- taking turns


def worker(name: str, network: str, mode: str, batch: int) -> None:
    """Run once for every line of input and answer with the seconds that it took."""
    make = {"ours": ours, "smp": smp, "products": products}
    if name == "lax":
        run = ours(network, mode, batch, lax=True)
    else:
        run = make[name](network, mode, batch)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def python_of(name: str, environments: Path) -> str | None:
    """The interpreter for a contender; None where its environment cannot be made."""
    if name not in PEERS:
        return sys.executable
    folder = environments / name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", *PEERS[name]]
        if subprocess.run(command).returncode:
            return None
    return str(python)


def start(name: str, args: argparse.Namespace) -> subprocess.Popen[str] | None:
    """A contender's process, warmed up; None, with a message, where it does not run."""
    python = python_of(name, args.environments)
    command = [python or "", __file__, "--worker", name, "--network", args.network]
    command += ["--mode", args.mode, "--batch", str(args.batch)]
    process = python and subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if not process or not process.stdout or process.stdout.readline() != "ready\n":
        print(f"{name}: skipped, as it cannot be installed or run here", file=sys.stderr)
        return None
    return process


def ask(process: subprocess.Popen[str]) -> float:
    """One timed run of a contender."""
    assert process.stdin and process.stdout
    process.stdin.write("run\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--network", default="xception_65", choices=list(ENCODERS))
    add("--mode", default="inference", choices=("inference", "train"))
    add("--batch", type=int, default=2)
    add("--rounds", type=int, default=5)
    add("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    add("--environments", type=Path, default=Path("runs/peers"), help="for the peers' own packages")
    add("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.network, args.mode, args.batch)
        return
    processes = {name: start(name, args) for name in args.contenders}
    running = {name: process for name, process in processes.items() if process}
    times: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(args.rounds):
        for name, process in running.items():
            times[name].append(ask(process))
    print(f"{args.network}, {args.mode}, {args.batch} x {SIZE} x {SIZE}, {args.rounds} rounds\n")
    print("| | median s | from | to | of ours |\n|---|---|---|---|---|")
    base = statistics.median(times["ours"])
    for name, t in times.items():
        median = statistics.median(t)
        print(f"| {name} | {median:.2f} | {min(t):.2f} | {max(t):.2f} | {median / base:.2f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if "--worker" in sys.argv and "smp" not in sys.argv:
        from deeplab_jax.cpu import restart_with_huge_pages

        restart_with_huge_pages()
    main()
