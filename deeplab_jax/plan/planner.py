"""What a training run would take on a topology, and what makes it fit."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from deeplab_jax.config import Config, Remat
from deeplab_jax.errors import UserError
from deeplab_jax.parallel.mesh import abstract_mesh, batch_shares, check_batch_size
from deeplab_jax.plan.compilers import (
    Compiled,
    DoesNotFit,
    Topology,
    compile_step,
    compiler_of,
    installed,
    name_versions,
)
from deeplab_jax.plan.estimate import find_convolutions, peak
from deeplab_jax.plan.programs import SENT, Exchanged, collectives, main_memory_gb

PASSES = 3  # over each multiply-add in training: forward, and both gradients


@dataclass(frozen=True)
class Plan:
    """A configuration on a topology; `compiled` is None without a compiler, `estimate` in GB."""

    config: Config
    topology: Topology
    estimate: float
    compiled: Compiled | None

    @property
    def multiply_adds(self) -> tuple[int, int]:
        """Of the convolutions for one image: forward alone, and in a step, nothing computed again.

        What is frozen only runs forward.
        """
        frozen = {"backbone"} if self.config.train.freeze_backbone else set()
        found = find_convolutions(self.config.model, self.config.data.crop)
        forward = sum(c.multiply_adds for c in found)
        trained = sum(c.multiply_adds for c in found if c.path[0] not in frozen)
        return forward, forward + (PASSES - 1) * trained

    @property
    def tflop(self) -> float:
        """10^12 operations of a step on each chip."""
        images = self.config.train.batch / self.topology.size
        return 2 * images * self.multiply_adds[1] / 1e12

    @cached_property  # a program's text has megabytes
    def main_memory(self) -> float | None:
        """GB of a step on each chip, read from a TPU's program alone."""
        if self.compiled is None or self.topology.is_gpu:
            return None
        return main_memory_gb(self.compiled.hlo)

    @cached_property
    def exchanged(self) -> dict[str, Exchanged]:
        return collectives(self.compiled.hlo) if self.compiled else {}

    @property
    def bounds(self) -> dict[str, float]:
        """Milliseconds below which a step cannot be, by what limits it."""
        chip = self.topology.chip
        bounds = {"arithmetic": 1e3 * self.tflop / chip.tflops}
        if self.main_memory is not None:
            bounds["main memory"] = 1e3 * self.main_memory / chip.bandwidth
        if self.exchanged:
            sent = sum(x.sent for x in self.exchanged.values())
            bounds["interconnect"] = 1e3 * sent / chip.interconnect
        return bounds


def make_plan(config: Config, topology: Topology) -> Plan:
    """Compile the step where there is a compiler for the topology, else estimate.

    Raises:
      DoesNotFit: the compiler says so; with what to change.
      UserError: the mesh or the batch cannot be split over the topology.
    """
    config = on_chips(config)
    mesh = abstract_mesh(config.mesh.shape, topology.size)
    check_batch_size("train.batch_size", config.train.batch, mesh, config.train.accumulate)
    compiled = None
    if installed(compiler_of(topology)):
        try:
            compiled = compile_step(config, topology)
        except DoesNotFit as error:
            raise DoesNotFit(explain_overflow(config, topology, str(error))) from error
    return Plan(config, topology, estimate_peak(config, topology), compiled)


def on_chips(config: Config) -> Config:
    """`config` with the type of arithmetic that a run chooses on accelerators."""
    if config.model.dtype != "auto":
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))


def estimate_peak(config: Config, topology: Topology) -> float:
    """GB on each chip by `estimate.peak`."""
    mesh = abstract_mesh(config.mesh.shape, topology.size)
    return peak(config, batch_shares(mesh), gpu=topology.is_gpu)


def explain_overflow(config: Config, topology: Topology, reason: str) -> str:
    """Why it does not fit, and what to change, the cheapest first."""
    model, chip = config.model, topology.chip
    helps = [] if model.dtype == "bfloat16" else ["--model.dtype=bfloat16"]
    helps += [] if model.remat == "units" else ["--model.remat=units"]
    parts = next((c for c in list_candidates(config, topology) if c.train.accumulate > 1), None)
    if parts is not None:
        space = f" --mesh.space={parts.mesh.space}" if parts.mesh.space > 1 else ""
        helps.append(f"--train.accumulate={parts.train.accumulate}{space}")
    return (
        f"the step does not fit {chip.name}'s {chip.memory:g} GB ({reason}): try"
        f" {', '.join(helps)}, a smaller --train.batch_size, more chips, or --fit, which searches"
    )


def fit(config: Config, topology: Topology) -> Plan:
    """The cheapest change of `config` that fits, compiled where there is a compiler.

    What the estimate finds too large is not worth minutes of compiling, unless all is.

    Raises:
      UserError: nothing fits.
    """
    candidates = list_candidates(on_chips(config), topology)
    peaks = [(estimate_peak(c, topology), c) for c in candidates]
    promising = [c for gb, c in peaks if gb <= topology.chip.memory]
    if peaks and not promising:
        promising = [min(peaks, key=lambda item: item[0])[1]]
    for candidate in promising:
        with suppress(DoesNotFit):
            return make_plan(candidate, topology)
    raise UserError(
        f"--fit: nothing fits {topology.text} at train.batch_size = {config.train.batch} and"
        f" data.crop_size = {config.data.crop}: make one of them smaller, or take more chips"
    )


