"""The reading of a compiled program's text; compiling itself needs libtpu and minutes."""

from collections import Counter

from benchmarks.tpu_compile import collectives, result_bytes

HLO = """\
HloModule jit_step, is_scheduled=true
%sum (x: f32[], y: f32[]) -> f32[] {
  ROOT %add = f32[] add(%x, %y)
}
ENTRY %main {
  %all-reduce.1 = f32[728]{0:T(1024)} all-reduce(%fusion.1), channel_id=1
  %all-reduce.2 = (f32[]{:T(128)}, bf16[3,3]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/f32[10]{0}) \
all-reduce(%a, %b, %c)
  %first = f32[728]{0} get-tuple-element(%all-reduce.2), index=0, metadata={op_name="all-reduce(y)"}
  %fusion.9 = (f32[5]{0}, f32[5]{0}) fusion(%all-reduce.1), kind=kLoop, calls=%computation
  %start = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%d), dimensions={0}
  %done = bf16[16,8]{1,0} all-gather-done(%start)
  ROOT %collective-permute.3 = pred[7]{0} collective-permute(%e), source_target_pairs={{0,1}}
}
"""


def test_collectives_counts_each_once_with_the_bytes_of_its_result() -> None:
    found = collectives(HLO)
    assert set(found) == {"all-reduce", "all-gather", "collective-permute"}
    assert found["all-reduce"] == (2, Counter(f32=4 * (728 + 1 + 10), bf16=2 * 9))
    assert found["all-gather"] == (1, Counter(bf16=2 * 16 * 8))
    assert found["collective-permute"] == (1, Counter(pred=7))


def test_a_program_for_one_chip_has_no_collectives() -> None:
    assert collectives("%fusion = f32[2]{0} fusion(%x), kind=kLoop") == {}


def test_result_bytes_of_every_width() -> None:
    result = "(f32[], bf16[2,3]{1,0:T(8,128)(2,1)}, s4[3]{0:E(4)}, f8e4m3fn[5]{0}, u32[2]{0:S(2)})"
    assert result_bytes(result) == Counter(f32=4, bf16=12, s4=2, f8e4m3fn=5, u32=8)
