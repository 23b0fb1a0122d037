"""Bytes and kernels of a compiled program by part of the network."""

from pathlib import Path

import pytest

from benchmarks.program_parts import kernels, print_traffic, traffic

PROGRAMS = Path(__file__).parents[1] / "plan"
HLO = (PROGRAMS / "tpu_program.txt").read_text()
GPU_PROGRAM = (PROGRAMS / "gpu_program.txt").read_text()
ARRAY = 4 * 4 * 256 / 1e9


def test_a_loop_counts_as_often_as_it_runs_and_a_sliced_operand_as_its_slice() -> None:
    found = traffic(HLO)
    row, counter, condition = 4 * 256, 4, 4 + 4 + 1
    moved = 4 * (row + row + counter + condition)
    assert found.bytes["loss: 4 times"] == pytest.approx(moved / 1e9, rel=0.1)


def test_a_copy_into_fast_memory_counts_four_times_for_xla_and_once_in_main_memory() -> None:
    found = traffic(HLO)
    assert found.bytes["exit"] == pytest.approx((4 + 3) * ARRAY, rel=1e-3)
    assert found.main["exit"] == pytest.approx((1 + 2) * ARRAY)


def test_a_loops_kernels_count_at_each_trip_and_a_fusions_inside_never() -> None:
    body_and_condition = 2 + 1
    assert kernels(GPU_PROGRAM) == {
        "loss: 16 times": 16 * body_and_condition,
        "loss: 1 times": body_and_condition,
        "rest": 1,
    }


def test_the_table_ends_with_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    print_traffic(traffic(HLO))
    assert capsys.readouterr().out.splitlines()[-1].startswith("all ")
