"""The atrous plan: which units of a backbone stride, and which dilate (paper section 3.1)."""

from collections.abc import Sequence
from typing import NamedTuple


class AtrousStep(NamedTuple):
    """What a unit does at the chosen output stride."""

    stride: int
    rate: int
    natural_stride: int
    """The stride that its input has without atrous convolution."""


def atrous_plan(
    unit_strides: Sequence[int], stem_stride: int, output_stride: int
) -> list[AtrousStep]:
    """Strides and rates of a backbone's units, from their natural strides.

    Once the output stride is reached, a unit that would stride keeps its pixels at the rate so far,
    and those after it dilate by its stride (official `stack_blocks_dense`): at output stride 8, the
    strides (2, 2, 1) behind a stem of 4 become (2, 1, 1), with rates (1, 1, 2).
    """
    plan = []
    natural, current, rate = stem_stride, stem_stride, 1
    for stride in unit_strides:
        dense = current == output_stride
        plan.append(AtrousStep(1 if dense else stride, rate if dense else 1, natural))
        natural *= stride
        if dense:
            rate *= stride
        else:
            current *= stride
    return plan
