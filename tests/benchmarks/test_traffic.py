"""Counting the bytes of a compiled program's text."""

import pytest

from benchmarks.traffic import padded, traffic

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
    row, counter = 4 * 256, 4
    assert found.bytes["loss: 4 times"] == pytest.approx(4 * (row + row + counter) / 1e9)


def test_a_copy_into_fast_memory_counts_four_times_for_xla_and_once_in_main_memory() -> None:
    found = traffic(HLO)
    assert found.bytes["exit"] == pytest.approx((4 + 3) * ARRAY, rel=1e-3)
    assert found.hbm["exit"] == pytest.approx((1 + 2) * ARRAY)


def test_padded_by_tiles_of_the_two_minor_axes() -> None:
    assert padded("bf16[16,33,33,728]{3,2,1,0:T(8,128)(2,1)}") == 2 * 16 * 33 * 40 * 768
    assert padded("bf16[16,33,33,728]{3,0,2,1:T(8,128)(2,1)S(1)}") == 2 * 16 * 33 * 33 * 768
    assert padded("(f32[3]{0:T(128)}, pred[5])") == 4 * 128 + 5
