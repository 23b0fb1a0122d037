"""The training step compiled for devices that are not here, by XLA's own compilers for them.

libtpu compiles for TPUs and JAX's CUDA plugin for GPUs on a machine that has neither, nor a driver.
Nothing is allocated and nothing runs, so no time follows.
"""

import importlib.util
import os
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.errors import JaxRuntimeError
from jax.experimental import topologies

from deeplab_jax.config import Config
from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.errors import UserError
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.plan.chips import CHIPS, GB, Chip
from deeplab_jax.training.memory import held_bytes, lower_step

# What libtpu would otherwise ask of the machine that it takes for a TPU host.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # serves for every topology
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or a second compile at the same time ends at a lock file
}
# XLA cannot time its choices without the GPU: some kernels there will be others.
GPU_FLAGS = "--xla_gpu_autotune_level=0"


class Topology(NamedTuple):
    """So many chips of a kind, as `v5e:4x4` (TPUs, by their layout) or `h100:8` (GPUs) says."""

    text: str
    chip: Chip
    layout: tuple[int, ...]

    @property
    def size(self) -> int:
        """Chips in all."""
        return prod(self.layout)

    @property
    def is_gpu(self) -> bool:
        return self.chip.gpu != ""


class Compiler(NamedTuple):
    """What compiles for a kind of chip: its module, its package, and how to install it."""

    module: str
    package: str
    install: str


TPU_COMPILER = Compiler("libtpu", "libtpu", "pip install libtpu")
# Of CUDA 13's and 12's plugins the one that is here.
CUDA = "cuda13" if importlib.util.find_spec("jax_cuda13_plugin") else "cuda12"
GPU_COMPILER = Compiler(
    f"jax_{CUDA}_plugin",
    f"jax-{CUDA}-plugin",
    'pip install "jax[cuda12]" (5.5 GB: in an environment of its own)',
)


class Compiled(NamedTuple):
    """A compiled step: GB on each chip as the compiler says, the program as text, hosts."""

    arguments: float
    temporaries: float
    program: float
    peak: float
    """All that is held at once, at most."""
    hlo: str
    hosts: int


class DoesNotFit(UserError):
    """The step needs more memory than the chip has."""


def parse_topology(text: str) -> Topology:
    """`v5e:4x4` or `h100:8`.

    Raises:
      UserError: the kind is unknown, or the rest is no layout.
    """
    kind, _, layout = text.partition(":")
    numbers = layout.split("x")
    sizes = all(n.isdecimal() and 0 < int(n) <= 65536 for n in numbers)
    if kind not in CHIPS or not sizes or (CHIPS[kind].gpu and len(numbers) > 1):
        raise UserError(
            f"--topology={text}: expected KIND:LAYOUT, such as v5e:4x4, or the number of GPUs, such"
            f" as h100:8, with KIND one of {', '.join(CHIPS)}"
        )
    return Topology(text, CHIPS[kind], tuple(map(int, numbers)))


def compiler_of(topology: Topology) -> Compiler:
    return GPU_COMPILER if topology.is_gpu else TPU_COMPILER


def installed(compiler: Compiler) -> bool:
    """Whether this machine can compile with it."""
    return importlib.util.find_spec(compiler.module) is not None


def name_versions(compiler: Compiler) -> str:
    return f"jax {version('jax')}, {compiler.package} {version(compiler.package)}"


def find_devices(topology: Topology) -> list[Any]:
    """The devices of a topology, which need not be here.

    Raises:
      UserError: the compiler knows no such topology.
    """
    jax.config.update("jax_platforms", "cpu")
    chip = topology.chip
    if topology.is_gpu:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {GPU_FLAGS}"
        name, platform = "", "cuda"
        target = Path(__file__).with_name(chip.gpu).read_text(encoding="utf-8")
        options = {"target_config": target, "topology": f"1x1x{topology.size}"}
    else:
        os.environ.update(TPU_ENVIRONMENT)
        name, platform, options = topology.text, "tpu", {"chip_config_name": chip.cores}
    try:
        devices: list[Any] = topologies.get_topology_desc(name, platform, **options).devices
    except JaxRuntimeError as error:
        raise UserError(f"--topology={topology.text}: {error}") from error
    return devices


def compile_step(config: Config, topology: Topology) -> Compiled:
    """The project's own training step for a topology: minutes, for Xception-65.

    Raises:
      DoesNotFit: with how much it needs.
      UserError: the mesh cannot be made of the devices.
    """
    devices = find_devices(topology)
    try:
        compiled = lower(config, devices).compile()
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _, ran_out, rest = str(error).partition("Ran out of memory")
        reason = f"{ran_out}{rest}".partition("\n")[0] or str(error)
        raise DoesNotFit(reason[:200]) from error
    m = compiled.memory_analysis()
    arguments, temporaries = m.argument_size_in_bytes / GB, m.temp_size_in_bytes / GB
    program, peak = m.generated_code_size_in_bytes / GB, held_bytes(m) / GB
    if peak > topology.chip.memory:  # a GPU's compiler does not refuse
        raise DoesNotFit(f"it needs {peak:.1f} GB")
    hosts = len({device.process_index for device in devices})
    return Compiled(arguments, temporaries, program, peak, compiled.as_text(), hosts)


def lower(config: Config, devices: list[Any]) -> Any:
    """The training step, lowered for these devices."""
    return lower_step(config, device_mesh(config.mesh.shape, devices), VOID)
