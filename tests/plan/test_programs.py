"""Reading a compiled program's text; compiling itself takes another machine's compiler."""

import pytest

from deeplab_jax.plan.programs import collectives, kernels, padded, plain_bytes, traffic

HLO = """\
HloModule jit_step, is_scheduled=true

%slice_it (p0: f32[4,256], p1: s32[]) -> f32[256] {
  %p0 = f32[4,256]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %row = f32[1,256]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,256}
}

%body (state: (s32[], f32[4,256])) -> (s32[], f32[4,256]) {
  %state = (s32[], f32[4,256]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[4,256]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,256]{1,0} fusion(%x, %i), kind=kLoop, calls=%slice_it
  ROOT %next = (s32[], f32[4,256]{1,0}) tuple(%i, %x)
}

%condition (state: (s32[], f32[4,256])) -> pred[] {
  %n = s32[]{:T(128)} constant(4)
  %state = (s32[], f32[4,256]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[4,256]) -> f32[4,256] {
  %a = f32[4,256]{1,0} parameter(0)
  %start = (f32[4,256]{1,0:S(1)}, f32[4,256]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %near = f32[4,256]{1,0:S(1)} copy-done(%start)
  %y = f32[4,256]{1,0} add(%near, %a), metadata={op_name="jit(f)/jvp(Network)/backbone/exit/add"}
  %zero = s32[] constant(0)
  %init = (s32[], f32[4,256]{1,0}) tuple(%zero, %y)
  ROOT %loop = (s32[], f32[4,256]{1,0}) while(%init), condition=%condition, body=%body
}
"""
ARRAY = 4 * 4 * 256 / 1e9


def test_a_loop_counts_as_often_as_it_runs_and_a_sliced_operand_as_its_slice() -> None:
    found = traffic(HLO)
    row, counter, condition = 4 * 256, 4, 4 + 4 + 1
    moved = 4 * (row + row + counter + condition)
    assert found.bytes["loss: 4 times"] == pytest.approx(moved / 1e9, rel=0.1)


def test_a_copy_into_fast_memory_counts_four_times_for_xla_and_once_in_main_memory() -> None:
    found = traffic(HLO)
    assert found.bytes["exit"] == pytest.approx((4 + 3) * ARRAY, rel=1e-3)
    assert found.hbm["exit"] == pytest.approx((1 + 2) * ARRAY)


def test_padded_by_tiles_of_the_two_minor_axes() -> None:
    assert padded("bf16[16,33,33,728]{3,2,1,0:T(8,128)(2,1)}") == 2 * 16 * 33 * 40 * 768
    assert padded("bf16[16,33,33,728]{3,0,2,1:T(8,128)(2,1)S(1)}") == 2 * 16 * 33 * 33 * 768
    assert padded("(f32[3]{0:T(128)}, pred[5])") == 4 * 128 + 5


EXCHANGES = """\
HloModule jit_step, is_scheduled=true

%scattered (p: f32[16]) -> f32[8] {
  %p = f32[16]{0} parameter(0)
  ROOT %scatter = f32[8]{0} reduce-scatter(%p), dimensions={0}, to_apply=%sum
}

ENTRY %main (a: f32[728]) -> pred[7] {
  %a = f32[728]{0} parameter(0)
  %all-reduce.1 = f32[728]{0:T(1024)} all-reduce(%a), channel_id=1
  %all-reduce.2 = (f32[]{:T(128)}, bf16[3,3]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/f32[10]{0}) \
all-reduce(%a, %b, %c)
  %first = f32[728]{0} get-tuple-element(%all-reduce.2), index=0, metadata={op_name="all-reduce(y)"}
  %fusion.9 = f32[8]{0} fusion(%first), kind=kCustom, calls=%scattered
  %start = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%d), dimensions={0}
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


def test_plain_bytes_of_every_width() -> None:
    result = "(f32[], bf16[2,3]{1,0:T(8,128)(2,1)}, s4[3]{0:E(4)}, f8e4m3fn[5]{0}, u32[2]{0:S(2)})"
    assert plain_bytes(result) == 4 + 12 + 2 + 5 + 8


GPU_PROGRAM = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %inner = f32[8]{0} fusion(%p), kind=kLoop, calls=%fused
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg = (s32[], f32[8]{0}) parameter(0)
  %dot = (bf16[8,4]{1,0}, s8[1024]{0}) custom-call(%arg), custom_call_target="__cublas$gemm"
  %fusion.1 = f32[8]{0} fusion(%dot), kind=kLoop, calls=%fused
  %all-reduce-start = f32[8]{0} all-reduce-start(%fusion.1), channel_id=1, to_apply=%sum
  %all-reduce-done = f32[8]{0} all-reduce-done(%all-reduce-start)
  ROOT %tuple = (s32[], f32[8]{0}) tuple(%arg, %all-reduce-done)
}

%condition (arg.1: (s32[], f32[8])) -> pred[] {
  %arg.1 = (s32[], f32[8]{0}) parameter(0)
  ROOT %less = pred[] fusion(%arg.1), kind=kLoop, calls=%fused
}

%captured (x: f32[8]) -> f32[8] {
  ROOT %fusion.2 = f32[8]{0} fusion(%x), kind=kInput, calls=%fused
}

ENTRY %main (x.1: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0), metadata={op_name="fusion custom-call"}
  %all-reduce.2 = f32[8]{0} all-reduce(%x.1), channel_id=2, to_apply=%sum
  %while = (s32[], /*index=1*/f32[8]{0}) while(%x.1), condition=%condition, body=%body, \
metadata={op_name="while"}, backend_config={"known_trip_count":{"n":"16"}}
  %while.2 = (s32[], f32[8]{0}) while(%while), condition=%condition, body=%body
  ROOT %call = f32[8]{0} call(%while), to_apply=%captured
}
"""


def test_a_loops_kernels_count_at_each_trip_and_a_fusions_inside_never() -> None:
    body_and_condition = 2 + 1
    assert kernels(GPU_PROGRAM) == 16 * body_and_condition + body_and_condition + 1
    assert collectives(GPU_PROGRAM)["all-reduce"].operations == 16 + 1 + 1
