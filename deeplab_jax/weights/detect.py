"""Which network official variables are of: read off their names and shapes.

What these cannot tell (rates, output stride, sizes) is as published of such networks, else the
official default.
"""

from collections.abc import Mapping, Set
from functools import partial
from operator import eq
from typing import Any, get_args

from deeplab_jax.config import Backbone, ModelConfig
from deeplab_jax.errors import UserError
from deeplab_jax.models import mobilenet, resnet, xception
from deeplab_jax.models.build import family
from deeplab_jax.models.inverted_residual import make_divisible
from deeplab_jax.models.layers import scale_channels
from deeplab_jax.models.mobilenet_v3 import LAYOUTS, Unit
from deeplab_jax.weights.detect_head import LOW_LEVEL, Hint, Shapes, detect_head, ends
from deeplab_jax.weights.tf_names import tf_network

# The fields that variables leave open; of a head's first three they tell something: how many rates.
UNTOLD_BACKBONE = ("output_stride", "multi_grid", "activation")
UNTOLD_HEAD = (
    *("atrous_rates", "dense_prediction_cell", "image_pooling_gate"),
    *("image_pooling_crop_size", "image_pooling_stride"),
)
UNTOLD = (*UNTOLD_BACKBONE, *UNTOLD_HEAD)
_OURS = ("head_init", "batch_norm_decay", "dtype", "remat")  # of training and arithmetic
# Those that they decide: a flag that says otherwise is wrong.
TOLD = tuple(name for name in vars(ModelConfig()) if name not in (*UNTOLD, *_OURS))
BACKBONE = ("backbone", "channels", "width", "width_divisor", "whole_top")
HEAD = {*TOLD, *UNTOLD_HEAD} - {*BACKBONE}
V2 = [Unit(expansion, channels, stride=stride) for expansion, channels, stride in mobilenet.UNITS]
STRIDES = ((4,), (8, 4), (16, 8, 4), (8,), (16,), (16, 4), (16, 8))  # of decoders, usual ones first
# In thousandths, round ones first.
WIDTHS = sorted(range(1, 16_001), key=lambda k: (k % 1000 > 0, k % 250 > 0, k % 50 > 0, k % 10 > 0))


def detect_network(
    shapes: Shapes, origin: str, asked: Mapping[str, Any], free: Set[str] = frozenset()
) -> ModelConfig:
    """The network of variables under official TF names, with the settings that were asked for.

    Fields that are `free` may be asked for as one likes; if those of the `HEAD` are, and one of
    them is asked for, nothing of it is read off.

    Raises:
      UserError: the variables, of `origin`, are of no network that is known; they contradict a
        setting; or nothing usual fits what they tell: a setting must say it.
    """
    told = detect_backbone(shapes, origin, asked) | detect_head(shapes)
    if free >= HEAD and asked.keys() & HEAD:
        told = {name: told[name] for name in BACKBONE}
    fields = dict(asked)
    for name, value in told.items():
        exact = Hint(repr(value), partial(eq, value), (value,))
        hint = value if isinstance(value, Hint) else exact
        usual = [value for value in hint.usual if hint.fits(value)]
        if name in asked and name not in free and not hint.fits(asked[name]):
            given = f"model.{name} = {asked[name]!r}"
            raise UserError(f"{given} is not what {origin} holds: {hint.words}; leave it out")
        if name not in asked and not usual:
            what = f"{hint.words}, not those of a published network"
            raise UserError(f"{origin} holds {what}: say them by --model.{name}")
        fields.setdefault(name, *usual[:1])
    return ModelConfig(**usual_settings(fields) | fields)


