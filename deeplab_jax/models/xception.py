"""Modified aligned Xception as an atrous encoder (paper section 3.2; official `core/xception.py`).

Depthwise separable convolutions throughout, strided ones instead of max-pooling, BatchNorm after
every depthwise convolution. What the released networks do differently from the paper's text: no
ReLU between depthwise and pointwise except in `exit_flow_block2`, and none after a residual sum.
"""

from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config import ModelConfig
from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.layers import (
    ConvBN,
    LayerOptions,
    apply_unit,
    recompute_policy,
    relu,
    relu6,
    scale_channels,
)


class Block(NamedTuple):
    """`units` equal units of three separable convolutions; `stride` is the last unit's."""

    name: str
    depths: tuple[int, int, int]
    stride: int
    skip: Literal["conv", "sum", "none"] = "conv"
    units: int = 1


def blocks(variant: str) -> tuple[Block, ...]:
    """The blocks of Xception-41, -65 or -71 (official `xception_{41,65,71}`)."""
    entry: tuple[tuple[int, int], ...] = ((128, 2), (256, 2), (728, 2))  # depth, stride
    if variant == "xception_71":
        entry = ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2))
    middle_units = 8 if variant == "xception_41" else 16
    return (
        *(Block(f"entry_flow_block{i}", (d, d, d), s) for i, (d, s) in enumerate(entry, start=1)),
        Block("middle_flow_block1", (728, 728, 728), 1, "sum", middle_units),
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
    bounded: bool
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        # Bounded ones are padded as TensorFlow does it.
        layer = partial(ConvBN, options=replace(self.options, tf_same=self.bounded))
        act, clip = (relu6, clip6) if self.bounded else (relu, None)
        inside = self.skip == "none"  # exit_flow_block2 only
        activation = act if inside else clip
        y, low_level = x, x
        for i, (depth, rate) in enumerate(zip(self.depths, self.rates, strict=True), start=1):
            stride, name = self.stride if i == 3 else 1, f"separable_conv{i}"
            y = y if inside else act(y)
            y = layer(None, 3, stride, rate, activation, name=f"{name}_depthwise")(y, train=train)
            y = layer(depth, activation=activation, name=f"{name}_pointwise")(y, train=train)
            low_level = y if i == 2 else low_level
        if inside:
            return y, low_level
        if self.skip == "conv":
            x = layer(self.depths[-1], 1, self.stride, name="shortcut")(x, train=train)
        return (relu6(y + clip6(x)) if self.bounded else y + x), low_level


def clip6(x: Array) -> Array:
    """What bounded networks have where others have no activation: -6 to 6."""
    return jnp.clip(x, -6, 6)


class Xception(nn.Module):
    """Xception-41/65/71: image [b, h, w, 3] in [-1, 1] -> (features, {2, 4, 8, 16: low-level})."""

    config: ModelConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[int, Array]]:
        c, bounded = self.config, self.config.activation == "relu6"
        layer = partial(ConvBN, activation=relu6 if bounded else relu, options=self.options)
        x = layer(scale_channels(32, c.width), 3, 2, name="entry_flow_conv1_1")(x, train=train)
        x = layer(scale_channels(64, c.width), 3, name="entry_flow_conv1_2")(x, train=train)
        low_levels: dict[int, Array] = {}
        # (block, number of the unit in it, its natural stride)
        units = [
            (block, unit, block.stride if unit == block.units else 1)
            for block in blocks(c.backbone)
            for unit in range(1, block.units + 1)
        ]
        plan = atrous_plan([stride for _, _, stride in units], 2, c.output_stride)
        # Whoever looks inside needs each unit under its own name. At inference a scan would only
        # stack the kernels: on a CPU one by one takes 0.89 of its time (benchmarks/README.md).
        watched = [self.is_mutable_collection(name) for name in ("moments", "intermediates")]
        one_by_one = not train or any(watched)
        for (block, number, natural), step in zip(units, plan, strict=True):
            depths = tuple(scale_channels(d, c.width) for d in block.depths)
            grid = c.multi_grid if block.skip == "none" else (1, 1, 1)
            rates = tuple(step.rate * g for g in grid)
            kind = (block.skip, bounded, self.options)
            unit = partial(XceptionUnit, depths, step.stride, rates, *kind)
            if block.units > 1 and not one_by_one:
                if number == 1:
                    x = self.scan_units(unit(parent=None), block, x)
                continue
            remat = "none" if c.remat == "middle_flow" else c.remat
            named = unit(name=f"{block.name}_unit_{number}")
            x, low_level = apply_unit(named, x, train=train, remat=remat)
            if natural == 2:
                low_levels[step.natural_stride] = low_level
        return x, low_levels

    @nn.nowrap
    def scan_units(self, unit: XceptionUnit, block: Block, x: Array) -> Array:
        """The equal units of the middle flow as one scanned body, for training.

        In the variable tree each unit keeps its name.
        """
        names = [f"{block.name}_unit_{number}" for number in range(1, block.units + 1)]
        stacked = {
            collection: jax.tree.map(lambda *x: jnp.stack(x), *(tree[name] for name in names))
            for collection, tree in self.variables.items()
        }

        def body(x: Array, variables: Any) -> tuple[Array, Any]:
            (x, _), updates = unit.apply(variables, x, train=True, mutable=["batch_stats"])
            return x, updates["batch_stats"]

        if self.config.remat != "none":
            policy = recompute_policy(self.config.remat)
            body = jax.checkpoint(body, policy=policy, prevent_cse=False)  # the loop does
        x, stats = jax.lax.scan(body, x, stacked)
        for i, name in enumerate(names):
            self.put_variable("batch_stats", name, jax.tree.map(lambda s, i=i: s[i], stats))
        return x
