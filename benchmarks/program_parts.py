"""Where a compiled training step's bytes and kernels are, by part of the network.

    deeplab plan --topology=v5e:2x2 --config=voc ... --hlo program.txt
    python -m benchmarks.program_parts program.txt

Of a TPU's program it prints GB by XLA's rules (`HloCostAnalysis`): an instruction moves its
operands and its results, in the padded sizes of the chip's layouts; of an operand that a fusion
only slices, the slices; of an array updated in place, the update. XLA counts what stays in the
chip's fast memory (VMEM) as well, and a copy into it four times over. "Main memory" leaves that
out, as `plan` does: only what lies in the main memory counts, and a copy once. Of a GPU's program
it prints kernels. A loop's body counts as often as it runs: XLA's own sums have it once.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from deeplab_jax.plan.programs import (
    FREE,
    SHAPE,
    SLICES,
    Computation,
    Instruction,
    Program,
    count_bytes,
    count_trips,
    moved_bytes,
    parameter,
    parse,
    walk,
)

MODULE = re.compile(r"\(Network\)+/(?:backbone/|checkpoint/|rematted_computation/)*(\w+)[/.]")
COUNTED = {"copy-start", "custom-call"}  # by XLA, not as traffic of the main memory
KERNELS = ("fusion", "custom-call", "custom-call-start")


class Accessed(NamedTuple):
    """GB of a step by part of the network: as XLA counts them, and in main memory alone."""

    bytes: dict[str, float]
    main: dict[str, float]


def traffic(hlo: str) -> Accessed:
    """What a program moves, from its text."""
    program, entry = parse(hlo)
    found = Accessed(defaultdict(float), defaultdict(float))
    for times, loop, computation in walk(program, entry):
        name, parts = name_loop(program, loop), parts_of(computation)
        for x in computation.values():
            part = name or parts[x.name]
            found.bytes[part] += times * accessed(program, computation, x) / 1e9
            found.main[part] += times * moved_bytes(program, computation, x) / 1e9
    return found


def kernels(hlo: str) -> dict[str, int]:
    """How many kernels a GPU's program launches: fusions and custom calls (cuDNN, cuBLAS)."""
    program, entry = parse(hlo)
    found: dict[str, int] = defaultdict(int)
    for times, loop, computation in walk(program, entry):
        name, parts = name_loop(program, loop), parts_of(computation)
        for x in computation.values():
            if x.kind in KERNELS:
                found[name or parts[x.name]] += times
    return dict(found)


def name_loop(program: Program, loop: Instruction | None) -> str:
    """`middle flow: 16 times`, or "" outside of loops."""
    if loop is None:
        return ""
    inside = "middle flow" if "(Network)" in loop.attributes else "loss"
    return f"{inside}: {count_trips(program, loop)} times"


def parts_of(computation: Computation) -> dict[str, str]:
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


def accessed(program: Program, computation: Computation, x: Instruction) -> int:
    """Bytes of one run of an instruction, by XLA's rules."""
    operands = [count_bytes(computation[name].result) for name in x.operands]
    if x.kind in FREE - COUNTED or x.attribute("custom_call_target") == "AllocateBuffer":
        return 0
    if x.kind in SLICES:
        return 2 * count_bytes(x.result)
    if x.kind == "dynamic-update-slice":
        return 2 * operands[1]
    if x.kind.endswith("-done"):
        return count_bytes(x.result)
    if x.kind == "fusion":
        inside = program[x.attribute("calls")]
        reads = (read(program, inside, n, whole) for n, whole in enumerate(operands))
        return written(program, inside, x.result) + sum(reads)
    return count_bytes(x.result) + sum(operands)


def read(program: Program, fused: Computation, index: int, whole: int) -> int:
    """Bytes that a fusion reads of its operand number `index`."""
    total, shared = 0, False  # all who read the whole share one reading
    operand = parameter(fused, index)
    for x in fused.values():
        for position, name in enumerate(x.operands):
            if name != operand:
                continue
            if x.kind == "fusion":
                total += read(program, program[x.attribute("calls")], position, whole)
            elif x.kind in SLICES and position == 0:
                total += count_bytes(x.result)
            elif x.kind in {"broadcast", "reshape"}:
                total += whole
            elif not (shared or (x.kind == "dynamic-update-slice" and position == 0)):
                total, shared = total + whole, True
    return total


def written(program: Program, fused: Computation, result: str) -> int:
    """Bytes that a fusion writes of its result: of an update in place, the update."""
    root = list(fused.values())[-1]
    if root.kind == "fusion":
        return written(program, program[root.attribute("calls")], result)
    outputs = [fused[name] for name in root.operands] if root.kind == "tuple" else [root]
    types = [match[0] for match in SHAPE.finditer(result)]
    return sum(output(program, fused, x, t) for x, t in zip(outputs, types, strict=False))


def output(program: Program, fused: Computation, x: Instruction, type_: str) -> int:
    """Bytes written of one output of a fusion, made by x."""
    while x.kind == "bitcast":
        x = fused[x.operands[0]]
    if x.kind == "dynamic-update-slice":
        return count_bytes(fused[x.operands[1]].result)
    if x.kind == "fusion":
        return written(program, program[x.attribute("calls")], type_)
    return count_bytes(type_)


def print_traffic(found: Accessed) -> None:
    """GB by part, the largest first, and in all."""
    print(f"{'GB by part':<32}{'by XLA':>9}{'main memory':>13}")
    for part, size in sorted(found.bytes.items(), key=lambda item: -item[1]):
        print(f"{part:<32}{size:>9.2f}{found.main[part]:>13.2f}")
    print(f"{'all':<32}{sum(found.bytes.values()):>9.2f}{sum(found.main.values()):>13.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("program", type=Path, help="what `deeplab plan --hlo FILE` wrote")
    parser.add_argument("--gpu", action="store_true", help="a GPU's program: its kernels")
    args = parser.parse_args()
    hlo = args.program.read_text(encoding="utf-8")
    if not args.gpu:
        print_traffic(traffic(hlo))
        return
    found = kernels(hlo)
    for part, count in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{part:<32}{count:>9} kernels")
    print(f"{'all':<32}{sum(found.values()):>9} kernels")


if __name__ == "__main__":
    main()
