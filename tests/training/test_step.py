"""The training step: the same on any number of devices, frozen where asked, and able to learn."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EVERY_LOSS, TINY_MODEL, TINY_RESNET, TINY_UNET
from synthetic import close, patches, random_variables, square_image

from deeplab_jax import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    build_model,
)
from deeplab_jax.data.datasets import scenes
from deeplab_jax.inference.metrics import scores
from deeplab_jax.inference.step import (
    compile_eval_step,
    predict_labels,
    predict_probabilities,
    resample_labels,
)
from deeplab_jax.parallel.mesh import device_mesh, place_batch
from deeplab_jax.training.start import initial_variables
from deeplab_jax.training.state import TrainState, abstract_state, fresh_state
from deeplab_jax.training.step import compile_train_step, count_step, loss_and_stats

CONFIG = Config(
    model=TINY_MODEL,
    data=DataConfig(crop_size=(33, 49)),
    optim=OptimConfig(learning_rate=0.1),
    train=TrainConfig(steps=1000, batch_size=8),
)


def squares(n: int) -> dict[str, np.ndarray]:
    pairs = [square_image(i) for i in range(n)]
    image = np.stack([image[:33, :49] for image, _ in pairs])
    return {"image": image, "label": np.stack([label[:33, :49] for _, label in pairs])}


def first_state(config: Config, devices: int) -> TrainState:
    mesh = device_mesh(devices=jax.devices()[:devices])
    return fresh_state(config, random_variables(config.model), mesh)


NARROW = dataclasses.replace(
    CONFIG, model=dataclasses.replace(TINY_MODEL, backbone="xception_41", width=0.05)
)


@pytest.mark.gpu
def test_golden_step() -> None:
    """The first two losses of a fixed experiment.

    If you changed the network, its initialisation, the augmentation or the optimiser on purpose,
    put the new numbers here and say so in the CHANGELOG.
    """
    variables = initial_variables(CONFIG, None)  # type: ignore[arg-type]
    mesh = device_mesh(devices=jax.devices()[:1])
    state, losses = fresh_state(CONFIG, variables, mesh), []
    step = compile_train_step(CONFIG, state, mesh, 255)
    for _ in range(2):
        state, metrics = step(state, squares(8))
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, GOLDEN, rtol=2e-4)
    assert int(state.step) == 2


def test_an_abstract_state_has_the_shapes_and_places_of_a_fresh_one() -> None:
    train = dataclasses.replace(CONFIG.train, ema_decay=0.9)
    config = dataclasses.replace(CONFIG, model=TINY_UNET, train=train)
    mesh = device_mesh((4, 2, 1))
    fresh = fresh_state(config, random_variables(config.model), mesh)
    jax.tree.map(same_kind, abstract_state(config, mesh), fresh)


def same_kind(a: Any, b: Any) -> None:
    assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)


@pytest.mark.parametrize("finite", [True, False])
def test_a_step_that_is_not_finite_changes_the_counters_alone(finite: bool) -> None:
    def state(value: float, step: int) -> TrainState:
        tree = {"a": jnp.full((2, 3), value), "b": jnp.full((), value)}
        one, two = jnp.int32(1), jnp.int32(2)
        return TrainState(jnp.int32(step), tree, tree, (tree,), tree, two, one, one)

    old, new = state(1.0, 5), state(2.0 if finite else jnp.nan, 5)
    out = jax.jit(count_step)(new, old, jnp.array(finite))
    kept = new if finite else old
    for name in ("params", "batch_stats", "opt_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(out, name), getattr(kept, name))
    assert int(out.step) == 6  # the data goes on
    assert (int(out.skipped), int(out.skipped_in_a_row)) == ((2, 0) if finite else (3, 2))


def test_the_moving_average_is_evaluated_with_statistics_of_its_own() -> None:
    """BatchNorm's, averaged as the parameters are: those of the raw ones would not fit."""
    decay = 0.9
    train = dataclasses.replace(CONFIG.train, ema_decay=decay)
    config = dataclasses.replace(CONFIG, model=TINY_UNET, train=train)
    state = first_state(config, 1)
    step = compile_train_step(config, state, device_mesh(devices=jax.devices()[:1]), 255)
    average = jax.device_get(state.variables)
    for i in range(3):
        d = min(decay, (1 + i) / (10 + i))
        state, _ = step(state, squares(8))
        new = jax.device_get(state.variables)
        average = jax.tree.map(lambda a, v, d=d: a + (1 - d) * (v - a), average, new)
    close(state.averaged, average, 1e-6)
    raw, averaged = (jax.tree.leaves(v["batch_stats"]) for v in (state.variables, average))
    assert max(np.abs(np.asarray(a) - b).max() for a, b in zip(raw, averaged, strict=True)) > 1e-3


