"""Compile the training step for TPUs on a machine that has none, and print what XLA makes of it.

    pip install libtpu         # the compiler; `pip install "jax[tpu]"` takes the one of your jax
    python -m benchmarks.tpu_compile --topology v5e:2x2 --config configs/voc.py --batch-per-chip 4

prints for each chip: the memory of parameters and optimiser, arguments, outputs and temporaries,
and their sum beside what the chip has; bytes accessed, in all and by part of the network
(`benchmarks/traffic.py`); flops, as XLA counts them; the collectives, with the bytes of their
results; and how long this machine's CPU took to compile, which is minutes for Xception-65. Nothing
is allocated and nothing runs on a TPU, so no speed follows.

The program is that of `compile_train_step`: data parallelism over all chips. GB is 10^9 bytes. XLA
counts a loop's body once, and so does the list of collectives: --unrolled writes the network's
loops out. --hlo FILE keeps the compiled program's text for the questions that the table leaves
open.

Exit code 1: it does not fit the chip. 2: wrong arguments, or no libtpu.
"""

import argparse
import dataclasses
import importlib.util
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.traffic import Accessed, traffic

if TYPE_CHECKING:  # at run time only after `set_environment`, which JAX reads when it is imported
    from deeplab_jax.config import Config
    from deeplab_jax.state import TrainState

# What libtpu would otherwise ask of the machine that it takes for a TPU host.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # serves for every topology
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or a second compile at the same time ends at a lock file
}
CHIP_GB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # cloud.google.com/tpu/docs/v4, v5e, ...
GB = 1e9

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
INSTRUCTION = re.compile(
    rf"^\s*(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ({'|'.join(COLLECTIVES)})(?:-done)?\(", re.MULTILINE
)
SHAPE = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Traffic(NamedTuple):
    """The collectives of one kind: how many, and their results' bytes on a chip by element type."""

    operations: int
    bytes: Counter[str]


def collectives(hlo: str) -> dict[str, Traffic]:
    """Every kind of collective in a compiled program's text.

    Of an asynchronous pair the `-done` counts: the result of `-start` repeats the operands.
    """
    found: dict[str, Traffic] = {}
    for result, kind in INSTRUCTION.findall(hlo):
        count, sizes = found.get(kind, Traffic(0, Counter()))
        found[kind] = Traffic(count + 1, sizes + result_bytes(result))
    return found


def result_bytes(result: str) -> Counter[str]:
    """Bytes by element type of an HLO type, such as `(f32[8,128]{1,0:T(8,128)}, bf16[728]{0})`."""
    sizes: Counter[str] = Counter()
    for name, bits, shape in SHAPE.findall(result):
        elements = math.prod(int(n) for n in shape.split(",") if n)
        sizes[name] += math.ceil(elements * int(bits or 8) / 8)  # pred: a byte
    return sizes


def tree_gb(tree: Any) -> float:
    """Size of a tree of shapes, without the padding of a TPU's layouts."""
    import jax

    total: int = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
    return total / GB


def state_shapes(config: "Config") -> "TrainState":
    """The training state as shapes: nothing is allocated."""
    import jax

    from deeplab_jax.models.build import abstract_variables
    from deeplab_jax.state import init_state
    from deeplab_jax.step import make_optimizer

    variables = abstract_variables(config.model)
    optimizer, _ = make_optimizer(config, variables["params"])
    state: TrainState = jax.eval_shape(partial(init_state, optimizer=optimizer), variables)
    return state


