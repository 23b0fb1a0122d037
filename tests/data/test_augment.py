"""Augmentation: label maps move with images exactly, and all follows from the key and the batch."""

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY_UNET, with_workdir
from synthetic import simulated_mesh

from deeplab_jax import AugmentConfig, Config, DataConfig, MachineConfig, UserError
from deeplab_jax.data.augment import augment, step_keys
from deeplab_jax.data.batches import train_example
from deeplab_jax.data.hook import check_hook
from deeplab_jax.data.samples import draw_augmented
from deeplab_jax.data.settle import open_split
from deeplab_jax.data.transforms import class_crop, cut, random_crop
from deeplab_jax.parallel.mesh import Shape, bind_mesh, place_batch
from deeplab_jax.training.loop import fit

SIDE, FILL, IGNORED = 33, (127, 90, 60), 255
NOTHING = AugmentConfig(flip=False)
GEOMETRY = {"rotate": 180.0, "shear": 20.0, "aspect": 0.5}
APPEARANCE = {"photometric": 0.3, "hue": 0.3, "gamma": 0.5, "blur": 2.0, "noise": 20.0}
EXACT = ("flip", "vertical_flip", "quarter_turns")


@cache
def compiled(config: AugmentConfig, fill: tuple[int, ...]) -> Any:
    return jax.jit(partial(augment, config=config, fill=fill, ignore_label=IGNORED))


def run(
    config: AugmentConfig, batch: dict[str, np.ndarray], key: int = 0, fill: Any = FILL
) -> tuple[np.ndarray, np.ndarray]:
    image, label = compiled(config, fill)(jax.random.key(key), batch["image"], batch["label"])
    assert image.dtype == jnp.float32 and label.dtype == jnp.int32
    return np.asarray(image), np.asarray(label)


def with_(**fields: Any) -> AugmentConfig:
    return dataclasses.replace(NOTHING, **fields)


def columns(n: int = 16, width: int = SIDE) -> dict[str, np.ndarray]:
    """Images whose first channel, and whose label, is the column; the second is the row."""
    row, column = np.mgrid[:SIDE, :width].astype(np.uint8)
    image = np.stack([column, row, np.full_like(row, 200)], axis=-1)
    return {"image": np.stack([image] * n), "label": np.stack([column] * n)}


def noisy(channels: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (8, SIDE, SIDE, channels), dtype=np.uint8),
        "label": rng.integers(0, 3, (8, SIDE, SIDE), dtype=np.uint8),
    }


@pytest.mark.parametrize("fields", [*({k: v} for k, v in GEOMETRY.items()), GEOMETRY], ids=str)
def test_a_label_is_that_of_the_place_that_its_pixel_was_read_at(fields: dict[str, float]) -> None:
    """To half a pixel, which is what nearest is; ignored where, and only where, the image ends."""
    batch = columns(width=49)
    image, label = run(with_(**fields), batch)
    inside = label != IGNORED
    assert np.abs(image[..., 0] - label)[inside].max() < 0.501
    assert (image[~inside] == FILL).all() and (image[inside][:, 2] == 200).all()
    assert (np.abs(image - batch["image"]).max((1, 2, 3)) > 1).mean() > 0.7  # how far is drawn
    centre = SIDE // 2, 49 // 2
    np.testing.assert_allclose(image[:, *centre, :2], [[centre[1], centre[0]]] * 16, atol=1e-3)
    assert inside.mean((1, 2)).min() > 0.5  # no more leaves the frame than the field says


@pytest.mark.parametrize("field", EXACT)
def test_flips_and_quarter_turns_are_exact(field: str) -> None:
    batch = columns(n=32)
    image, label = run(with_(**{field: True}), batch)
    np.testing.assert_array_equal(image[..., 0], label)
    before = batch["image"][0]
    possible = {
        "flip": [before, before[:, ::-1]],
        "vertical_flip": [before, before[::-1]],
        "quarter_turns": [np.rot90(before, k) for k in range(4)],
    }[field]
    found = [[(one == wanted).all() for wanted in possible] for one in image]
    assert (np.sum(found, axis=1) == 1).all() and np.any(found, axis=0).all()


def test_a_map_of_zero_degrees_changes_nothing() -> None:
    batch = columns()
    image, label = run(with_(rotate=1e-6), batch)
    np.testing.assert_allclose(image, batch["image"], atol=1e-4)
    np.testing.assert_array_equal(label, batch["label"])


def test_what_is_off_is_not_traced() -> None:
    batch = noisy()
    function = partial(augment, config=NOTHING, fill=FILL, ignore_label=IGNORED)
    traced = jax.make_jaxpr(function)(jax.random.key(0), batch["image"], batch["label"])
    assert {str(eqn.primitive) for eqn in traced.eqns} == {"convert_element_type"}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", APPEARANCE)