GOLDEN = [1.098565, 1.03607]


def test_a_batch_in_parts_has_the_gradient_of_the_whole() -> None:
    """Of every loss, with frozen BatchNorm; one part has more ignored pixels than the other."""
    batch = squares(8)
    batch["label"][::2, :20] = 255
    mesh, losses, params = device_mesh(devices=jax.devices()[:2]), [], []
    for parts in (1, 2):
        train = dataclasses.replace(
            CONFIG.train, freeze_batch_norm=True, accumulate=parts, loss=EVERY_LOSS
        )
        config = dataclasses.replace(CONFIG, model=TINY_UNET, train=train)
        state = first_state(config, 2)
        old = jax.device_get(state.params)
        step = compile_train_step(config, state, mesh, 255)
        state, metrics = step(state, place_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
        params.append(jax.tree.map(np.subtract, jax.device_get(state.params), old))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    close(params[1], params[0], 1e-4)


def four_scenes() -> dict[str, np.ndarray]:
    """Every second pixel of a window of four rendered images: every class in it is large."""
    images = [scenes.render(0, index) for index in (3, 8, 16, 20)]
    return {
        "image": np.stack([image[128:193:2, 120:217:2] for image, _ in images]),
        "label": np.stack([label[128:193:2, 120:217:2] for _, label in images]),
    }


@pytest.mark.parametrize(
    ("head", "backbone", "steps"),
    [
        ("deeplabv3plus", "xception_41", 100),
        ("deeplabv3", "resnet_v1_18_beta", 100),
        ("pspnet", "resnet_v1_18_beta", 60),
        ("unet", "unet", 150),
    ],
)
def test_every_network_overfits_four_scenes(head: str, backbone: str, steps: int) -> None:
    model = ModelConfig(
        backbone=backbone,  # type: ignore[arg-type]
        head=head,  # type: ignore[arg-type]
        num_classes=len(scenes.CLASS_NAMES),
        width=0.12 if backbone == "resnet_v1_18_beta" else 0.06,
        output_stride=16 if backbone == "unet" else 8,
        aspp_channels=32,
        decoder_channels=32,
        decoder_low_level_channels=16,
        batch_norm_decay=0.9,
    )
    config = Config(
        model=model,
        data=DataConfig(crop_size=(33, 49)),
        augment=AugmentConfig(flip=False),
        optim=OptimConfig(learning_rate=0.1),
        train=TrainConfig(steps=steps, batch_size=4),
    )
    mesh, batch = device_mesh(devices=jax.devices()[:1]), four_scenes()
    state = first_state(config, 1)
    train_step = compile_train_step(config, state, mesh, scenes.IGNORE_LABEL)
    for _ in range(steps):
        state, _ = train_step(state, batch)
    sizes = np.tile(np.array([33, 49], np.int32), (4, 1))
    evaluate = compile_eval_step(config, mesh, scenes.IGNORE_LABEL)
    counts, _ = evaluate(state.variables, {**batch, "scaled": sizes, "size": sizes})
    assert scores(np.asarray(counts.confusion)).miou >= 0.8


@pytest.mark.parametrize(
    ("frozen", "model"), [("freeze_batch_norm", TINY_UNET), ("freeze_backbone", TINY_RESNET)]
)
def test_what_is_frozen_does_not_move(frozen: str, model: ModelConfig) -> None:
    train = dataclasses.replace(CONFIG.train, **{frozen: True})
    config = dataclasses.replace(CONFIG, model=model, train=train)
    before = first_state(config, 1)
    old = jax.device_get(before.variables)
    mesh = device_mesh(devices=jax.devices()[:1])
    after, _ = compile_train_step(config, before, mesh, 255)(before, squares(8))
    new = jax.device_get(after.variables)
    if frozen == "freeze_batch_norm":
        jax.tree.map(np.testing.assert_array_equal, old["batch_stats"], new["batch_stats"])
        return
    for collection in old:
        before_, after_ = old[collection]["backbone"], new[collection]["backbone"]
        jax.tree.map(np.testing.assert_array_equal, before_, after_)
    assert (old["params"]["logits"]["kernel"] != new["params"]["logits"]["kernel"]).any()


@pytest.mark.parametrize("remat", ["middle_flow", "convolutions", "units"])
def test_recomputing_changes_nothing_but_memory(remat: str) -> None:
    model = dataclasses.replace(NARROW.model, remat=remat)
    want, got = (gradients_of(m) for m in (NARROW.model, model))
    close(got, want, 1e-4)  # ReLU's kinks: see `smooth`


@cache
def gradients_of(config: ModelConfig) -> Any:
    """Loss, BatchNorm statistics and gradients of a fixed batch."""
    variables, batch = random_variables(config), patches((65, 97))
    loss_fn = partial(
        loss_and_stats, model=build_model(config), train=NARROW.train, ignore_label=255
    )
    gradients = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    image, label = jnp.float32(batch["image"]), jnp.int32(batch["label"])
    key, step = jax.random.key(0), jnp.int32(0)
    return gradients(variables["params"], variables["batch_stats"], image, label, key, step)


def test_predicted_labels_are_the_most_probable_classes() -> None:
    """By blocks of rows without the upsampled logits, as from the whole probabilities."""
    model, image = build_model(TINY_MODEL), patches((65, 97))["image"]
    variables = random_variables(TINY_MODEL)
    labels = jax.jit(partial(predict_labels, model=model))(variables, image)
    whole = jax.jit(partial(predict_probabilities, model=model))(variables, image)
    np.testing.assert_array_equal(labels, np.argmax(whole, axis=-1))


def test_predictions_return_to_the_original_size() -> None:
    """Nearest as PIL does it, from the scaled corner of the padded prediction."""
    from PIL import Image

    rng = np.random.default_rng(0)
    prediction = rng.integers(0, 9, (1, 20, 20)).astype(np.uint8)
    out = resample_labels(
        jnp.asarray(prediction), jnp.array([[13, 17]]), jnp.array([[31, 40]]), (35, 40)
    )
    want = Image.fromarray(prediction[0, :13, :17]).resize((40, 31), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(np.asarray(out)[0, :31, :40], np.asarray(want))


def test_bfloat16_step_is_close_to_float32() -> None:
    model: ModelConfig = dataclasses.replace(TINY_RESNET, dtype="bfloat16")
    loss_fn = partial(loss_and_stats, train=CONFIG.train, ignore_label=255)
    state, batch = first_state(dataclasses.replace(CONFIG, model=TINY_RESNET), 1), squares(4)
    image, label = jnp.float32(batch["image"]), jnp.int32(batch["label"])
    losses = [
        jax.jit(partial(loss_fn, model=build_model(m)))(
            state.params, state.batch_stats, image, label, jax.random.key(0), state.step
        )[0]
        for m in (TINY_RESNET, model)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)
