"""What a run says at its beginning."""

import dataclasses

import jax
import pytest

from deeplab_jax import Config
from deeplab_jax.training.loop import open_sources
from deeplab_jax.training.opening import describe_data, describe_precision


def change(config: Config, section: str, **changes: object) -> Config:
    part = dataclasses.replace(getattr(config, section), **changes)
    return dataclasses.replace(config, **{section: part})


def test_the_data_and_what_was_read_from_them(tiny_config: Config) -> None:
    asked = change(change(tiny_config, "data", crop_size=None), "model", num_classes=None)
    first, second = describe_data(asked, *open_sources(asked)).splitlines()
    root = tiny_config.machine.root
    classes = "3 classes (grey, red, blue)"
    assert first == f"data: {root}, 12 images to train on and 5 to evaluate, {classes}"
    assert second == "from the data: data.crop_size 49 x 65"
    asked = tiny_config
    assert len(describe_data(asked, *open_sources(asked)).splitlines()) == 1


@pytest.mark.parametrize(
    ("dtype", "platform", "said"),
    [
        ("float32", "cpu", ""),
        ("float32", "gpu", "TF32"),
        ("float32", "tpu", "products of float32 numbers in bfloat16"),
        ("bfloat16", "cpu", "the network computes in bfloat16"),
    ],
)
def test_a_precision_that_is_not_plain_is_said(dtype: str, platform: str, said: str) -> None:
    line = describe_precision(dtype, platform)
    assert said in line and bool(line) == bool(said)


def test_a_precision_that_the_user_chose_is_said() -> None:
    with jax.default_matmul_precision("highest"):
        assert describe_precision("float32", "tpu") == ""
    with jax.default_matmul_precision("tensorfloat32"):
        assert "tensorfloat32" in describe_precision("float32", "cpu")
