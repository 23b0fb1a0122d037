"""What a training run would take on a topology, and what makes it fit."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod

import jax
from jax.sharding import AbstractMesh

from deeplab_jax.config import Config, Remat
from deeplab_jax.errors import UserError
from deeplab_jax.models.summary import multiply_adds
from deeplab_jax.parallel.mesh import abstract_mesh, batch_shares, check_batch_size
from deeplab_jax.plan.chips import GB
from deeplab_jax.plan.compilers import (
    Compiled,
    DoesNotFit,
    Topology,
    compile_step,
    compiler_of,
    described,
    devices_of,
    installed,
)
from deeplab_jax.plan.estimate import peak
from deeplab_jax.plan.programs import (
    COLLECTIVES,
    Accessed,
    Exchanged,
    collectives,
    kernels,
    traffic,
)
from deeplab_jax.training.state import abstract_state

PASSES = 3  # over each multiply-add in training: forward, and both gradients


@dataclass(frozen=True)
class Plan:
    """A configuration on a topology; `compiled` is None without a compiler, `estimate` in GB."""

    config: Config
    topology: Topology
    estimate: float
    compiled: Compiled | None

    @property
    def mesh(self) -> AbstractMesh:
        return abstract_mesh(self.config.mesh.shape, self.topology.size)

    @property
    def tflop(self) -> float:
        """Of one step on each chip, 10^12: the network's convolutions, nothing computed again."""
        adds = multiply_adds(self.config.model, self.config.data.crop)
        return 2 * PASSES * adds * self.config.train.batch_size / self.topology.size / 1e12

    @cached_property  # a program's text has megabytes
    def accessed(self) -> Accessed | None:
        """Bytes by part of the network: read from a TPU's program alone."""
        if self.compiled is None or self.topology.is_gpu:
            return None
        return traffic(self.compiled.hlo)

    @cached_property
    def exchanged(self) -> dict[str, Exchanged]:
        return collectives(self.compiled.hlo) if self.compiled else {}

    @property
    def bounds(self) -> dict[str, float]:
        """Milliseconds below which a step cannot be, by what limits it."""
        chip, found = self.topology.chip, self.accessed
        bounds = {"arithmetic": 1e3 * self.tflop / chip.tflops}
        if found is not None:
            bounds["main memory"] = 1e3 * sum(found.hbm.values()) / chip.bandwidth
        if self.exchanged:
            moved = sum(x.gb for x in self.exchanged.values())
            bounds["interconnect"] = 1e3 * moved / chip.interconnect
        return bounds


def make_plan(config: Config, topology: Topology) -> Plan:
    """Compile the step where there is a compiler for the topology, else estimate.

    Raises:
      DoesNotFit: in one sentence, with what to change.
      UserError: the mesh or the batch cannot be split over the topology.
    """
    train, memory = config.train, topology.chip.memory
    mesh = abstract_mesh(config.mesh.shape, topology.size)
    check_batch_size("train.batch_size", train.batch_size, mesh, train.accumulate)
    estimate = estimated(config, topology)
    if not installed(compiler_of(topology)):
        if estimate > memory:
            needs = f"by an estimate it needs {estimate:.1f} GB"
            raise DoesNotFit(overflow(config, topology, needs))
        return Plan(config, topology, estimate, None)
    try:
        compiled = compile_step(config, devices_of(topology))
    except DoesNotFit as error:
        raise DoesNotFit(overflow(config, topology, first_sentence(str(error)))) from error
    if compiled.memory.peak > memory:  # a GPU's compiler does not refuse
        needs = f"it needs {compiled.memory.peak:.1f} GB"
        raise DoesNotFit(overflow(config, topology, needs))
    return Plan(config, topology, estimate, compiled)


def estimated(config: Config, topology: Topology) -> float:
    """GB on each chip by `estimate.peak`."""
    mesh = abstract_mesh(config.mesh.shape, topology.size)
    return peak(config, batch_shares(mesh), gpu=topology.is_gpu)