def list_candidates(config: Config, topology: Topology) -> Iterator[Config]:
    """Changes of remat, parts of the batch and mesh, the cheapest first.

    What is computed again costs time alone; parts of the batch also change BatchNorm's statistics.
    All chips together hold the same maps however the batch is split, and more where images are
    split by height: so an image is shared by no more devices than the batch, or its part, leaves
    without one.
    """
    train, mesh = config.train, config.mesh
    remats: list[Remat] = ["none", "convolutions", "units"]
    if config.model.backbone.startswith("xception"):
        remats.insert(1, "middle_flow")
    spaces = [
        n
        for n in divisors(topology.size)
        if n % mesh.space == 0 and topology.size % (n * mesh.fsdp) == 0
    ]
    for parts in divisors(train.batch):
        fitting = [n for n in spaces if train.batch % (topology.size // n * parts) == 0]
        if parts % train.accumulate or not fitting:
            continue
        for remat in remats:
            yield dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, remat=remat),
                mesh=dataclasses.replace(mesh, data=None, space=fitting[0]),
                train=dataclasses.replace(train, accumulate=parts),
            )


def divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def format_plan(plan: Plan) -> str:
    """The plan as text."""
    topology, compiled, compiler = plan.topology, plan.compiled, compiler_of(plan.topology)
    sections = [format_heading(plan), format_memory(plan), format_work(plan)]
    if compiled and topology.size > 1:
        lines = ["collectives of one step: how many, GB of their results, GB that a chip sends"]
        for kind in SENT:
            x = plan.exchanged.get(kind, Exchanged(0, 0.0, 0.0))
            lines.append(f"  {kind:<22}{x.operations:>9}{x.gb:>10.3f}{x.sent:>10.3f}")
        sections.append("\n".join(lines))
    if not compiled:
        sections.append(
            f"{compiler.package} is not installed: memory above is estimated from the sizes of the"
            f" network's maps, and nothing was compiled. To compile: {compiler.install}"
        )
    if not compiled and plan.estimate > topology.chip.memory:
        reason = f"it would need {plan.estimate:.1f} GB"
        warning = explain_overflow(plan.config, topology, reason)
        sections.append(f"warning: by this estimate, {warning}")
    return "\n\n".join(sections)


def format_heading(plan: Plan) -> str:
    c, m, topology = plan.config, plan.config.model, plan.topology
    how = "nothing was compiled"
    if plan.compiled:
        how = f"{name_versions(compiler_of(topology))}; compiled only, nothing was run"
    parts = f" in {c.train.accumulate} parts" if c.train.accumulate > 1 else ""
    mesh, (height, width) = abstract_mesh(c.mesh.shape, topology.size).shape, c.data.crop
    return (
        f"{m.backbone} {m.head}, output stride {m.output_stride}, {height}x{width},"
        f" {m.dtype}, remat {m.remat}; a batch of {c.train.batch}{parts}\n"
        f"{topology.text}: {topology.size} x {topology.chip.name},"
        f" mesh {' x '.join(f'{axis} {n}' for axis, n in mesh.items())}; {how}"
    )


def format_memory(plan: Plan) -> str:
    total = plan.topology.chip.memory
    lines = [f"memory of each chip, of {total:g} GB"]
    if c := plan.compiled:
        lines += [
            row("arguments", c.arguments, "GB  parameters, optimiser, averages, the batch"),
            row("activations", c.temporaries, "GB  and gradients, and scratch"),
            row("program", c.program, "GB"),
            row("peak", c.peak, f"GB  {c.peak / total:.0%} of the chip"),
        ]
    return "\n".join([*lines, row("estimate", plan.estimate, "GB  of the peak, by the maps alone")])


def format_work(plan: Plan) -> str:
    forward, step = plan.multiply_adds
    passes = f"{step / forward:.3g} x {forward / 1e9:.2f} B an image"
    lines = ["one step on each chip", row("multiply-adds", plan.tflop / 2, f"T   {passes}")]
    if plan.main_memory is not None:
        lines.append(row("main memory", plan.main_memory, "GB  read and written"))
    bounds = plan.bounds
    lines += [f"  {name:<22}{ms:>9.1f} ms at least" for name, ms in bounds.items()]
    slowest, hosts = max(bounds.values()), plan.compiled.hosts if plan.compiled else 1
    images = plan.config.train.batch / slowest * 1e3 / hosts
    peaks = "ms a step, by published peaks: a bound, no prediction"
    lines.append(f"  {'roofline bound':<22}{slowest:>9.1f} {peaks}")
    each = f"for each of {hosts} hosts" if plan.compiled else "in all"
    lines.append(f"  {'input at that bound':<22}{images:>9.0f} images/s {each}")
    return "\n".join(lines)


def row(name: str, value: float, note: str) -> str:
    return f"  {name:<22}{value:>9.3f} {note}"
