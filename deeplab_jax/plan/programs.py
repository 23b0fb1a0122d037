"""What a compiled program moves and exchanges, read from its text.

A loop's body counts as often as it runs: XLA's own sums have it once.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

SHAPE = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([\d,]*):?([^}]*)\})?")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(
    r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(([^)]*)\)(.*)"  # result kind(inside)
)
# These move nothing; a copy into fast memory counts where it ends, a loop by its body.
FREE = {"after-all", "bitcast", "constant", "copy-start", "custom-call", "get-tuple-element"}
FREE |= {"parameter", "slice-start", "tuple", "while"}
SLICES = {"slice", "dynamic-slice"}


class Instruction(NamedTuple):
    """One line of a program: `%name = result kind(inside), attributes`."""

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


def walk(
    program: Program, name: str, times: int = 1, loop: Instruction | None = None
) -> Iterator[tuple[int, Instruction | None, Computation]]:
    """What runs, from the computation `name` on: how often, in which loop, and its instructions."""
    yield times, loop, program[name]
    for x in program[name].values():
        if x.kind == "while":
            n = count_trips(program, x)
            for part in ("condition", "body"):
                yield from walk(program, x.attribute(part), times * n, x)
        elif x.kind in ("call", "async-start"):
            called = x.attribute("to_apply") or x.attribute("calls")
            yield from walk(program, called, times, loop)


def count_trips(program: Program, loop: Instruction) -> int:
    """How often a loop runs: XLA's note, or the one constant that its counter is compared with."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(noted[1])
    constants = [x for x in program[loop.attribute("condition")].values() if x.kind == "constant"]
    return int(constants[0].inside) if len(constants) == 1 else 1


def count_bytes(type_: str, *, padded: bool = True, fast: bool = True) -> int:
    """Bytes of a type, `padded` to its layout's tiles; without `fast`, what is in fast memory not.

    Fast memory (a TPU's VMEM) is what a layout says S(...) of.
    """
    total = 0
    for _, bits, shape, order, layout in SHAPE.findall(type_):
        if "S(" in layout and not fast:
            continue
        sizes = [int(n) for n in shape.split(",") if n]
        tile = re.search(r"T\(([\d,]+)\)", layout)
        if padded and tile and order:
            minor_first = zip(order.split(","), reversed(tile[1].split(",")), strict=False)
            for axis, rows in minor_first:
                sizes[int(axis)] = -(-sizes[int(axis)] // int(rows)) * int(rows)
        total += math.ceil(math.prod(sizes) * int(bits or 8) / 8)  # pred: a byte
    return total


# ---- main memory


def main_memory_gb(hlo: str) -> float:
    """GB that a step on a TPU moves between main memory and chip."""
    program, entry = parse(hlo)
    return sum(
        times * sum(moved_bytes(program, computation, x) for x in computation.values()) / 1e9
        for times, _, computation in walk(program, entry)
    )


def moved_bytes(program: Program, computation: Computation, x: Instruction) -> int:
    """Bytes of one run of an instruction: its operands and results in main memory."""
    if x.kind in ("copy-done", "slice-done"):  # from the one memory to the other
        return count_bytes(x.result)
    if x.kind in FREE:
        return 0
    if x.kind.endswith("-done"):
        return in_main(x.result)
    if x.kind == "dynamic-update-slice":
        return 2 * in_main(computation[x.operands[1]].result)
    fused = program[x.attribute("calls")] if x.kind == "fusion" else {x.name: x}
    total = written_bytes(program, fused, x.result)
    for index, name in enumerate(x.operands):
        inside = parameter(fused, index) if x.kind == "fusion" else name
        total += read_bytes(program, fused, inside, in_main(computation[name].result))
    return total


def in_main(type_: str) -> int:
    return count_bytes(type_, fast=False)


def parameter(fused: Computation, index: int) -> str:
    """The name of a fusion's operand inside it."""
    found = (x.name for x in fused.values() if x.kind == "parameter" and x.inside == str(index))
    return next(found)


def read_bytes(program: Program, fused: Computation, name: str, whole: int) -> int:
    """Bytes read of an operand of `whole` bytes: of one that is only sliced, the slices."""
    total = 0
    for x in fused.values():
        for position in [i for i, operand in enumerate(x.operands) if operand == name]:
            if x.kind == "fusion":
                inner = program[x.attribute("calls")]
                total += read_bytes(program, inner, parameter(inner, position), whole)
            elif x.kind in SLICES and position == 0:
                total += in_main(x.result)
            elif x.kind != "dynamic-update-slice" or position > 0:
                total += whole
    # What lies in fast memory has 0 bytes here, but a slice of it does not say so: it counts.
    return min(total, whole) if whole else total


def written_bytes(program: Program, fused: Computation, result: str) -> int:
    """Bytes written of a result: of an array updated in place, the update."""
    root = list(fused.values())[-1]
    if root.kind == "fusion":
        return written_bytes(program, program[root.attribute("calls")], result)
    outputs = [fused[name] for name in root.operands] if root.kind == "tuple" else [root]
    types = [match[0] for match in SHAPE.finditer(result)]
    total = 0
    for x, type_ in zip(outputs, types, strict=False):
        while x.kind == "bitcast":
            x = fused[x.operands[0]]
        in_place = x.kind == "dynamic-update-slice"
        total += in_main(fused[x.operands[1]].result if in_place else type_)
    return total


# ---- collectives


class Exchanged(NamedTuple):
    """The collectives of one kind in a step, on a device: how many, GB of results, GB it sends."""

    operations: int
    gb: float
    sent: float


# What each of n devices in a ring sends, as a multiple of its result: of an array of s bytes,
# all-gather, reduce-scatter and all-to-all send s (n-1)/n, all-reduce twice that, as both in turn.
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,  # its result is s/n
    "collective-permute": lambda n: 1,
    "all-to-all": lambda n: (n - 1) / n,
}


def collectives(hlo: str) -> dict[str, Exchanged]:
    """Every kind of collective in a program.

    Of an asynchronous pair the `-done` counts: the result of `-start` repeats the operands. A TPU
    has such pairs as fusions too, each with the collective inside: those of a channel are one.
    """
    program, entry = parse(hlo)
    partitions = re.search(r"num_partitions=(\d+)", hlo)
    devices = int(partitions[1]) if partitions else 1
    found: dict[str, Exchanged] = {}
    for times, _, computation in walk(program, entry):
        fusions = [
            program[x.attribute("calls")] for x in computation.values() if x.kind == "fusion"
        ]
        fused = {
            y.attribute("channel_id") or y.name: y
            for inside in fusions
            for y in inside.values()
            if y.kind in SENT
        }
        for x in (*computation.values(), *fused.values()):
            kind = x.kind.removesuffix("-done")
            if kind in SENT:
                start = computation[x.operands[0]] if x.kind.endswith("-done") else x
                n = group_size(start.attributes, devices)
                gb = times * count_bytes(x.result, padded=False) / 1e9
                count, total, sent = found.get(kind, Exchanged(0, 0.0, 0.0))
                found[kind] = Exchanged(count + times, total + gb, sent + gb * SENT[kind](n))
    return found


def group_size(attributes: str, devices: int) -> int:
    """How many devices exchange with each other: of {{0,1},{2,3}}, [2,2]<=[4] or mesh['a'=2] {'a'}.

    Without groups, all.
    """
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return listed[1].count(",") + 1
    if shaped := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(shaped[1])
    if named := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    return devices
