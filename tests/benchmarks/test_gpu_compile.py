"""The counting in a compiled program's text; compiling itself needs the CUDA plugin and minutes."""

import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_compile import ALL_REDUCE, KERNEL, PLUGIN, executions

HLO = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %inner = f32[8]{0} fusion(%p), kind=kLoop, calls=%never_counted
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
    assert executions(HLO, KERNEL) == 16 * body_and_condition + body_and_condition + 1
    assert executions(HLO, ALL_REDUCE) == 16 + 1 + 1


def test_without_the_compiler_it_says_what_to_install() -> None:
    code = f"import sys; sys.modules['{PLUGIN.replace('-', '_')}'] = None\n"
    code += "import runpy; sys.argv = ['gpu_compile']\n"
    code += "runpy.run_module('benchmarks.gpu_compile', run_name='__main__')"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert len(done.stderr.splitlines()) == 1
