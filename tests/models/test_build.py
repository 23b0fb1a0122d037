"""What a network is made of, whatever its weights."""

import dataclasses
from functools import partial
from typing import Any

import chex
import jax
import numpy as np
import pytest
from conftest import TINY_MODEL
from flax.traverse_util import flatten_dict
from synthetic import random_variables

from deeplab_jax import ModelConfig, build_model
from deeplab_jax.config.cell import Branch
from deeplab_jax.models.build import abstract_variables, init_variables
from deeplab_jax.ops.resize import scale_dimension


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [("xception_65", 41_055_413), ("xception_41", 28_109_000), ("xception_71", 43_478_000)],
)
def test_parameter_counts_are_the_published_ones(backbone: str, parameters: int) -> None:
    params = abstract_variables(ModelConfig(backbone=backbone))["params"]  # type: ignore[arg-type]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert abs(count - parameters) < (1 if backbone == "xception_65" else 500)


@pytest.mark.parametrize("head", ["deeplabv3plus", "deeplabv3", "pspnet", "unet"])
@pytest.mark.parametrize(
    ("backbone", "size"),
    [("xception_41", (65, 97)), ("resnet_v1_50_beta", (64, 96)), ("mobilenet_v2", (51, 70))],
)
def test_one_variable_tree_serves_every_output_stride(
    head: str, backbone: str, size: tuple[int, int]
) -> None:
    base = dataclasses.replace(TINY_MODEL, backbone=backbone, head=head)
    variables = abstract_variables(base)
    image = jax.ShapeDtypeStruct((2, *size, 3), "float32")
    for stride in (8, 16, 32):
        model = build_model(dataclasses.replace(base, output_stride=stride))
        logits = jax.eval_shape(partial(model.apply, train=False), variables, image)
        at = {"deeplabv3plus": 4, "unet": 2}.get(head, stride)
        assert logits.shape == (2, scale_dimension(size[0], at), scale_dimension(size[1], at), 3)


@pytest.mark.parametrize("head", ["deeplabv3plus", "deeplabv3", "pspnet", "unet", "classifier"])
def test_a_network_has_only_its_own_parts(head: str) -> None:
    parts = {
        "deeplabv3plus": {"aspp", "decoder0"},
        "deeplabv3": {"aspp"},
        "pspnet": {"pyramid_pooling"},
        "unet": {"expanding_path"},
        "classifier": set(),
    }
    config = ModelConfig(backbone="mobilenet_v2", head=head)  # type: ignore[arg-type]
    assert set(abstract_variables(config)["params"]) == {"backbone", *parts[head], "logits"}


def test_what_of_mobilenet_the_decoder_stands_on() -> None:
    """24 and 1280 channels are what segmentation_models.pytorch's DeepLabV3Plus has."""

    def inputs(endpoints: str) -> tuple[int, int]:
        config = ModelConfig(backbone="mobilenet_v2", mobilenet_endpoints=endpoints)  # type: ignore[arg-type]
        params = abstract_variables(config)["params"]
        low_level = params["decoder0"]["feature_projection"]["kernel"]
        return low_level.shape[2], params["aspp"]["aspp0"]["kernel"].shape[2]

    assert (inputs("official"), inputs("blocks")) == ((144, 320), (24, 1280))


@pytest.mark.parametrize(
    ("head_init", "pointwise", "logits"),
    [("official", 0.06, 0.01), ("he", (2 / 320) ** 0.5, (2 / (256 + 21)) ** 0.5)],
)
def test_how_the_head_starts(head_init: str, pointwise: float, logits: float) -> None:
    """Standard deviations; an official truncated normal's is 0.88 of its parameter."""
    config = ModelConfig(backbone="mobilenet_v2", head_init=head_init)  # type: ignore[arg-type]

    @jax.jit  # which computes no other
    def kernels(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = init_variables(config, key)["params"]
        return params["aspp"]["aspp1"]["pointwise"]["kernel"], params["logits"]["kernel"]

    cut = 0.88 if head_init == "official" else 1.0
    found = kernels(jax.random.key(0))
    np.testing.assert_allclose(found[0].std(), cut * pointwise, rtol=0.02)
    np.testing.assert_allclose(found[1].std(), cut * logits, rtol=0.05)


def test_width_divisor_gives_slims_narrow_networks() -> None:
    """slim's `mobilenet_v2_035` has 16 channels in its stem, official DeepLab's has 11."""

    def channels(divisor: int | None) -> int:
        config = ModelConfig(backbone="mobilenet_v2", width=0.35, width_divisor=divisor)
        kernel = abstract_variables(config)["params"]["backbone"]["Conv"]["kernel"]
        return int(kernel.shape[-1])

    assert (channels(None), channels(8)) == (11, 16)


def test_unet_is_the_papers_size() -> None:
    """milesial/Pytorch-UNet `UNet(n_channels=3, n_classes=2)`: the paper's with BatchNorm."""
    config = ModelConfig(backbone="unet", head="unet", num_classes=2)
    count = sum(x.size for x in jax.tree.leaves(abstract_variables(config)["params"]))
    assert count == 31_037_698


def test_pspnet_is_the_papers_size() -> None:
    """hszhao/semseg `PSPNet(layers=50, classes=21)` without its auxiliary head, summed by hand."""
    stem = 3 * 64 * 9 + 64 * 64 * 9 + 64 * 128 * 9 + 2 * (64 + 64 + 128)
    blocks, channels = 0, 128
    for depth, units in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for unit in range(units):
            out = 4 * depth
            blocks += channels * depth + 9 * depth**2 + depth * out + 2 * (2 * depth + out)
            blocks += (channels * out + 2 * out) if unit == 0 else 0
            channels = out
    pooling = 4 * (2048 * 512 + 2 * 512)
    merge, logits = 9 * 4096 * 512 + 2 * 512, 512 * 21 + 21
    config = ModelConfig(backbone="resnet_v1_50_beta", head="pspnet")
    count = sum(x.size for x in jax.tree.leaves(abstract_variables(config)["params"]))
    assert count == stem + blocks + pooling + merge + logits == 46_716_373


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("xception_41", (65, 97)),
        ("resnet_v1_50_beta", (65, 97)),
        ("resnet_v1_50", (64, 90)),
        ("resnet_50", (64, 90)),
        ("mobilenet_v2", (65, 97)),
    ],
)
def test_atrous_equivalence(backbone: str, size: tuple[int, int]) -> None:
    """The denser network computes the coarser one's values at every second pixel.

    A strided convolution is the dense one sub-sampled, and a rate of 2 on the dense grid meets the
    same pixels. For MobileNetV2 only where TensorFlow's SAME pads evenly: on sizes k * stride + 1.
    Image pooling is left out, as it averages over other pixels.
    """
    multi_grid = (1, 1, 1) if backbone == "mobilenet_v2" else (1, 2, 4)
    base = dataclasses.replace(
        TINY_MODEL,
        backbone=backbone,
        head="deeplabv3",
        image_pooling=False,
        multi_grid=multi_grid,
        output_stride=32,
    )
    variables = random_variables(base)
    image = np.random.default_rng(0).uniform(0, 255, (1, *size, 3)).astype(np.float32)
    logits = {
        stride: jax.jit(
            partial(build_model(dataclasses.replace(base, output_stride=stride)).apply, train=False)
        )(variables, image)
        for stride in (8, 16, 32)
    }
    for dense, coarse in ((8, 16), (16, 32)):
        tolerance = 1e-5 * np.abs(logits[coarse]).max()
        np.testing.assert_allclose(logits[dense][:, ::2, ::2], logits[coarse], atol=tolerance)


