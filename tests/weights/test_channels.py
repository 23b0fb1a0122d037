"""Weights for RGB in networks of other channels: timm's rule, on the first convolution alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_UNET
from flax.traverse_util import flatten_dict
from synthetic import random_variables

from deeplab_jax import ModelConfig, UserError
from deeplab_jax.config import TaskConfig
from deeplab_jax.models import build_model
from deeplab_jax.models.build import abstract_variables, mean_pixel
from deeplab_jax.weights.channels import adapt_channels
from deeplab_jax.weights.files import Weights


@pytest.mark.parametrize("model", [TINY_MODEL, TINY_UNET], ids=["mobilenet", "unet"])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_only_the_first_kernel_changes_by_timms_rule(model: ModelConfig, channels: int) -> None:
    weights = Weights(model, TaskConfig(), random_variables(model))
    adapted, words = adapt_channels(weights, channels)
    assert f"for {channels} channels" in words
    before, after = flatten_dict(weights.variables), flatten_dict(adapted.variables)
    expected = flatten_dict(abstract_variables(dataclasses.replace(model, channels=channels)))
    assert {k: x.shape for k, x in after.items()} == {k: x.shape for k, x in expected.items()}
    (changed,) = [path for path in before if before[path] is not after[path]]
    rgb, ours = before[changed], after[changed]
    if channels == 1:
        np.testing.assert_allclose(ours, rgb.sum(axis=2, keepdims=True))
    for i in range(channels if channels > 1 else 0):
        np.testing.assert_allclose(ours[:, :, i], rgb[:, :, i % 3] * 3 / channels, rtol=1e-6)


def test_a_gray_image_gives_what_it_gave_as_rgb() -> None:
    weights = Weights(TINY_UNET, TaskConfig(), random_variables(TINY_UNET))
    gray, _ = adapt_channels(weights, 1)
    image = np.random.default_rng(0).uniform(0, 255, (1, 33, 33, 1)).astype(np.float32)
    outputs = [
        build_model(w.model).apply(w.variables, jnp.asarray(x), train=False)
        for w, x in ((gray, image), (weights, np.repeat(image, 3, axis=-1)))
    ]
    np.testing.assert_allclose(*outputs, atol=1e-4)


def test_other_channels_cannot_be_adapted() -> None:
    model = dataclasses.replace(TINY_UNET, channels=5)
    weights = Weights(model, TaskConfig(), random_variables(model))
    assert adapt_channels(weights, 5) == (weights, "")
    with pytest.raises(UserError, match=r"of 5 channels, these have 3"):
        adapt_channels(weights, 3)


def test_the_padding_has_the_channels() -> None:
    beta = ModelConfig(backbone="resnet_v1_50")
    assert mean_pixel(beta) == (123, 116, 103)
    assert mean_pixel(dataclasses.replace(beta, backbone="resnet_50")) == (124, 116, 104)
    assert mean_pixel(dataclasses.replace(beta, channels=5)) == (114,) * 5
    assert mean_pixel(dataclasses.replace(TINY_UNET, channels=2)) == (127, 127)
