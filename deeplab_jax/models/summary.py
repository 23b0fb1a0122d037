"""A network on one page, without running it: sizes, receptive fields, parameters, multiply-adds.

The network is traced on shapes alone, and every convolution recorded as it is called. Only
convolutions are counted: not resizing, pooling, BatchNorm, nor adding a bias.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from math import prod
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config import ModelConfig, require
from deeplab_jax.models.build import abstract_variables, build_model
from deeplab_jax.models.layers import BiasConv, ConvBN
from deeplab_jax.models.receptive_field import View, receptive_fields
from deeplab_jax.models.unet import UpConv
from deeplab_jax.ops.conv import both
from deeplab_jax.ops.resize import Size, height_width

SMALLEST = 17  # as for data.crop_size


class Convolution(NamedTuple):
    """A convolution with its BatchNorm, as it was called for one image."""

    path: tuple[str, ...]
    """Names of its modules: ("backbone", "entry_flow_block1_unit_1", "shortcut")."""
    kernel: tuple[int, ...]
    """What makes one output pixel: [kh, kw, in, out], depthwise [kh, kw, 1, c]."""
    rate: Size
    """Of rows and of columns."""
    size: Size
    parameters: int
    statistics: int

    @property
    def multiply_adds(self) -> int:
        return prod(self.kernel) * prod(self.size)

    @property
    def padded_multiply_adds(self) -> int:
        """As the paper counted: the map padded to a multiple of the rate.

        TensorFlow ran an atrous convolution as rate^2 dense ones (SpaceToBatch).
        """
        padded = (-(-n // rate) * rate for n, rate in zip(self.size, self.rate, strict=True))
        return prod(self.kernel) * prod(padded)


class Row(NamedTuple):
    """A line of the summary: one convolution, or a few under one name and the output they make."""

    section: str
    name: str
    size: Size
    channels: int
    stride: int | None
    """Input pixels from one of its pixels to the next; None: pooled to a fixed grid."""
    rate: int
    """The largest of its convolutions."""
    receptive_field: int | None
    """Side of the square of input pixels that one of its pixels sees; None: the whole image."""
    parameters: int
    statistics: int
    multiply_adds: int
    padded_multiply_adds: int


def multiply_adds(config: ModelConfig, size: Size) -> int:
    """Multiply-adds of the network's convolutions for one image of `size`."""
    return sum(c.multiply_adds for c in trace(config, size))


def parameters(config: ModelConfig) -> int:
    """Trainable parameters of the network."""
    return count_elements(abstract_variables(config)["params"])


def summarise(config: ModelConfig, size: Size) -> list[Row]:
    """The network for one image of `size`, in the order of computation.

    Raises:
      UserError: the image is too small.
    """
    layers = zip(trace(config, size), receptive_fields(config), strict=True)
    groups = groupby(layers, key=lambda layer: section_and_name(layer[0].path))
    return [row(*names, list(group)) for names, group in groups]


def row(section: str, name: str, group: Sequence[tuple[Convolution, View]]) -> Row:
    """One row of convolutions and their views; the last makes the output."""
    convolutions, views = zip(*group, strict=True)
    fields = [view.field for view in views]
    units = len({c.path[:2] for c in convolutions})
    return Row(
        section=section,
        name=f"{name} x {units}" if units > 1 else name,
        size=convolutions[-1].size,
        channels=convolutions[-1].kernel[-1],
        stride=views[-1].stride,
        rate=max(max(c.rate) for c in convolutions),
        receptive_field=None if None in fields else max(fields),
        parameters=sum(c.parameters for c in convolutions),
        statistics=sum(c.statistics for c in convolutions),
        multiply_adds=sum(c.multiply_adds for c in convolutions),
        padded_multiply_adds=sum(c.padded_multiply_adds for c in convolutions),
    )