def test_what_changes_colours_leaves_labels(name: str, channels: int) -> None:
    batch = noisy(channels)
    image, label = run(with_(**{name: APPEARANCE[name]}), batch, fill=FILL[:1] * channels)
    np.testing.assert_array_equal(label, batch["label"])
    assert image.min() >= 0 and image.max() <= 255
    changed = np.abs(image - batch["image"]).max((1, 2, 3)) > 1
    assert (changed.mean() > 0.5) == (name != "hue" or channels == 3)


def test_strengths_are_what_they_say() -> None:
    grey = {"image": np.full((64, 5, 5, 3), 100, np.uint8), "label": np.zeros((64, 5, 5), np.uint8)}
    np.testing.assert_allclose(run(with_(hue=0.5), grey)[0], 100, atol=0.1)
    np.testing.assert_allclose(run(with_(blur=4.0), grey)[0], 100, atol=1e-3)
    gamma = np.log(run(with_(gamma=0.5), grey)[0] / 255) / np.log(100 / 255)
    assert gamma.min() >= 1 / 1.51 and gamma.max() <= 1.51 and np.ptp(gamma) > 0.7
    noise = run(with_(noise=10.0), grey)[0].std((1, 2, 3))
    assert noise.min() < 2 and 6 < noise.max() < 13
    colours = {**grey, "image": np.broadcast_to(np.uint8([110, 120, 130]), (64, 5, 5, 3))}
    luma = run(with_(hue=0.5), colours)[0] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(luma, np.dot([110, 120, 130], [0.299, 0.587, 0.114]), atol=0.2)


def test_a_pasted_rectangle_takes_its_label_with_it() -> None:
    rows = np.arange(32, dtype=np.uint8)[:, None, None]
    label = np.broadcast_to(rows, (32, SIDE, SIDE))
    batch = {"image": np.stack([label * 4] * 3, axis=-1), "label": label}
    image, mixed = run(with_(cutmix=0.5), batch)
    np.testing.assert_array_equal(image[..., 0], mixed * 4)
    pasted = mixed != label
    assert (mixed == np.where(pasted, (label + 1) % 32, label)).all()
    some = pasted.any((1, 2))
    assert 6 <= some.sum() <= 26
    for one in pasted[some]:  # a rectangle: what its rows and its columns say
        np.testing.assert_array_equal(one, one.any(1)[:, None] & one.any(0)[None])


EVERYTHING = with_(**GEOMETRY, **APPEARANCE, **dict.fromkeys(EXACT, True), cutmix=0.5)  # but a hook


