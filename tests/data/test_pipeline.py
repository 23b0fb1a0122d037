"""The same batches for any number of workers, hosts and restarts; every picture evaluated once."""

import dataclasses
from itertools import islice

import numpy as np
import pytest

from deeplab_jax import Config, UserError
from deeplab_jax.data.pipeline import (
    Batch,
    eval_batches,
    network_size,
    open_split,
    train_batches,
)
from deeplab_jax.data.sources import Source


@pytest.fixture(scope="module")
def train_source(tiny_config: Config) -> Source:
    return open_split(tiny_config.data, "train", tiny_config.model)


def take(config: Config, source: Source, n: int, *, workers: int = 0, **place: int) -> list[Batch]:
    data = dataclasses.replace(config.data, workers=workers)
    return list(islice(train_batches(source, data, batch_size=4, seed=3, **place), n))


def assert_equal(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for key in ("image", "label"):
            np.testing.assert_array_equal(x[key], y[key])


def test_batches_are_uint8_crops(tiny_config: Config, train_source: Source) -> None:
    (batch,) = take(tiny_config, train_source, 1)
    assert batch["image"].shape == (4, 33, 49, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4, 33, 49) and batch["label"].dtype == np.uint8


def test_batches_are_the_same_for_any_number_of_workers(
    tiny_config: Config, train_source: Source
) -> None:
    none = take(tiny_config, train_source, 4)
    assert_equal(none, take(tiny_config, train_source, 4, workers=2))


def test_batches_follow_from_the_step_alone(tiny_config: Config, train_source: Source) -> None:
    assert_equal(
        take(tiny_config, train_source, 6)[4:], take(tiny_config, train_source, 2, start_step=4)
    )


def test_hosts_share_the_global_batch(tiny_config: Config, train_source: Source) -> None:
    whole = take(tiny_config, train_source, 3)
    hosts = [take(tiny_config, train_source, 3, host=h, hosts=2) for h in range(2)]
    for i, batch in enumerate(whole):
        for h in range(2):
            np.testing.assert_array_equal(batch["image"][h::2], hosts[h][i]["image"])


@pytest.mark.parametrize("hosts", [1, 2])
def test_every_picture_is_evaluated_once(tiny_config: Config, hosts: int) -> None:
    source = open_split(
        tiny_config.data, "val", tiny_config.model
    )  # five pictures, batches of four
    size = network_size(tiny_config.data, source, 16)
    total = sum(
        int((batch["label"] != 255).sum())
        for host in range(hosts)
        for batch in eval_batches(
            source, tiny_config.data, batch_size=4, input_size=size, host=host, hosts=hosts
        )
    )
    assert total == sum(int((source[i]["label"] != 255).sum()) for i in range(len(source)))


def test_network_size_is_the_largest_picture_rounded_up(tiny_config: Config) -> None:
    source = open_split(tiny_config.data, "val", tiny_config.model)  # pictures of 40 x 56
    assert network_size(tiny_config.data, source, 16) == (49, 65)


def test_a_picture_larger_than_eval_size_is_refused(tiny_config: Config) -> None:
    source = open_split(tiny_config.data, "val", tiny_config.model)
    data = dataclasses.replace(tiny_config.data, eval_size=(33, 65))
    with pytest.raises(UserError, match=r"eval_size.*\(40, 56\).*--data.resize=fit"):
        network_size(data, source, 16)


def test_another_number_of_classes_is_refused(tiny_config: Config) -> None:
    model = dataclasses.replace(tiny_config.model, num_classes=5)
    with pytest.raises(UserError, match=r"--model.num_classes=3"):
        open_split(tiny_config.data, "train", model)
