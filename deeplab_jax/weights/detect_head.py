"""What official variables tell of what stands on the backbone: ASPP or cell, decoder, logits."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from deeplab_jax.config.cell import Cell, read_cell
from deeplab_jax.weights.official import CITYSCAPES_CELL

Shapes = Mapping[str, tuple[int, ...]]
LOW_LEVEL = "decoder/feature_projection0"
# The first convolution behind that projection, by merge and whether it is separable.
DECODERS = {
    ("sum", True): "decoder/decoder_split_sep_conv0_pointwise",
    ("sum", False): "decoder/decoder_conv0",
    ("concat", True): "decoder/decoder_conv0_pointwise",
    ("concat", False): "decoder/decoder_conv0/decoder_conv0_1",
}


class Hint(NamedTuple):
    """What variables tell of a field: in `words`, whether a value `fits`, the `usual` values."""

    words: str
    fits: Callable[[Any], bool]
    usual: tuple[Any, ...]


def detect_head(shapes: Shapes) -> dict[str, Any]:
    """The fields of what stands on the backbone, or hints at them; {}: nothing does."""
    (taken, _), (_, classes) = ends(shapes, LOW_LEVEL), ends(shapes, "logits/semantic")
    if not classes and not taken:
        scopes = [re.match(r".*/(?:Logits/Conv2d_1c_1x1|logits)(?=/weights$)", n) for n in shapes]
        _, classes = ends(shapes, next((match[0] for match in scopes if match), ""))
        fields = {"head": "classifier", "num_classes": classes, "whole_top": False}
        return fields if classes else {}
    blocks = "MobilenetV2/Conv_1/weights" in shapes
    fields = {"mobilenet_endpoints": "blocks" if blocks else "official"} | detect_aspp(shapes)
    if not taken:
        return {"head": "deeplabv3", "num_classes": classes} | fields
    fields |= {"head": "deeplabv3plus"} | detect_decoder(shapes, makes_logits=not classes)
    return fields | {"num_classes": classes or fields.get("decoder_channels")}


def detect_aspp(shapes: Shapes) -> dict[str, Any]:
    """The fields of the ASPP, of the cell in its place, or of DeepLab v2's logits."""
    _, channels = ends(shapes, "meta_architecture/concat_projection")
    if channels:
        cell = detect_cell(shapes, channels)
        return {"dense_prediction_cell": cell, "aspp_channels": channels, "atrous_rates": ()}
    _, channels = ends(shapes, "aspp0")
    branches = r"aspp[1-9]\d*(_pointwise)?" if channels else r"logits/semantic(_\d+)?"
    count = count_names(f"{branches}/weights", shapes)
    kernel = size_of(shapes, "logits/semantic/weights")
    if not channels and count == kernel == 1:
        count = 0  # the features' own logits
    fits = lambda rates: (3 if rates is None else len(rates)) == count  # noqa: E731
    rates = Hint(f"{count} atrous rates", fits, (None, ()))
    if not channels:
        return {"aspp_form": "deeplabv2", "logits_kernel": kernel, "atrous_rates": rates}
    joined, _ = ends(shapes, "concat_projection")
    # A gate is no branch, and has a bias; where BatchNorm is folded in, all have one.
    gated = "image_pooling/biases" in shapes and joined in (0, channels * (1 + count))
    v3 = any(name.startswith("MobilenetV3/") for name in shapes)  # which are published
    gate = Hint("a gate", lambda gate: gate != "none", ("hard_sigmoid" if v3 else "sigmoid",))
    separable = {"aspp_separable": "aspp1_depthwise/depthwise_weights" in shapes}
    return (separable if count else {}) | {
        "aspp_form": "projection" if joined else "concat",
        "aspp_channels": channels,
        "atrous_rates": rates,
        "dense_prediction_cell": (),
        "image_pooling": "image_pooling/weights" in shapes,
        "image_pooling_gate": gate if gated else "none",
    }


def detect_cell(shapes: Shapes, channels: int) -> Hint:
    """The kernels of a cell's branches, and how many channels each takes: of features, of a branch.

    Neither rates nor which branch feeds which are told, nor whether 1x1 is of pooled features.
    """
    form = r"meta_architecture/branch(\d+)(_depthwise/depthwise_weights|/weights)"
    found = {int(m[1]): size for name, size in shapes.items() if (m := re.fullmatch(form, name))}
    told = [found[i][:3] for i in sorted(found) if len(found[i]) == 4]
    features = told[0][2] if told else 0

    def fits(cell: Cell) -> bool:
        kernels = [(1, 1) if b.op == "pyramid_pooling" else b.kernel for b in cell]
        inputs = [features if b.input < 0 else channels for b in cell]
        return [(*kernel, n) for kernel, n in zip(kernels, inputs, strict=True)] == told

    branches = ", ".join(f"{h}x{w} on {n} channels" for h, w, n in told)
    published = read_cell(CITYSCAPES_CELL, "the published cell")
    return Hint(f"a cell of {branches}", fits, (published,))


def detect_decoder(shapes: Shapes, *, makes_logits: bool) -> dict[str, Any]:
    """The fields of the decoder's first stage, which the others are like."""
    fields: dict[str, Any] = {"decoder_logits": makes_logits}
    kinds = [kind for kind, scope in DECODERS.items() if f"{scope}/weights" in shapes]
    merge, separable = kinds[0] if kinds else ("concat", False)
    if merge == "concat":
        form = r"decoder/decoder_conv(\d+_pointwise|0/decoder_conv0_\d+)/weights"
        fields["decoder_convs"] = count_names(form, shapes)
        _, fields["decoder_low_level_channels"] = ends(shapes, LOW_LEVEL)
    if kinds:
        first = DECODERS[merge, separable]
        spatial = f"{first.replace('pointwise', 'depthwise')}/depthwise_weights"
        kernel = size_of(shapes, spatial if separable else f"{first}/weights")
        if not (merge == "sum" and makes_logits):  # whose kernel is 1, whatever the field says
            fields["decoder_kernel"] = kernel
        _, fields["decoder_channels"] = ends(shapes, first)
        fields["decoder_separable"] = separable
    return fields | {"decoder_merge": merge}


def count_names(form: str, shapes: Shapes) -> int:
    """How many variables have names of this form."""
    return sum(bool(re.fullmatch(form, name)) for name in shapes)


def size_of(shapes: Shapes, name: str) -> int:
    """The height of a kernel; 0: there is none of this name."""
    return (*shapes.get(name, ()), 0)[0]


def ends(shapes: Shapes, scope: str) -> tuple[int, int]:
    """The channels that a convolution takes and gives; 0: there is none of this scope."""
    shape = shapes.get(f"{scope}/weights", ())
    return (shape[2], shape[3]) if len(shape) == 4 else (0, 0)