def test_the_key_alone_decides() -> None:
    batch = noisy()
    first, again, other = (run(EVERYTHING, batch, key)[0] for key in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max((1, 2, 3)).min() > 10
    keys = [step_keys(seed, step)[0] for seed, step in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3


def test_what_is_drawn_for_a_field_does_not_depend_on_the_others() -> None:
    batch = columns()
    mirrored = run(with_(flip=True), batch)[1]
    np.testing.assert_array_equal(run(with_(flip=True, noise=5.0, hue=0.1), batch)[1], mirrored)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_any_mesh_gives_the_batch_of_one_device(shape: Shape) -> None:
    """Images are moved where they lie: nothing but CutMix, of the next image, is sent."""
    batch = noisy()
    image, label = run(EVERYTHING, batch)
    mesh = simulated_mesh(shape)
    function = partial(augment, config=EVERYTHING, fill=FILL, ignore_label=IGNORED)
    placed = place_batch(batch, mesh)
    step = jax.jit(bind_mesh(function, mesh))
    program = step.lower(jax.random.key(0), placed["image"], placed["label"]).compile()
    found = program(jax.random.key(0), placed["image"], placed["label"])
    np.testing.assert_allclose(found[0], image, atol=0.01)
    np.testing.assert_array_equal(found[1], label)
    assert "all-gather" not in program.as_text() and "all-reduce" not in program.as_text()


# ---- crops of rare classes


def test_a_crop_of_a_class_shows_a_class_of_the_image() -> None:
    """At any scale; each of the classes, however rare, in as many crops as the others."""
    rng = np.random.default_rng(0)
    label = np.zeros((120, 160), np.uint8)
    label[3, 5], label[100:110, 90:95], label[60:70] = 1, 2, IGNORED
    shown = np.zeros(3)
    for _ in range(400):
        crop = random_crop(rng, (120, 160), rng.uniform(0.5, 2.0), (17, 33))
        moved = class_crop(rng, label, crop, (17, 33), IGNORED)
        assert moved.scaled == crop.scaled
        window = cut(label, moved, (17, 33), 254, smooth=False)
        assert (window != 254).all()  # within the image
        shown += [(window == i).any() for i in range(3)]
    assert shown[2] > 400 / 3 - 40
    assert shown[1] > 60  # where halving does not drop its only pixel


def test_rare_crops_show_a_rare_class_as_often_as_they_say(tmp_path: Path) -> None:
    from PIL import Image

    label = np.zeros((99, 99), np.uint8)
    label[80:83, 10:13] = 1
    for kind, pixels in (("images", np.stack([label] * 3, -1)), ("masks", label)):
        (tmp_path / kind / "train").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / kind / "train" / "one.png")
    (tmp_path / "classes.txt").write_text("most\nrare\n")
    data = DataConfig(source="folder", crop_size=(17, 17), min_scale=1.0, max_scale=1.0, holdout=0)
    config = Config(TINY_UNET, data=data, machine=MachineConfig(root=str(tmp_path)))
    config = dataclasses.replace(config, model=dataclasses.replace(TINY_UNET, num_classes=2))
    source = open_split(config, "train")

    def share(rare: float) -> float:
        drawn = dataclasses.replace(config, augment=AugmentConfig(rare_crops=rare))
        rngs = (np.random.default_rng(i) for i in range(300))
        labels = [train_example(0, rng, source, drawn)["label"] for rng in rngs]
        return float(np.mean([(label == 1).any() for label in labels]))

    assert share(0.0) < 0.1
    chance = 0.08  # three standard deviations, of 300 draws
    assert share(1.0) > 1.0 / 2 - chance  # the rare one is one of two classes
    assert share(0.5) > 0.5 / 2 - chance


# ---- a function of one's own

HOOKS = """
import jax, jax.numpy as jnp, numpy as np
def darken(key, image, label):
    return image * jax.random.uniform(key), jnp.where(label == 2, 255, label)
def one(key, image, label): return image
def smaller(key, image, label): return image[:, ::2], label
def bytes(key, image, label): return image, label.astype(jnp.uint8)
def host(key, image, label): return np.asarray(image), label
def text(key, image, label): return image, "label"
"""


def test_a_hook_is_applied_last(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(HOOKS)
    batch = noisy()
    image, label = run(with_(hook=f"{file}:darken", flip=True), batch)
    before, labels = run(with_(flip=True), batch)
    factor = image.sum() / before.sum()
    assert 0 < factor < 1
    np.testing.assert_allclose(image, before * factor, rtol=1e-4)
    np.testing.assert_array_equal(label, np.where(labels == 2, IGNORED, labels))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own.py:brighten", r"own.py:brighten: has no function brighten\(\)"),
        ("other.py:darken", r"other.py is missing; the form is FILE.py:FUNCTION"),
        ("own.py:one", r"not \(image, label\)"),
        ("own.py:smaller", r"image float32\[8, 17, 33, 3\], not float32\[8, 33, 33, 3\]"),
        ("own.py:bytes", r"label uint8\[8, 33, 33\], not int32\[8, 33, 33\]"),
        ("own.py:host", r"line 8: .*TracerArrayConversionError"),
        ("own.py:text", r"label str, not int32"),
    ],
)
def test_a_hook_that_does_not_do_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "own.py").write_text(HOOKS)
    with pytest.raises(UserError, match=rf"augment.hook = .*{message}"):
        check_hook(f"{tmp_path / name}", (8, SIDE, SIDE, 3), (8, SIDE, SIDE))


def test_a_run_refuses_its_hook_before_it_begins(tiny_config: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_config, augment=AugmentConfig(hook="nowhere.py:change"))
    with pytest.raises(UserError, match=r"nowhere.py is missing"):
        fit(with_workdir(config, tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


# ---- the drawing of check-data


def test_the_drawing_shows_what_training_sees(tiny_config: Config) -> None:
    plain = draw_augmented(tiny_config)
    turned = draw_augmented(dataclasses.replace(tiny_config, augment=with_(rotate=90.0)))
    assert plain.width > plain.height and plain.width == turned.width
    h = min(plain.height, turned.height)
    assert (np.asarray(plain)[:h] != np.asarray(turned)[:h]).mean() > 0.05


def test_a_classifier_has_its_images_moved_and_its_labels_kept() -> None:
    batch = {**noisy(), "label": np.arange(8, dtype=np.uint16).reshape(8, 1, 1)}
    image, label = run(with_(**GEOMETRY, **dict.fromkeys(EXACT, True)), batch)
    np.testing.assert_array_equal(label, batch["label"])
    assert np.abs(image - batch["image"]).max((1, 2, 3)).min() > 10
