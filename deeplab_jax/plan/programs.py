"""What a compiled program does, read from its text: bytes moved, collectives, kernels.

A loop's body counts as often as it runs: XLA's own sums have it once. For the bytes that a TPU's
program moves, `traffic` follows XLA's rules otherwise (`HloCostAnalysis`): an instruction moves its
operands and its results, in the padded sizes of the chip's layouts; of an operand that a fusion
only slices, the slices; of an array updated in place, the update.

XLA counts what stays in the chip's fast memory (VMEM) as well, and a copy into it four times over.
`hbm` leaves that out: only what lies in the main memory counts, and a copy once.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

SHAPE = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([\d,]*):?([^}]*)\})?")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(
    r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(([^)]*)\)(.*)"  # result kind(inside)
)
# These move nothing; a slice into VMEM counts where it ends, a loop by its body.
FREE = {"after-all", "bitcast", "constant", "get-tuple-element", "parameter", "slice-start"}
FREE |= {"tuple", "while"}
SLICES = {"slice", "dynamic-slice"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
KERNELS = ("fusion", "custom-call", "custom-call-start")
MODULE = re.compile(r"\(Network\)+/(?:backbone/|checkpoint/|rematted_computation/)*(\w+)[/.]")


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    result: str
    kind: str
    inside: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.inside)

    def attribute(self, key: str) -> str:
        found = re.search(rf'\b{key}="?%?([^\s,"]+)', self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]  # in the order of the text: the root is last
Program = dict[str, Computation]
Size = Callable[[str], float]  # of a type


class Accessed(NamedTuple):
    """GB of a step by part of the network: as XLA counts them, and in main memory alone."""

    bytes: dict[str, float]
    hbm: dict[str, float]


def traffic(hlo: str) -> Accessed:
    """What a program moves, from its text."""
    program, entry = parse(hlo)
    found = Accessed(defaultdict(float), defaultdict(float))
    for times, loop, computation in executed(program, entry):
        part = parts(computation)
        for x in computation.values():
            name = loop or part[x.name]
            found.bytes[name] += times * moved(program, computation, x, padded) / 1e9
            found.hbm[name] += times * through_hbm(program, computation, x) / 1e9
    return found


def parse(hlo: str) -> tuple[Program, str]:
    """The computations of a program's text, and the name of the one that runs first."""
    program: Program = {}
    current, entry = "", ""
    for line in hlo.splitlines():
        if head := COMPUTATION.match(line):
            current = head[2]
            program[current] = {}
            entry = current if head[1] else entry
        elif current and (match := INSTRUCTION.match(line)):
            program[current][match[1]] = Instruction(*match.groups())
    return program, entry


def executed(
    program: Program, name: str, times: int = 1, loop: str | None = None
) -> Iterator[tuple[int, str | None, Computation]]:
    """The program and what it calls, loops above all: how often each runs, and the loop's name."""
    yield times, loop, program[name]
    for x in program[name].values():
        if x.kind == "while":
            n = trips(program, x)
            inner = "middle flow" if "(Network)" in x.attributes else "loss"
            for part in ("condition", "body"):
                yield from executed(program, x.attribute(part), times * n, f"{inner}: {n} times")
        elif x.kind in ("call", "async-start"):
            called = x.attribute("to_apply") or x.attribute("calls")
            yield from executed(program, called, times, loop)


def trips(program: Program, loop: Instruction) -> int:
    """How often a loop runs: XLA's note, or the one constant that its counter is compared with."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(noted[1])
    constants = [x for x in program[loop.attribute("condition")].values() if x.kind == "constant"]
    return int(constants[0].inside) if len(constants) == 1 else 1


class Exchanged(NamedTuple):
    """The collectives of one kind in a step: how many, and their results' GB on a device."""

    operations: int
    gb: float


def collectives(hlo: str) -> dict[str, Exchanged]:
    """Every kind of collective in a program.

    Of an asynchronous pair the `-done` counts: the result of `-start` repeats the operands.
    """
    program, entry = parse(hlo)
    found: dict[str, Exchanged] = {}
    for times, _, computation in executed(program, entry):
        for x in computation.values():
            inside = program[x.attribute("calls")].values() if x.kind == "fusion" else ()
            for y in (x, *inside):
                kind = y.kind.removesuffix("-done")
                if kind in COLLECTIVES:
                    count, gb = found.get(kind, Exchanged(0, 0.0))
                    gb += times * plain_bytes(y.result) / 1e9
                    found[kind] = Exchanged(count + times, gb)
    return found


def plain_bytes(type_: str) -> int:
    """Bytes of a type without its layout's padding."""
    sizes = [
        (math.prod(int(n) for n in shape.split(",") if n), int(bits or 8))  # pred: a byte
        for _, bits, shape, _, _ in SHAPE.findall(type_)
    ]
    return sum(math.ceil(n * bits / 8) for n, bits in sizes)


