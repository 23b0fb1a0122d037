"""Modified aligned Xception as an atrous encoder (paper section 3.2; official `core/xception.py`).

Depthwise separable convolutions throughout, strided ones instead of max-pooling, BatchNorm after
every depthwise convolution. What the released networks do differently from the paper's text: no
ReLU between depthwise and pointwise except in `exit_flow_block2`, and none after a residual sum.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import scan

from deeplab_jax.models.layers import (
    ConvBN,
    apply_unit,
    atrous_plan,
    recompute_policy,
    relu,
    scale_channels,
)
from deeplab_jax.parallel.mesh import platform_dependent


class Block(NamedTuple):
    """`units` equal units of three separable convolutions; `stride` is the last unit's."""

    name: str
    depths: tuple[int, int, int]
    stride: int
    skip: Literal["conv", "sum", "none"] = "conv"
    units: int = 1


def blocks(variant: str) -> tuple[Block, ...]:
    """The blocks of Xception-41, -65 or -71 (official `xception_{41,65,71}`)."""
    entry: tuple[Block, ...]
    if variant == "xception_71":
        entry = (
            Block("entry_flow_block1", (128,) * 3, 2),
            Block("entry_flow_block2", (256,) * 3, 1),
            Block("entry_flow_block3", (256,) * 3, 2),
            Block("entry_flow_block4", (728,) * 3, 1),
            Block("entry_flow_block5", (728,) * 3, 2),
        )
    else:
        entry = (
            Block("entry_flow_block1", (128,) * 3, 2),
            Block("entry_flow_block2", (256,) * 3, 2),
            Block("entry_flow_block3", (728,) * 3, 2),
        )
    middle_units = 8 if variant == "xception_41" else 16
    return (
        *entry,
        Block("middle_flow_block1", (728,) * 3, 1, "sum", middle_units),
        Block("exit_flow_block1", (728, 1024, 1024), 2),
        Block("exit_flow_block2", (1536, 1536, 2048), 1, "none"),
    )


class XceptionUnit(nn.Module):
    """Three separable convolutions, the third one strided, and a shortcut.

    Returns the output and the second convolution's output: a low-level feature for the decoder,
    before any ReLU and before the stride (official `networks_to_feature_maps`).
    """

    depths: tuple[int, ...]
    stride: int
    rates: tuple[int, ...]
    skip: Literal["conv", "sum", "none"]
    decay: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        norm = {"decay": self.decay, "epsilon": 1e-3, "dtype": self.dtype}
        activate_inside = self.skip == "none"  # exit_flow_block2 only
        residual, low_level = x, x
        for i, (depth, rate) in enumerate(zip(self.depths, self.rates, strict=True), start=1):
            stride = self.stride if i == 3 else 1
            activation = relu if activate_inside else None
            if not activate_inside:
                residual = relu(residual)
            name = f"separable_conv{i}"
            residual = ConvBN(None, 3, stride, rate, activation, name=f"{name}_depthwise", **norm)(
                residual, train=train
            )
            residual = ConvBN(depth, activation=activation, name=f"{name}_pointwise", **norm)(
                residual, train=train
            )
            low_level = residual if i == 2 else low_level
        if self.skip == "conv":
            shortcut = ConvBN(self.depths[-1], 1, self.stride, name="shortcut", **norm)(
                x, train=train
            )
            return residual + shortcut, low_level
        return (residual + x if self.skip == "sum" else residual), low_level


class Xception(nn.Module):
    """Xception-41/65/71: image [b, h, w, 3] in [-1, 1] -> (features, {stride: low-level features}).

    Low-level features are named by the stride they have without atrous convolution: 2, 4, 8, 16.
    """

    variant: str
    output_stride: int
    multi_grid: tuple[int, int, int] = (1, 1, 1)
    width: float = 1.0
    decay: float = 0.9997
    dtype: Any = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        def wide(depth: int) -> int:
            return scale_channels(depth, self.width)

        norm = {"decay": self.decay, "epsilon": 1e-3, "dtype": self.dtype}
        x = ConvBN(wide(32), 3, 2, activation=relu, name="entry_flow_conv1_1", **norm)(
            x, train=train
        )
        x = ConvBN(wide(64), 3, 1, activation=relu, name="entry_flow_conv1_2", **norm)(
            x, train=train
        )
        low_levels: dict[int, Array] = {}
        # (block, number of the unit in it, its natural stride)
        units = [
            (block, unit, block.stride if unit == block.units else 1)
            for block in blocks(self.variant)
            for unit in range(1, block.units + 1)
        ]
        plan = atrous_plan([stride for _, _, stride in units], 2, self.output_stride)
        # Whoever looks inside (or makes the variables) needs each unit under its own name.
        watched = [self.is_mutable_collection(c) for c in ("moments", "intermediates")]
        one_by_one = self.is_initializing() or any(watched)
        for (block, number, natural), step in zip(units, plan, strict=True):
            if block.units > 1 and number > 1 and not one_by_one:
                continue  # scanned with the first
            grid = self.multi_grid if block.skip == "none" else (1, 1, 1)
            unit = partial(
                XceptionUnit,
                tuple(wide(d) for d in block.depths),
                step.stride,
                tuple(step.rate * g for g in grid),
                block.skip,
                self.decay,
                self.dtype,
            )
            if block.units > 1 and not one_by_one:
                x = self.scan_units(unit(parent=None), block, x, train)
                continue
            named = unit(name=f"{block.name}_unit_{number}")
            remat = "none" if self.remat == "middle_flow" else self.remat
            x, low_level = apply_unit(named, x, train=train, remat=remat)
            if natural == 2:
                low_levels[step.natural_stride] = low_level
        return x, low_levels

    @nn.nowrap
    def scan_units(self, unit: XceptionUnit, block: Block, x: Array, train: bool) -> Array:
        """The equal units of the middle flow as one scanned body: compiled once, not 16 times.

        In the variable tree each unit keeps its name.
        """
        names = [f"{block.name}_unit_{number}" for number in range(1, block.units + 1)]
        stacked = {
            collection: jax.tree.map(lambda *x: jnp.stack(x), *(tree[name] for name in names))
            for collection, tree in self.variables.items()
        }

        def body(x: Array, variables: Any) -> tuple[Array, Any]:
            (x, _), updates = unit.apply(variables, x, train=train, mutable=["batch_stats"])
            return x, updates["batch_stats"]

        def run(x: Array, stacked: Any, unroll: bool) -> tuple[Array, Any]:
            unit = body
            if train and self.remat != "none":
                # Only without the loop could XLA merge what is computed again with the first time.
                policy = recompute_policy(self.remat)
                unit = jax.checkpoint(body, policy=policy, prevent_cse=(unroll, False))
            return scan(unit, x, stacked, unroll=unroll)

        # On CUDA a loop runs a kernel for each array that it stacks: 45 a unit.
        x, stats = platform_dependent(
            x, stacked, cuda=partial(run, unroll=True), default=partial(run, unroll=False)
        )
        for i, name in enumerate(names):
            if train:
                self.put_variable("batch_stats", name, jax.tree.map(lambda s, i=i: s[i], stats))
        return x