def test_bfloat16_keeps_parameters_and_logits_in_float32() -> None:
    config = dataclasses.replace(TINY_MODEL, dtype="bfloat16")
    variables = abstract_variables(config)
    assert {str(v.dtype) for v in flatten_dict(variables).values()} == {"float32"}
    image = jax.ShapeDtypeStruct((1, 33, 33, 3), "float32")
    logits = jax.eval_shape(
        lambda v, x: build_model(config).apply(v, x, train=False), variables, image
    )
    assert logits.dtype == "float32"


def test_the_scanned_middle_flow_is_its_units_one_by_one() -> None:
    """Asked for what is inside, the network runs its units one by one: the same numbers."""
    config = dataclasses.replace(TINY_MODEL, backbone="xception_41", width=0.05)
    model, variables = build_model(config), random_variables(config)
    image = np.random.default_rng(0).uniform(0, 255, (2, 33, 49, 3)).astype(np.float32)

    @partial(jax.jit, static_argnums=0)
    def run(collection: str) -> tuple[jax.Array, Any]:
        return model.apply(
            variables,
            image,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats", collection],
            capture_intermediates=collection == "intermediates",
        )

    logits, scanned = run("none")
    want, one_by_one = run("intermediates")
    # BatchNorm over so few pixels amplifies rounding.
    np.testing.assert_allclose(logits, want, atol=1e-3 * np.abs(want).max())
    chex.assert_trees_all_close(scanned["batch_stats"], one_by_one["batch_stats"], atol=1e-3)


CELL = (
    Branch(),
    Branch(input=0, kernel=(3, 3), rate=(1, 2)),
    Branch("pyramid_pooling", input=1, grid_size=(2, 2)),
)
GATED: dict[str, Any] = {
    "aspp_form": "concat",
    "atrous_rates": (),
    "image_pooling_gate": "hard_sigmoid",
    "decoder_merge": "sum",
    "decoder_logits": True,
}


@pytest.mark.parametrize(
    ("backbone", "fields"),
    [
        ("mobilenet_v3_large_seg", GATED),
        ("mobilenet_v3_small_seg", {"decoder_merge": "sum"}),
        ("mobilenet_v3_small", {"head": "classifier"}),
        ("mobilenet_edgetpu", {"head": "deeplabv3", "atrous_rates": ()}),
        ("resnet_v1_18_beta", {"dense_prediction_cell": CELL}),
        ("resnet_50", {"decoder_strides": (8, 4), "atrous_rates": (1,)}),
        ("resnet_v1_18", {"aspp_form": "deeplabv2", "logits_kernel": 3, "atrous_rates": (1, 2)}),
        ("xception_41", {"activation": "relu6", "atrous_rates": (1,)}),
    ],
)
def test_every_parameter_of_an_official_network_learns(
    backbone: str, fields: dict[str, Any]
) -> None:
    config = dataclasses.replace(TINY_MODEL, backbone=backbone, **{"width": 0.05, **fields})
    model, variables = build_model(config), random_variables(config)
    image = np.random.default_rng(0).uniform(0, 255, (4, 49, 65, 3)).astype(np.float32)

    @jax.jit
    def gradient(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            rngs, stats = {"dropout": jax.random.key(0)}, variables["batch_stats"]
            logits, _ = model.apply(
                {"params": params, "batch_stats": stats},
                image,
                train=True,
                rngs=rngs,
                mutable=["batch_stats"],
            )
            return -jax.nn.log_softmax(logits)[..., 1].mean()

        return jax.grad(loss)(params)

    for path, leaf in flatten_dict(gradient(variables["params"])).items():
        assert np.isfinite(leaf).all() and np.any(np.asarray(leaf) != 0), path