def kernels(hlo: str) -> int:
    """How many kernels a GPU program launches: fusions and custom calls (cuDNN, cuBLAS)."""
    program, entry = parse(hlo)
    return sum(
        times * sum(x.kind in KERNELS for x in computation.values())
        for times, _, computation in executed(program, entry)
    )


def parts(computation: Computation) -> dict[str, str]:
    """The module of the network that each instruction belongs to; a copy belongs to its user."""
    found: dict[str, str] = {}
    user: dict[str, str] = {}  # the part of the first to use a result
    for x in reversed(computation.values()):
        module = MODULE.search(x.attribute("op_name"))
        named = "rest" if x.attribute("op_name") else user.get(x.name, "rest")
        found[x.name] = module[1] if module else named
        if x.kind != "tuple":
            user |= dict.fromkeys(x.operands, found[x.name])
    return found


def padded(type_: str, everywhere: bool = True) -> float:
    """Bytes of a type in its layout; `everywhere` or in the main memory alone (no `S(...)`)."""
    total = 0
    for _, bits, shape, order, layout in SHAPE.findall(type_):
        if "S(" in layout and not everywhere:
            continue
        sizes = [int(n) for n in shape.split(",") if n]
        tile = re.search(r"T\(([\d,]+)\)", layout)
        if tile and order:
            minor_first = zip(order.split(","), reversed(tile[1].split(",")), strict=False)
            for axis, rows in minor_first:
                sizes[int(axis)] = -(-sizes[int(axis)] // int(rows)) * int(rows)
        total += math.ceil(math.prod(sizes) * int(bits or 8) / 8)  # pred: a byte
    return total


def moved(program: Program, computation: Computation, x: Instruction, size: Size) -> float:
    """Bytes of one run of an instruction, by XLA's rules."""
    operands = [size(computation[name].result) for name in x.operands]
    if x.kind in FREE or x.attribute("custom_call_target") == "AllocateBuffer":
        return 0
    if x.kind in SLICES:
        return 2 * size(x.result)
    if x.kind == "dynamic-update-slice":
        return 2 * operands[1]
    if x.kind.endswith("-done"):
        return size(x.result)
    if x.kind == "fusion":
        inside = program[x.attribute("calls")]
        reads = (read(program, inside, n, whole, size) for n, whole in enumerate(operands))
        return written(program, inside, x.result, size) + sum(reads)
    return size(x.result) + sum(operands)


def read(program: Program, fused: Computation, index: int, whole: float, size: Size) -> float:
    """Bytes that a fusion reads of its operand number `index`."""
    (parameter,) = [
        x.name for x in fused.values() if x.kind == "parameter" and x.inside == str(index)
    ]
    total, shared = 0.0, False  # all who read the whole share one reading
    for x in fused.values():
        for position, name in enumerate(x.operands):
            if name != parameter:
                continue
            if x.kind == "fusion":
                inner = program[x.attribute("calls")]
                total += read(program, inner, position, whole, size)
            elif x.kind in SLICES and position == 0:
                total += size(x.result)
            elif x.kind in {"broadcast", "reshape"}:
                total += whole
            elif not (shared or (x.kind == "dynamic-update-slice" and position == 0)):
                total, shared = total + whole, True
    return total


def written(program: Program, fused: Computation, result: str, size: Size) -> float:
    """Bytes that a fusion writes of its result: of an update in place, the update."""
    root = list(fused.values())[-1]
    outputs = [fused[n] for n in root.operands] if root.kind == "tuple" else [root]
    types = [match[0] for match in SHAPE.finditer(result)]
    return sum(output(program, fused, x, t, size) for x, t in zip(outputs, types, strict=True))


def output(program: Program, fused: Computation, x: Instruction, type_: str, size: Size) -> float:
    """Bytes written of one output of a fusion, made by x."""
    while x.kind == "bitcast":
        x = fused[x.operands[0]]
    if x.kind == "dynamic-update-slice":
        return size(fused[x.operands[1]].result)
    if x.kind == "fusion":
        return written(program, program[x.attribute("calls")], type_, size)
    return size(type_)


def through_hbm(program: Program, computation: Computation, x: Instruction) -> float:
    """Bytes of one run of an instruction that cross between main memory and chip."""
    if x.kind in {"copy-done", "slice-done"}:
        return padded(x.result)
    if x.kind in {"copy-start", "custom-call"}:  # begun here, counted above; ConcatBitcast
        return 0
    return moved(program, computation, x, in_hbm)


def in_hbm(type_: str) -> float:
    """Bytes of what lies in main memory."""
    return padded(type_, everywhere=False)