def batch_shapes(config: "Config") -> dict[str, Any]:
    """A global batch as shapes."""
    import jax
    import jax.numpy as jnp

    shape = (config.train.batch_size, *config.data.crop_size)
    return {
        "image": jax.ShapeDtypeStruct((*shape, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct(shape, jnp.uint8),
    }


def lower(config: "Config", devices: list[Any]) -> Any:
    """The project's own training step, lowered for the devices of a topology."""
    from deeplab_jax.sharding import data_mesh
    from deeplab_jax.step import compile_train_step

    state = state_shapes(config)
    step: Any = compile_train_step(
        config, state.params, data_mesh(devices), config.data.ignore_label
    )
    return step.lower(state, batch_shapes(config))


def memory_rows(config: "Config", compiled: Any, chip_gb: float) -> list[str]:
    """Where the chip's memory goes."""
    state, memory = state_shapes(config), compiled.memory_analysis()
    arguments, outputs = memory.argument_size_in_bytes / GB, memory.output_size_in_bytes / GB
    donated, temporaries = memory.alias_size_in_bytes / GB, memory.temp_size_in_bytes / GB
    program = memory.generated_code_size_in_bytes / GB
    peak = arguments + outputs - donated + temporaries + program
    return [
        row("parameters", tree_gb(state.params)),
        row("optimiser", tree_gb(state.opt_state)),
        row("BatchNorm's averages", tree_gb(state.batch_stats)),
        row("arguments", arguments, "the three above and the batch, in the chip's layouts"),
        row("outputs", outputs, f"of which {donated:.3f} in the place of donated arguments"),
        row("temporaries", temporaries),
        row("program", program),
        row("peak estimate", peak, f"{peak / chip_gb:.0%} of the chip's {chip_gb} GB"),
    ]


def cost_rows(lowered: Any, compiled: Any, found: Accessed) -> list[str]:
    """Arithmetic and memory traffic of one step."""
    cost = compiled.cost_analysis()
    before, after = lowered.as_text().count("stablehlo.while"), compiled.as_text().count(" while(")
    return [
        row("bytes accessed", found.bytes.total(), "by XLA's rules, loops as often as they run"),
        row("  of main memory", found.hbm.total(), "without what stays in the chip's fast memory"),
        row("  loops once", cost["bytes accessed"] / GB, "XLA's own sum"),
        f"  {'flops':<22}{cost['flops'] / 1e12:>9.3f} T",
        f"  {'loops':<22}{before:>9}    in the step as traced; {after} in the compiled program",
    ]


def part_rows(found: Accessed) -> list[str]:
    """Bytes accessed, and those of main memory, by part of the network."""
    rows = found.bytes.most_common()
    return [f"  {part:<30}{gb:>9.2f}{found.hbm[part]:>9.2f}" for part, gb in rows]


def collective_rows(hlo: str) -> list[str]:
    """One line a kind of collective."""
    found = collectives(hlo)
    lines = []
    for kind in COLLECTIVES:
        count, sizes = found.get(kind, Traffic(0, Counter()))
        types = ", ".join(f"{name} {size / GB:.4f}" for name, size in sorted(sizes.items()))
        lines.append(f"  {kind:<22}{count:>9}{sizes.total() / GB:>10.4f} GB  {types}".rstrip())
    return lines


def row(name: str, gb: float, note: str = "") -> str:
    return f"  {name:<22}{gb:>9.3f} GB  {note}".rstrip()


def heading(config: "Config", topology: str, devices: list[Any], compiler: str) -> str:
    model, (height, width) = config.model, config.data.crop_size
    return (
        f"{model.backbone} {model.head}, output stride {model.output_stride}, {height}x{width},"
        f" {model.dtype}, remat {model.remat},"
        f" {config.train.batch_size // len(devices)} pictures a chip\n"
        f"{topology}: {len(devices)} x {devices[0].device_kind}; jax {version('jax')},"
        f" {compiler} {version(compiler)}; compiled only, nothing was run"
    )


def configure(args: argparse.Namespace, devices: int) -> "Config":
    """The configuration file with the command line's changes."""
    from deeplab_jax.config import load_config_file

    base = load_config_file(args.config)
    crop = (args.crop, args.crop) if args.crop else base.data.crop_size
    backbone = args.backbone or base.model.backbone
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            base.model, backbone=backbone, dtype=args.dtype, remat=args.remat
        ),
        data=dataclasses.replace(base.data, crop_size=crop),
        train=dataclasses.replace(base.train, batch_size=args.batch_per_chip * devices),
    )