def first_sentence(message: str) -> str:
    """What of the compiler's words says how much is missing."""
    start = max(0, message.find("Ran out of memory"))
    return message[start:].partition("\n")[0][:200]


def overflow(config: Config, topology: Topology, reason: str) -> str:
    """Why it does not fit, and what to change, the cheapest first."""
    changes = []
    if config.model.dtype != "bfloat16":
        changes.append("--model.dtype=bfloat16 (half of the maps)")
    if config.model.remat != "units":
        changes.append("--model.remat=units (keeps the units' inputs alone)")
    parts = next((c for c in candidates(config, topology) if c.train.accumulate > 1), None)
    if parts is not None:
        space = f" --mesh.space={parts.mesh.space}" if parts.mesh.space > 1 else ""
        changes.append(f"--train.accumulate={parts.train.accumulate}{space} (part by part)")
    changes.append(f"a smaller --train.batch_size than {config.train.batch_size}, or more chips")
    chip = topology.chip
    return (
        f"the step does not fit {chip.name}'s {chip.memory:g} GB ({reason}): nearly all of it are"
        f" maps kept for the backward pass. Try {', '.join(changes)}; or --fit, which searches"
    )


def fit(config: Config, topology: Topology) -> Plan:
    """The cheapest change of `config` that fits, compiled where there is a compiler.

    Raises:
      UserError: nothing fits.
    """
    for candidate in candidates(config, topology):
        if estimated(candidate, topology) > topology.chip.memory:  # not worth minutes of compiling
            continue
        with suppress(DoesNotFit):
            return make_plan(candidate, topology)
    raise UserError(
        f"--fit: nothing fits {topology.text} at train.batch_size = {config.train.batch_size} and"
        f" data.crop_size = {config.data.crop}: make one of them smaller, or take more chips"
    )


def candidates(config: Config, topology: Topology) -> Iterator[Config]:
    """Changes of remat, parts of the batch and mesh, the cheapest first.

    What is computed again costs time alone; parts of the batch also change BatchNorm's statistics.
    All chips together hold the same maps however the batch is split, and more where images are
    split by height: so an image is shared by no more devices than the batch, or its part, leaves
    without one.
    """
    train = config.train
    remats: list[Remat] = ["none", "convolutions", "units"]
    if config.model.backbone.startswith("xception"):
        remats.insert(1, "middle_flow")
    for parts in divisors(train.batch_size):
        if parts % train.accumulate:
            continue
        spaces = [n for n in divisors(topology.size) if n % config.mesh.space == 0]
        fitting = [n for n in spaces if train.batch_size % (topology.size // n * parts) == 0]
        for remat in remats if fitting else ():
            yield dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, remat=remat),
                mesh=dataclasses.replace(config.mesh, data=None, space=fitting[0]),
                train=dataclasses.replace(train, accumulate=parts),
            )


def divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def format_plan(plan: Plan) -> str:
    """The plan as text."""
    sections = [heading(plan), memory_section(plan), work_section(plan)]
    if plan.compiled:
        sections.append(exchange_section(plan))
        sections.append(f"compiled in {plan.compiled.seconds:.0f} s on this machine's CPU")
    else:
        compiler = compiler_of(plan.topology)
        sections.append(
            f"{compiler.package} is not installed: memory above is estimated from the sizes of the"
            f" network's maps, and nothing was compiled. To compile: {compiler.install}"
        )
    return "\n\n".join(sections)


def heading(plan: Plan) -> str:
    c, topology = plan.config, plan.topology
    m, (height, width) = c.model, c.data.crop
    how = "nothing was compiled"
    if plan.compiled:
        how = f"{described(compiler_of(topology))}; compiled only, nothing was run"
    return (
        f"{m.backbone} {m.head}, output stride {m.output_stride}, {height}x{width}, {m.dtype},"
        f" remat {m.remat}; a batch of {c.train.batch_size}"
        + (f" in {c.train.accumulate} parts" if c.train.accumulate > 1 else "")
        + f"\n{topology.text}: {topology.size} x {topology.chip.name}, mesh"
        f" {' x '.join(f'{axis} {n}' for axis, n in plan.mesh.shape.items())}; {how}"
    )


