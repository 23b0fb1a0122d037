"""Meshes of simulated devices: the numbers of one device, and no more communication than is due."""

import dataclasses
import re
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EVERY_LOSS, TINY_RESNET, TINY_UNET
from jax.sharding import PartitionSpec as P
from synthetic import patches, random_variables, simulated_mesh

from deeplab_jax import Config, DataConfig, OptimConfig, TrainConfig, UserError
from deeplab_jax.inference.step import compile_eval_step
from deeplab_jax.parallel.mesh import (
    Shape,
    batch_shares,
    check_batch_size,
    device_mesh,
    fsdp_shardings,
    host_share,
    place,
    place_batch,
)
from deeplab_jax.training.state import abstract_state, fresh_state
from deeplab_jax.training.step import compile_train_step

SIZE = (65, 33)  # no part of this height divides: 33, 17, 9 rows follow
BACKBONES = {  # and widths
    "xception_41": 0.05,
    "resnet_v1_18_beta": 0.07,
    "resnet_v1_50_beta": 0.07,
    "mobilenet_v2": 0.1,
}
EVERY_SHAPE: list[Shape] = [
    (8, 1, 1),
    (1, 8, 1),
    (1, 1, 8),
    (4, 2, 1),
    (2, 4, 1),
    (4, 1, 2),
    (2, 1, 4),
    (1, 4, 2),
    (1, 2, 4),
    (2, 2, 2),
]


def some_slow(shapes: list[Shape], quick: Shape) -> list[Any]:
    """All but one of them for `-m scale` alone."""
    return [s if s == quick else pytest.param(s, marks=pytest.mark.scale) for s in shapes]


def experiment(backbone: str, size: tuple[int, int] = SIZE) -> Config:
    model = dataclasses.replace(
        TINY_RESNET,
        backbone=backbone,
        width=BACKBONES[backbone],
        output_stride=8,
        atrous_rates=(1, 2, 3),
    )
    return Config(
        model=model,
        data=DataConfig(crop_size=size),
        optim=OptimConfig(learning_rate=0.1),
        train=TrainConfig(steps=1000, batch_size=8),
    )


def force_forms(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """The network as it is on a platform; the partitioner is the same for all."""
    monkeypatch.setattr("deeplab_jax.ops.dispatch.ambient_platform", lambda: platform)


class Step(NamedTuple):
    """What a first step leaves."""

    loss: Any
    batch_stats: Any
    momentum: Any  # the gradients, with decay


def first_steps(config: Config, shape: Shape, *variables: Any) -> tuple[list[Step], str]:
    """A first step from each of these variables, and its program."""
    mesh, found = simulated_mesh(shape), []
    batch = patches(config.data.crop_size)
    batch = place_batch({name: batch[name] for name in ("image", "label")}, mesh)
    state = abstract_state(config, mesh)
    step: Any = compile_train_step(config, state, mesh, 255)
    program = step.lower(state, batch).compile()
    for start in variables:
        state, metrics = program(fresh_state(config, start, mesh), batch)
        found.append(Step(metrics["loss"], state.batch_stats, state.opt_state))
    return jax.device_get(found), program.as_text()


def next_floats(tree: Any, seed: int) -> Any:
    """Each number moved to its neighbour, above or below."""
    rng = np.random.default_rng(seed)

    def move(x: np.ndarray) -> np.ndarray:
        return np.nextafter(x, rng.choice([-np.inf, np.inf], x.shape).astype(x.dtype))

    return jax.tree.map(move, tree)


@cache
def labels_on(config: Config, shape: Shape) -> np.ndarray:
    mesh = simulated_mesh(shape)
    variables = place(random_variables(config.model), mesh)
    batch = place_batch(patches(config.data.crop_size), mesh)
    counts, labels = compile_eval_step(config, mesh, 255)(variables, batch)
    assert np.asarray(counts.confusion).sum() == batch["label"].size
    return np.asarray(labels)


@cache
def alone(config: Config) -> list[Step]:
    """A step on one device; then the same from variables that a rounding has moved."""
    variables = random_variables(config.model)
    moved = [next_floats(variables, seed) for seed in (0, 1)]
    return first_steps(config, (1, 1, 1), variables, *moved)[0]


def check_step(config: Config, shape: Shape) -> str:
    """Compare a mesh's step with one device's, array by array; the mesh's program.

    Loss and statistics agree to 1e-5 of an array's largest value. Gradients come through fifty
    BatchNorms, where float32 does not resolve that: rounding the variables moves them by up to
    5e-4 on one device. A mesh may move each of them by a few times as much as that.
    """
    want, *moved = alone(config)
    (got,), program = first_steps(config, shape, random_variables(config.model))
    check_loss_and_statistics(got, want)
    jax.tree.map(close_as_roundings, got.momentum, want.momentum, *(m.momentum for m in moved))
    return program


def check_loss_and_statistics(got: Step, want: Step) -> None:
    close_to_its_largest(got.loss, want.loss)
    statistics = partial(close_to_its_largest, zero=1e-6)  # some means are 0 but for rounding
    jax.tree.map(statistics, got.batch_stats, want.batch_stats)


def close_to_its_largest(a: np.ndarray, b: np.ndarray, zero: float = 0.0) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max() + zero)