def chips(topology: str) -> list[Any]:
    """The devices of a topology that need not be here; a UserError if there is no such topology."""
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    from deeplab_jax.errors import UserError

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except JaxRuntimeError as error:
        raise UserError(f"--topology {topology}: {error}") from error


def unroll_scans() -> None:
    """Let the network's scans be written out: XLA counts a loop's body once."""
    import jax

    from deeplab_jax.models import xception

    def unrolled(body: Any, init: Any, xs: Any, unroll: bool) -> Any:
        return jax.lax.scan(body, init, xs, unroll=True)

    xception.scan = unrolled  # type: ignore[assignment]


def timed_compile(lowered: Any) -> tuple[Any, float]:
    """The compiled program and the seconds that this machine's CPU took."""
    start = time.monotonic()
    return lowered.compile(), time.monotonic() - start


def report(args: argparse.Namespace) -> None:
    """Compile and print the table."""
    if args.unrolled:
        unroll_scans()
    devices = chips(args.topology)
    config = configure(args, len(devices))
    print(heading(config, args.topology, devices, "libtpu"), flush=True)
    lowered = lower(config, devices)
    before = time.process_time()
    compiled, seconds = timed_compile(lowered)
    used = time.process_time() - before
    hlo = compiled.as_text()
    if args.hlo:
        Path(args.hlo).write_text(hlo)
    chip_gb, found = CHIP_GB[args.topology.partition(":")[0]], traffic(hlo)
    print("\nmemory of each chip", *memory_rows(config, compiled, chip_gb), sep="\n")
    print("\none step on each chip", *cost_rows(lowered, compiled, found), sep="\n")
    print("\nGB accessed, of main memory", *part_rows(found), sep="\n")
    print("\ncollectives: count, results on each chip", *collective_rows(hlo), sep="\n")
    print(f"\ncompiled in {seconds:.0f} s on this machine, {used:.0f} s of one of its cores")


def add_step_arguments(parser: argparse.ArgumentParser, batch_per_chip: int) -> None:
    """What step to compile: arguments for a chip of any kind."""
    add = parser.add_argument
    add("--config", default="configs/voc.py", help="the experiment (%(default)s)")
    add("--backbone", help="model.backbone instead of the experiment's (voc: xception_65)")
    add(
        "--batch-per-chip",
        type=int,
        default=batch_per_chip,
        help="pictures on each chip (%(default)s)",
    )
    add("--crop", type=int, help="side of a square crop instead of the experiment's (voc: 513)")
    add("--dtype", default="bfloat16", help="of the network's arithmetic (%(default)s)")
    add(
        "--remat",
        default="none",
        help="model.remat: none, middle_flow, convolutions or units (%(default)s)",
    )
    add("--hlo", metavar="FILE", help="write the compiled program's text there")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tpu_compile",
        description=(__doc__ or "").partition("\n")[0],
    )
    generations = ", ".join(CHIP_GB)
    parser.add_argument(
        "--topology", default="v5e:2x2", help=f"GENERATION:LAYOUT, of {generations} (%(default)s)"
    )
    add_step_arguments(parser, batch_per_chip=4)
    parser.add_argument(
        "--unrolled", action="store_true", help="run scanned units one by one, to count each"
    )
    args = parser.parse_args(arguments)
    if args.topology.partition(":")[0] not in CHIP_GB:
        parser.error(f"--topology {args.topology}: the generation is one of {generations}")
    return args


def main() -> None:
    args = parse_arguments()
    if importlib.util.find_spec("libtpu") is None:
        sys.exit(failure("there is no TPU compiler here: pip install libtpu", 2))
    os.environ.update(ENVIRONMENT)
    run(report, args)


def run(report: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """A report whose foreseeable failures end in a message and an exit code."""
    from jax.errors import JaxRuntimeError

    from deeplab_jax.errors import UserError

    try:
        report(args)
    except UserError as error:
        sys.exit(failure(str(error), 2))
    except JaxRuntimeError as error:
        message = str(error).strip()
        if message.startswith("RESOURCE_EXHAUSTED"):
            sys.exit(failure(f"does not fit the chip:\n{message}", 1))
        raise


def failure(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
