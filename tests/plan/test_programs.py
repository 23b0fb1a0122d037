"""Reading a compiled program's text; compiling itself takes another machine's compiler."""

from pathlib import Path

import pytest

from deeplab_jax.plan.programs import (
    collectives,
    count_bytes,
    group_size,
    main_memory_gb,
    moved_bytes,
    parse,
)

PROGRAMS = Path(__file__).parent
HLO = (PROGRAMS / "tpu_program.txt").read_text()
GPU_PROGRAM = (PROGRAMS / "gpu_program.txt").read_text()
ARRAY = 4 * 4 * 256 / 1e9


def test_a_step_moves_a_loop_s_slices_and_a_copy_once() -> None:
    row, counter, condition = 4 * 256, 4, 4 + 4 + 1
    loop = 4 * (row + row + counter + condition) / 1e9
    assert main_memory_gb(HLO) == pytest.approx((1 + 2) * ARRAY + loop, rel=0.01)


UPDATES = """\
%inner (q0: f32[64,256], q1: f32[1,256]) -> f32[64,256] {
  %q0 = f32[64,256]{1,0} parameter(0)
  %q1 = f32[1,256]{1,0} parameter(1)
  %i = s32[] constant(3)
  ROOT %updated = f32[64,256]{1,0} dynamic-update-slice(%q0, %q1, %i, %i)
}

%outer (p0: f32[64,256], p1: f32[1,256]) -> f32[64,256] {
  %p0 = f32[64,256]{1,0} parameter(0)
  %p1 = f32[1,256]{1,0} parameter(1)
  ROOT %nested = f32[64,256]{1,0} fusion(%p0, %p1), kind=kLoop, calls=%inner
}

%twice (r0: f32[64,256]) -> (f32[64,256], f32[8,256]) {
  %r0 = f32[64,256]{1,0} parameter(0)
  %s = f32[64,256]{1,0} multiply(%r0, %r0)
  %b = f32[64,256]{1,0} reshape(%r0)
  %c = f32[8,256]{1,0} slice(%b), slice={[0:8], [0:256]}
  ROOT %both = (f32[64,256]{1,0}, f32[8,256]{1,0}) tuple(%s, %c)
}

ENTRY %main (a: f32[64,256], b: f32[1,256]) -> f32[64,256] {
  %a = f32[64,256]{1,0} parameter(0)
  %b = f32[1,256]{1,0} parameter(1)
  %update = f32[64,256]{1,0} fusion(%a, %b), kind=kLoop, calls=%outer
  %plain = f32[64,256]{1,0} dynamic-update-slice(%update, %b, %zero, %zero)
  %zero = s32[]{:S(1)} constant(0)
  %pair = (f32[64,256]{1,0:S(1)}, f32[8,256]{1,0}) fusion(%plain), kind=kLoop, calls=%twice
  ROOT %last = f32[64,256]{1,0} get-tuple-element(%pair), index=0
}
"""


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("update", 1 + 1),  # the row read and written, also in a fusion inside another
        ("plain", 1 + 1),
        ("pair", 64 + 8),  # read once; of the results one stays in fast memory
        ("last", 0),
    ],
)
def test_rows_that_an_instruction_moves(name: str, rows: int) -> None:
    program, entry = parse(UPDATES)
    assert moved_bytes(program, program[entry], program[entry][name]) == rows * 256 * 4


def test_padded_by_tiles_of_the_two_minor_axes() -> None:
    assert count_bytes("bf16[16,33,33,728]{3,2,1,0:T(8,128)(2,1)}") == 2 * 16 * 33 * 40 * 768
    assert count_bytes("bf16[16,33,33,728]{3,0,2,1:T(8,128)(2,1)S(1)}") == 2 * 16 * 33 * 33 * 768
    assert count_bytes("(f32[3]{0:T(128)}, pred[5])") == 4 * 128 + 5


EXCHANGES = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%scattered (p: f32[16]) -> f32[8] {
  %p = f32[16]{0} parameter(0)
  ROOT %scatter = f32[8]{0} reduce-scatter(%p), replica_groups=[4,2]<=[8], to_apply=%sum
}