def close_as_roundings(a: np.ndarray, b: np.ndarray, *moved: np.ndarray) -> None:
    resolved = max(np.abs(m - b).max() for m in moved)
    tolerance = max(1e-5 * np.abs(b).max(), 8 * resolved)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.scale
@pytest.mark.parametrize("shape", EVERY_SHAPE, ids=str)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_mesh_gives_the_numbers_of_one_device(
    backbone: str, shape: Shape, smooth: None
) -> None:
    check_step(experiment(backbone), shape)


@pytest.mark.parametrize("shape", some_slow(EVERY_SHAPE, quick=(2, 2, 2)), ids=str)
def test_any_mesh_gives_a_u_net_the_gradients_of_one_device(shape: Shape, smooth: None) -> None:
    """Of every loss, to 1e-5 of each array's largest value.

    Through 18 BatchNorms float32 resolves that.
    """
    train = TrainConfig(steps=1000, batch_size=8, loss=EVERY_LOSS)
    config = dataclasses.replace(experiment("xception_41"), model=TINY_UNET, train=train)
    (got,), _ = first_steps(config, shape, random_variables(config.model))
    want = alone(config)[0]
    check_loss_and_statistics(got, want)
    jax.tree.map(close_to_its_largest, got.momentum, want.momentum)


COLLECTIVE = re.compile(
    r" = (\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)"
    r'(?:-start)?\(.*?op_name="([^"]*)"'
)


def collectives(program: str) -> dict[str, set[str]]:
    """Kind -> the operations of the step, by the last part of their names, that need it."""
    found: dict[str, set[str]] = {}
    for _, kind, name in COLLECTIVE.findall(program):
        found.setdefault(kind, set()).add(operation(name))
    return found


def operation(name: str) -> str:
    """What a name like `jit(step)/transpose(jvp(Network))/decoder0/nh,bhwc->bnwc/dot_general` says.

    A parameter's is that of the state in jax 0.12.
    """
    last = name.rpartition("/")[2].rstrip(")")
    return "state" if last.startswith("state.") else "resize" if "bhwc->b" in name else last


# What may be gathered: parameters and the rows that a resize reads (`ops/partition.py`),
# and in the loss's backward pass a block's gradients, for the product with the resize's matrix.
GATHERS = {"state", "sharding_constraint", "resize"}
# What reaches over to a neighbour's rows; a pad and a slice move the boundary between two.
HALOS = {"conv_general_dilated", "pad", "slice", "reduce_window_max", "select_and_scatter"}


# Each kind of backbone and each platform's forms once; the rest, minutes long, with -m scale.
QUICK = {("xception_41", "cpu"), ("mobilenet_v2", "tpu"), ("resnet_v1_18_beta", "gpu")}
FORMS = [
    pytest.param(*form, marks=[] if form in QUICK else [pytest.mark.scale])
    for form in product(BACKBONES, ("cpu", "gpu", "tpu"))
]