def usual_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is published of such networks in fields that variables do not tell.

    Source: g3doc/model_zoo.md; classifiers are slim's.
    """
    backbone, gate = fields["backbone"], fields.get("image_pooling_gate", "none")
    if backbone.startswith("mobilenet_v3") and gate != "none":
        sizes = {"image_pooling_crop_size": (769, 769), "image_pooling_stride": (4, 5)}
        return {"output_stride": 32, **sizes}
    deep = backbone == "mobilenet_edgetpu" or fields.get("head") == "classifier"
    beta = backbone in ("resnet_v1_50_beta", "resnet_v1_101_beta")
    return {"output_stride": 32 if deep else 16, "multi_grid": (1, 2, 4) if beta else (1, 1, 1)}


def find_untold(model: ModelConfig) -> dict[str, Any]:
    """What variables do not tell of this network; only what it has."""
    values = vars(model) | {"atrous_rates": model.rates}
    if family(model.backbone) == "mobilenet":
        values["multi_grid"] = ()
    if model.dense_prediction_cell:
        values |= {"atrous_rates": (), "dense_prediction_cell": "of branch5_top1_cityscapes.json"}
    names = UNTOLD if model.head in ("deeplabv3", "deeplabv3plus") else UNTOLD_BACKBONE
    return {name: values[name] for name in names if values[name] not in ((), "none")}


def detect_backbone(shapes: Shapes, origin: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the backbone, and the decoder's strides, which its channels tell.

    Where several widths may be it, it is the one that was asked for.
    """
    found = find_backbones(shapes, origin)
    rows = {name: find_units(shapes, name) for name in found}
    divisors = (asked.get("width_divisor"), None, 8) if found == ["mobilenet_v2"] else (None,)

    def widen(channels: int, backbone: str, width: float, divisor: int | None) -> int:
        if family(backbone) != "mobilenet":
            return scale_channels(channels, width)
        usual = 1 if backbone == "mobilenet_v2" and width != 1 else 8
        return make_divisible(channels * width, divisor or usual)

    fitting = (
        (name, width, divisor)
        for width in (asked.get("width", 1.0), *(k / 1000 for k in WIDTHS))
        for name in found
        for divisor in divisors
        if all(widen(usual, name, width, divisor) == there for usual, there, _ in rows[name])
    )
    backbone, width, divisor = next(fitting, (found[0], 1.0, None))
    stems = ("Conv", "entry_flow/conv1_1", "conv1_1", "conv1")
    channels, _ = max(ends(shapes, f"{tf_network(backbone)}/{stem}") for stem in stems)
    usual = channels in (0, 3) and not asked.get("channels")
    layout, (_, top) = LAYOUTS.get(backbone), ends(shapes, f"{tf_network(backbone)}/Conv_1")
    whole = layout is not None and width != 1 and top == layout.top
    told = (backbone, None if usual else channels, width, divisor, whole)
    fields = dict(zip(BACKBONE, told, strict=True))
    low = [ends(shapes, LOW_LEVEL + suffix)[0] for suffix in ("", "_1", "_2")]
    if low[0]:
        there = dict(zip((4, 8, 16), [n for *_, n in rows[backbone] if n][-3:], strict=False))
        low = [n for n in low if n]
        words = f"low-level features of {' and '.join(map(str, low))} channels"
        fits = lambda strides: [there.get(s) for s in strides] == low  # noqa: E731
        fields["decoder_strides"] = Hint(words, fits, STRIDES)
    return fields


def find_backbones(shapes: Shapes, origin: str) -> list[str]:
    """The backbones that names speak for; those of one scope differ in their channels."""
    scopes = {name.partition("/")[0] for name in shapes}
    squeezed = any("/squeeze_excite/" in name for name in shapes)
    found = [
        name
        for name in get_args(Backbone)
        if name != "unet"
        and tf_network(name) in scopes
        and name.endswith("_beta") == (f"{tf_network(name)}/conv1_1/weights" in shapes)
        and name.endswith("minimalistic") == (name.startswith("mobilenet_v3") and not squeezed)
    ]
    if not found:
        known = ", ".join(get_args(Backbone))
        some = ", ".join(sorted(scopes)[:6])
        raise UserError(f"{origin}: holds variables of {some}, and of none of the networks {known}")
    return found


def find_units(shapes: Shapes, backbone: str) -> list[tuple[int, int, int]]:
    """Of each unit the channels at width 1, those here, and those of low-level features or 0."""
    layout, side = LAYOUTS.get(backbone), 1  # the channels that a convolution gives
    if family(backbone) == "xception":
        form, wide, low = "{}/unit_1/xception_module/separable_conv", "3_pointwise", "2_pointwise"
        blocks = xception.blocks(backbone)
        units = [(b.name.replace("_block", "/block"), b.depths[-1], b.stride == 2) for b in blocks]
    elif family(backbone) == "resnet":
        lite = "_18" in backbone
        form = f"{{}}/unit_1/{'lite_' if lite else ''}bottleneck_v1/conv"
        wide, low = "1", "2" if lite else "3"
        units = [(f"block{b}", n, b < 4) for b, n in enumerate(resnet.DEPTHS, start=1)]
    else:
        form, wide, low = "{}/", "project", "project"
        rows = layout.units if layout else V2
        strided = [*(row.stride == 2 for row in rows[1:]), False]
        names = ["expanded_conv" + (f"_{i}" if i else "") for i in range(len(rows))]
        units = [(n, row.channels, s) for n, row, s in zip(names, rows, strided, strict=True)]
        side = int(not layout and "MobilenetV2/Conv_1/weights" in shapes)  # else that it takes
    scopes = [(f"{tf_network(backbone)}/{form.format(name)}", n, taken) for name, n, taken in units]
    found = [
        (n, ends(shapes, scope + wide)[1], ends(shapes, scope + low)[side] if taken else 0)
        for scope, n, taken in scopes
    ]
    _, top = ends(shapes, f"{tf_network(backbone)}/Conv_1")
    if layout and top != layout.top:  # whole, it tells no width
        found.append((layout.top, top, 0))
    return found