def memory_section(plan: Plan) -> str:
    chip = plan.topology.chip
    lines = [f"memory of each chip, of {chip.memory:g} GB"]
    state = abstract_state(plan.config, plan.mesh)
    split = plan.config.mesh.fsdp
    note = f"split over {split}" if split > 1 else ""
    lines.append(gb("parameters", tree_gb(state.params) / split, note))
    lines.append(gb("optimiser", tree_gb(state.opt_state) / split, note))
    if plan.compiled:
        m = plan.compiled.memory
        lines.append(gb("arguments", m.arguments, "the two above, BatchNorm's averages, the batch"))
        lines.append(gb("activations", m.temporaries, "and gradients, and scratch"))
        lines.append(gb("program", m.program))
        lines.append(gb("peak", m.peak, f"{m.peak / chip.memory:.0%} of the chip"))
    lines.append(gb("estimate", plan.estimate, "of the peak, from the sizes of the maps alone"))
    return "\n".join(lines)


def work_section(plan: Plan) -> str:
    topology, chip = plan.topology, plan.topology.chip
    adds = multiply_adds(plan.config.model, plan.config.data.crop) / 1e9
    lines = [
        "one step on each chip",
        f"  {'multiply-adds':<22}{plan.tflop / 2:>9.3f} T   {PASSES} x {adds:.2f} B an image",
    ]
    found = plan.accessed
    if found is not None:
        moved = sum(found.hbm.values())
        intensity = plan.tflop * 1e3 / moved
        lines.append(gb("main memory", moved, "read and written"))
        lines.append(
            f"  {'intensity':<22}{intensity:>9.0f} FLOP a byte; the chip's balance is"
            f" {1e3 * chip.tflops / chip.bandwidth:.0f}"
        )
    if plan.compiled and topology.is_gpu:
        lines.append(f"  {'kernels':<22}{kernels(plan.compiled.hlo):>9}")
    bounds = plan.bounds
    lines += [f"  {name:<22}{ms:>9.1f} ms at least" for name, ms in bounds.items()]
    slowest = max(bounds.values())
    images = plan.config.train.batch_size / slowest * 1e3
    lines.append(
        f"  {'roofline bound':<22}{slowest:>9.1f} ms a step, by published peaks: a bound, no"
        " prediction"
    )
    each = f"for each of {plan.compiled.hosts} hosts" if plan.compiled else "in all"
    images /= plan.compiled.hosts if plan.compiled else 1
    lines.append(f"  {'input at that bound':<22}{images:>9.0f} images/s {each}")
    return "\n".join(lines)


def exchange_section(plan: Plan) -> str:
    lines = ["collectives of one step: how many, GB of their results on each chip"]
    for kind in COLLECTIVES:
        count, moved = plan.exchanged.get(kind, Exchanged(0, 0.0))
        lines.append(f"  {kind:<22}{count:>9}{moved:>10.3f} GB")
    return "\n".join(lines)


def parts_section(plan: Plan) -> str:
    """GB accessed and of main memory by part of the network, of a plan compiled for a TPU."""
    found = plan.accessed
    assert found is not None
    lines = ["GB by part: accessed by XLA's rules, of main memory"]
    for part, size in sorted(found.bytes.items(), key=lambda item: -item[1]):
        lines.append(f"  {part:<30}{size:>9.2f}{found.hbm[part]:>9.2f}")
    return "\n".join(lines)


def gb(name: str, size: float, note: str = "") -> str:
    return f"  {name:<22}{size:>9.3f} GB  {note}".rstrip()


def tree_gb(tree: object) -> float:
    """Size of a tree of shapes, without the padding of a TPU's layouts."""
    return float(sum(prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)) / GB)