@pytest.mark.parametrize(("backbone", "platform"), FORMS)
def test_images_split_by_height_exchange_rows_and_are_not_gathered(
    backbone: str, platform: str, smooth: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a new JAX breaks this, look which operation the partitioner no longer splits."""
    force_forms(monkeypatch, platform)
    config, shape = experiment(backbone), (2, 2, 2)
    compare = platform == "gpu"  # the others' numbers: -m scale
    program = check_step(config, shape) if compare else first_steps(config, shape)[1]
    found = collectives(program)
    assert found["all-gather"] <= GATHERS
    # The CPU's product has the pooled image's few numbers change devices: they are of one row.
    assert found["collective-permute"] <= HALOS | ({"dot_general"} if platform == "cpu" else set())
    assert "conv_general_dilated" in found["collective-permute"]
    assert found.keys() <= {"all-gather", "all-reduce", "collective-permute", "reduce-scatter"}


@pytest.mark.parametrize("hard_pixels", [1.0, 0.25])
def test_a_split_batch_needs_sums_alone(
    hard_pixels: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hard pixels too: no device sees the others' losses."""
    force_forms(monkeypatch, "tpu")
    config = experiment("resnet_v1_18_beta")
    if hard_pixels < 1:  # the network does not matter, and a U-Net compiles sooner
        train = dataclasses.replace(config.train, hard_pixels=hard_pixels)
        config = dataclasses.replace(config, model=TINY_UNET, train=train)
    _, program = first_steps(config, (8, 1, 1))
    assert collectives(program).keys() == {"all-reduce"}


@pytest.mark.parametrize("shape", some_slow(EVERY_SHAPE, quick=(1, 1, 8)), ids=str)
def test_predictions_are_those_of_one_device(shape: Shape) -> None:
    config = experiment("resnet_v1_18_beta")
    np.testing.assert_array_equal(labels_on(config, shape), labels_on(config, (1, 1, 1)))


def test_kernels_and_their_optimiser_are_split_over_fsdp() -> None:
    mesh = device_mesh((1, 8, 1))
    state = {"kernel": jnp.zeros((3, 3, 16, 40)), "odd": jnp.zeros((3, 5)), "bias": jnp.zeros(64)}
    places = fsdp_shardings(state, mesh)
    assert places["kernel"].spec == P(None, None, None, "fsdp")
    assert places["odd"].spec == places["bias"].spec == P()
    kernel = place(state, mesh)["kernel"]
    assert {shard.data.size for shard in kernel.addressable_shards} == {3 * 3 * 16 * 40 // 8}


def test_a_mesh_that_the_devices_do_not_make_is_refused() -> None:
    with pytest.raises(UserError, match=r"data x mesh.fsdp x mesh.space = 2 x 1 x 3 .* 8 devices"):
        device_mesh((2, 1, 3))
    with pytest.raises(UserError, match="their product must be 8"):
        device_mesh((None, 3, 1))


@dataclasses.dataclass(frozen=True)
class Chip:
    """Of a v6e slice, as far as a mesh asks."""

    coords: tuple[int, int, int]
    slice_index: int
    id: int = 0
    process_index: int = 0
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"


def chips(slices: int = 1) -> list[Chip]:
    return [Chip((x, y, 0), n) for n in range(slices) for y in range(8) for x in range(8)]


@pytest.mark.parametrize("shape", [(64, 1, 1), (16, 1, 4), (4, 4, 4), (1, 32, 2)])
def test_a_mesh_need_not_follow_the_layout_of_the_chips(shape: Shape) -> None:
    assert device_mesh(shape, chips()).devices.shape == shape


def test_several_slices_are_refused() -> None:
    with pytest.raises(UserError, match="one TPU slice; these are of 2"):
        device_mesh(devices=chips(slices=2))
    hosts = [dataclasses.replace(chip, platform="gpu") for chip in chips(slices=2)]
    assert device_mesh(devices=hosts).size == 128


def test_devices_that_share_a_image_count_once_for_the_batch() -> None:
    mesh = device_mesh((2, 2, 2))
    assert batch_shares(mesh) == 4
    check_batch_size("train.batch_size", 4, mesh)
    with pytest.raises(UserError, match=r"6 .* 8 devices, 2 to an image .* multiple of 4"):
        check_batch_size("train.batch_size", 6, mesh)
    assert host_share(mesh) == (0, 1)