ENTRY %main (a: f32[728]) -> pred[7] {
  %a = f32[728]{0} parameter(0)
  %all-reduce.1 = f32[728]{0:T(1024)} all-reduce(%a), channel_id=1
  %all-reduce.2 = (f32[]{:T(128)}, bf16[3,3]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/f32[10]{0}) \
all-reduce(%a, %b, %c)
  %first = f32[728]{0} get-tuple-element(%all-reduce.2), index=0, metadata={op_name="all-reduce(y)"}
  %fusion.9 = f32[8]{0} fusion(%first), kind=kCustom, calls=%scattered
  %start = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%d), \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %done = bf16[16,8]{1,0} all-gather-done(%start)
  ROOT %permute = pred[7]{0} collective-permute(%e), source_target_pairs={{0,1}}
}
"""


def test_collectives_count_each_once_with_the_bytes_of_its_result() -> None:
    found = collectives(EXCHANGES)
    assert {kind: x.operations for kind, x in found.items()} == {
        "all-reduce": 2,
        "reduce-scatter": 1,
        "all-gather": 1,
        "collective-permute": 1,
    }
    assert found["all-reduce"].gb == pytest.approx((4 * (728 + 1 + 10) + 2 * 9) / 1e9)
    assert found["all-gather"].gb == pytest.approx(2 * 16 * 8 / 1e9)


def test_what_a_device_sends_follows_from_the_size_of_its_group() -> None:
    """Of s bytes all-gather and reduce-scatter send s (n-1)/n, all-reduce twice that."""
    found = collectives(EXCHANGES)
    assert found["all-gather"].sent == pytest.approx(3 / 4 * found["all-gather"].gb)  # groups of 4
    whole = 16 * 4 / 1e9
    assert found["reduce-scatter"].sent == pytest.approx(1 / 2 * whole)  # groups of 2
    assert found["all-reduce"].sent == pytest.approx(2 * 7 / 8 * found["all-reduce"].gb)  # all 8
    assert found["collective-permute"].sent == pytest.approx(7 / 1e9)
    one = collectives(EXCHANGES.replace("num_partitions=8", "num_partitions=1"))
    assert one["all-reduce"].sent == 0


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", 4),
        ("replica_groups={{5}}", 1),
        ("replica_groups=[4,2]<=[2,4]T(1,0), use_global_device_ids=true", 2),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=3,'axis_2'=4] {'axis_0','axis_2'}, to=%s", 8),
        ("replica_groups={}, to_apply=%sum", 16),
        ("to_apply=%sum", 16),
    ],
)
def test_groups_are_written_in_three_ways(groups: str, size: int) -> None:
    assert group_size(f"channel_id=1, {groups}", 16) == size


def test_an_asynchronous_gather_in_two_fusions_is_one() -> None:
    gather = (
        "  %g = f32[16]{0} all-gather(%p), channel_id=7, replica_groups={{0,1}}, dimensions={0}"
    )
    other = gather.replace("=7", "=8").replace("%g", "%h")
    parameter = "  %p = f32[8]{0} parameter(0)\n"
    hlo = (
        f"%start (p: f32[8]) -> f32[16] {{\n{parameter}{gather}\n{other}\n}}\n"
        f"%done (p: f32[8]) -> f32[16] {{\n{parameter}{gather}\n}}\n"
        f"ENTRY %main (p: f32[8]) -> f32[16] {{\n{parameter}"
        "  %x = f32[16]{0} fusion(%p), kind=kCustom, calls=%start\n"
        "  ROOT %y = f32[16]{0} fusion(%p), kind=kCustom, calls=%done\n}\n"
    )
    assert collectives(hlo) == {"all-gather": (2, 2 * 64 / 1e9, 2 * 32 / 1e9)}


def test_plain_bytes_of_every_width() -> None:
    result = "(f32[], bf16[2,3]{1,0:T(8,128)(2,1)}, s4[3]{0:E(4)}, f8e4m3fn[5]{0}, u32[2]{0:S(2)})"
    assert count_bytes(result, padded=False) == 4 + 12 + 2 + 5 + 8


def test_a_loops_collectives_count_at_each_trip() -> None:
    assert collectives(GPU_PROGRAM)["all-reduce"].operations == 16 + 1 + 1