def section_and_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Where a convolution is listed; the units of a block share a row."""
    return path[0], re.sub(r"_unit_\d+$", "", path[1]) if len(path) > 1 else ""


def trace(config: ModelConfig, size: Size) -> list[Convolution]:
    """Every convolution for one image of `size`, in the order of computation."""
    require(min(size) >= SMALLEST, "size", size, f"height and width, each at least {SMALLEST}")
    found: list[Convolution] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y, module = call(*args, **kwargs), context.module
        if isinstance(module, ConvBN | BiasConv | UpConv) and context.method_name == "__call__":
            params = module.variables["params"]
            statistics = module.variables.get("batch_stats", {})
            kernel, rate = params["kernel"].shape, (1, 1)
            if not isinstance(module, UpConv):
                rate = both(module.rate)
            else:  # an up-convolution makes each pixel by one of its four matrices
                kernel = (1, 1, *kernel[-2:])
            sizes = (count_elements(params), count_elements(statistics))
            found.append(Convolution(module.path, kernel, rate, height_width(y), *sizes))
        return y

    def run(image: Array) -> Array:
        return build_model(config).init_with_output(jax.random.key(0), image, train=False)[0]

    with nn.intercept_methods(record):
        shape = (1, *size, config.image_channels)
        jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.float32))
    return found


def count_elements(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def format_summary(config: ModelConfig, size: Size, rows: Sequence[Row]) -> str:
    """The rows as a table of at most 100 columns, with subtotals and totals.

    The padded count has a column only where it differs.
    """
    padded = any(r.padded_multiply_adds != r.multiply_adds for r in rows)
    title = f"{config.backbone}, {config.head}: {config.classes} classes, output stride "
    title += f"{config.output_stride}, width {config.width:g}, one image of {size[0]} x {size[1]}"
    heads = ("output", "channels", "stride", "rate", "field", "parameters", "multiply-adds")
    lines = [title, "", line("", *heads, *(("padded",) if padded else ()))]
    for section, group in groupby(rows, lambda r: r.section):
        members = list(group)
        if members[0].name:
            lines.append(line(section, *[""] * 5, *counts(members, padded)))
        for r in members:
            name = f"  {r.name}" if r.name else section
            shape = ("x".join(map(str, r.size)), r.channels, r.stride or "-", r.rate)
            lines.append(line(name, *shape, r.receptive_field or "all", *counts([r], padded)))
    return "\n".join([*lines, "", *totals(rows, padded)])


def line(name: str, *cells: object) -> str:
    """One line of the table."""
    widths = (10, 9, 7, 5, 6, 12, 14, 12)
    cut = zip(cells, widths, strict=False)  # the last column may be missing
    return f"{name:<25}" + "".join(f"{cell!s:>{width}}" for cell, width in cut)


def counts(rows: Sequence[Row], padded: bool) -> list[str]:
    """The cells of parameters and of millions of multiply-adds."""
    adds = [sum(r.multiply_adds for r in rows), sum(r.padded_multiply_adds for r in rows)]
    return [
        f"{sum(r.parameters for r in rows):,}",
        *(f"{n / 1e6:,.1f} M" for n in adds[: 1 + padded]),
    ]


def totals(rows: Sequence[Row], padded: bool) -> list[str]:
    """The last lines: the sums, and what is counted how."""

    def amount(n: int) -> str:
        return f"{n / 1e9:,.2f} B" if n >= 1e9 else f"{n / 1e6:,.2f} M"

    lines = [
        f"trainable parameters  {sum(r.parameters for r in rows):>12,}",
        f"BatchNorm statistics  {sum(r.statistics for r in rows):>12,}",
        f"multiply-adds         {amount(sum(r.multiply_adds for r in rows)):>12}"
        "  of convolutions alone, not of resizing, pooling, BatchNorm",
    ]
    if padded:
        lines.append(
            f"  padded              {amount(sum(r.padded_multiply_adds for r in rows)):>12}"
            "  as in the paper: TensorFlow ran atrous ones on maps of k * rate"
        )
    note = (
        "field: receptive field, the side of the square of input pixels that an output pixel sees"
    )
    return [*lines, "", note]
