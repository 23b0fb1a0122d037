"""Compile the training step for NVIDIA GPUs on a machine that has none, and print what XLA makes.

    pip install "jax[cuda12]"     # the compiler, 5.5 GB: in an environment of its own
    python -m benchmarks.gpu_compile --gpu h100 --config configs/voc.py --batch-per-chip 16

prints for each GPU: its memory, as `benchmarks.tpu_compile` does for a TPU; the kernels of a step,
which are fusions and custom calls (cuDNN, cuBLAS), those of a loop's body times its trips; the
collectives; and how long this machine's CPU took to compile. No driver is needed, nothing is
allocated and nothing runs, so no speed follows. XLA cannot time its choices without the GPU:
autotuning is off, every other flag at its default, so that on a GPU some kernels will be others.

Exit code 2: wrong arguments, or no CUDA compiler.
"""

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tpu_compile import (
    add_step_arguments,
    collective_rows,
    configure,
    failure,
    heading,
    lower,
    memory_rows,
    run,
    timed_compile,
)

PLUGIN = "jax-cuda12-plugin"
GPU_GB = 85  # of either GPU, 10^9 bytes

# Figures of the two GPUs as XLA publishes them, in its GpuTargetConfigProto:
# openxla/xla, xla/backends/gpu/target_config/specs/{h100_sxm,a100_sxm_80}.txtpb; cuDNN 9.8.
COMMON = """
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 shared_memory_per_block: 49152
"""
GPUS = {
    "h100": """
        cuda_compute_capability { major: 9 minor: 0 } core_count: 132 fpus_per_core: 128
        clock_rate_ghz: 1.98 memory_bandwidth: 3352320000000 device_memory_size: 84942979072
        l2_cache_size: 52428800 shared_memory_per_core: 233472
        shared_memory_per_block_optin: 232448""",
    "a100": """
        cuda_compute_capability { major: 8 minor: 0 } core_count: 108 fpus_per_core: 64
        clock_rate_ghz: 1.41 memory_bandwidth: 2039040000000 device_memory_size: 85100068864
        l2_cache_size: 41943040 shared_memory_per_core: 167936
        shared_memory_per_block_optin: 166912""",
}
NAMES = {"h100": "NVIDIA H100 80GB HBM3", "a100": "NVIDIA A100-SXM4-80GB"}


def target_config(gpu: str) -> str:
    """The GpuTargetConfigProto of a GPU, as text."""
    return (
        f"gpu_device_info {{ {COMMON} {GPUS[gpu]} }}"
        f' device_description_str: "{NAMES[gpu]}"'
        ' platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }'
    )


COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
KERNEL = re.compile(r" (?:fusion|custom-call)(?:-start)?\(")
ALL_REDUCE = re.compile(r" all-reduce(?:-start)?\(")
LOOP = re.compile(r" while\(.*?condition=%?([\w.-]+), body=%?([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CALL = re.compile(r" (?:call|async-start)\(.*?(?:to_apply|calls)=%?([\w.-]+)")


def executions(hlo: str, operation: re.Pattern[str]) -> int:
    """How many operations of a kind a compiled program runs: a loop's body at each of its trips.

    What lies inside a fusion is not counted; a loop whose trips XLA does not know counts once.
    """
    bodies = {name: body for _, name, body in COMPUTATION.findall(hlo)}
    entry = next(name for is_entry, name, _ in COMPUTATION.findall(hlo) if is_entry)

    def count(name: str) -> int:
        total = 0
        for line in bodies[name].splitlines():
            total += bool(operation.search(line))
            if loop := LOOP.search(line):
                trips = TRIPS.search(line)
                total += sum(map(count, loop.groups())) * int(trips[1] if trips else 1)
            elif call := CALL.search(line):
                total += count(call[1])
        return total

    return count(entry)


def devices_of(gpu: str, count: int) -> list[Any]:
    """GPUs of one host that need not be here."""
    from jax.experimental import topologies

    options = {"target_config": target_config(gpu), "topology": f"1x1x{count}"}
    return topologies.get_topology_desc(topology_name="", platform="cuda", **options).devices


def report(args: argparse.Namespace) -> None:
    """Compile and print the table."""
    devices = devices_of(args.gpu, args.gpus)
    config = configure(args, len(devices))
    print(heading(config, args.gpu, devices, PLUGIN), flush=True)
    compiled, seconds = timed_compile(lower(config, devices))
    hlo = compiled.as_text()
    if args.hlo:
        Path(args.hlo).write_text(hlo)
    print("\nmemory of each GPU", *memory_rows(config, compiled, GPU_GB), sep="\n")
    print("\none step on each GPU")
    print(f"  {'kernels':<22}{executions(hlo, KERNEL):>9}")
    print(f"  {'all-reduces':<22}{executions(hlo, ALL_REDUCE):>9}")
    print("\ncollectives: count, results on each GPU", *collective_rows(hlo), sep="\n")
    print(f"\ncompiled in {seconds:.0f} s on this machine's CPU")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_compile",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--gpu", choices=GPUS, default="h100", help="(%(default)s)")
    parser.add_argument("--gpus", type=int, default=4, help="of one host (%(default)s)")
    add_step_arguments(parser, batch_per_chip=16)
    return parser.parse_args(arguments)


def main() -> None:
    args = parse_arguments()
    if importlib.util.find_spec(PLUGIN.replace("-", "_")) is None:
        message = 'there is no CUDA compiler here: pip install "jax[cuda12]"'
        sys.exit(failure(f"{message} (5.5 GB: in an environment of its own)", 2))
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    run(report, args)


if __name__ == "__main__":
    main()
