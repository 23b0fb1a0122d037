"""What a configuration leaves to the data is filled in, and what it says is kept."""

import dataclasses
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deeplab_jax import Config, DataConfig, MachineConfig, ModelConfig, UserError
from deeplab_jax.config import TaskConfig, load_config_file, override
from deeplab_jax.config.presets import MOST_IMAGES, PRESETS
from deeplab_jax.data.settle import (
    MOST_WEIGHT,
    Choice,
    choose,
    class_weights,
    format_choices,
    open_data,
    open_split,
    settings_for,
    settle,
    value_of,
    with_preset,
)
from deeplab_jax.data.source import NO_CLASS, Source

NAMES, COLORS = ("grey", "red", "blue"), ((40, 40, 40), (220, 60, 60), (60, 90, 220))


def make_config(root: Path, *, crop_size: tuple[int, int] | None = None, **task: object) -> Config:
    """A folder of images and masks; what is not named is left to the data."""
    return Config(
        model=ModelConfig(backbone="mobilenet_v2"),
        task=TaskConfig(**task),  # type: ignore[arg-type]
        data=DataConfig(source="folder", eval_split="val", crop_size=crop_size),
        machine=MachineConfig(root=str(root)),
    )


def settle_folder(config: Config) -> Config:
    return settle(config, open_split(config, "train"))


def test_what_is_left_to_the_data_is_filled_in(tiny_config: Config) -> None:
    config = make_config(Path(tiny_config.machine.root))
    settled = settle_folder(config)
    assert settled.model == dataclasses.replace(config.model, num_classes=3, channels=3)
    assert settled.task == TaskConfig(classes=NAMES, colors=COLORS)
    label_map = ("0=grey", "1=red", "2=blue", "255=void")
    data = dataclasses.replace(config.data, crop_size=(49, 65), label_map=label_map)
    assert settled.data == data  # the images have 40 x 56
    unchanged = ("optim", "train", "eval", "mesh", "machine")
    assert all(getattr(settled, name) == getattr(config, name) for name in unchanged)


def test_a_second_time_changes_nothing(tiny_config: Config) -> None:
    settled = settle_folder(make_config(Path(tiny_config.machine.root)))
    assert settle_folder(settled) == settled


def test_what_is_named_is_kept(tiny_config: Config) -> None:
    colors = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    config = make_config(
        Path(tiny_config.machine.root),
        crop_size=(33, 48),
        classes=NAMES,
        colors=colors,
        eval_size=(65, 65),
    )
    config = dataclasses.replace(
        config, model=ModelConfig(num_classes=3, channels=3, output_stride=8)
    )
    label_map = ("0=grey", "1=red", "2=blue", "254=void")
    data = dataclasses.replace(config.data, label_map=label_map)
    config = dataclasses.replace(config, data=data)
    assert settle_folder(config).data.label_map == (*label_map, "255=void")
    assert settle_folder(config).task == config.task


def test_the_crop_follows_stride_and_sizes(tmp_path: Path) -> None:
    """Upright and lying images together give a square; unreadable ones do not count."""
    sizes = {"a": (100, 70), "b": (70, 100), "c": (70, 100), "d": (70, 100)}
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / kind / "train").mkdir(parents=True)
        for name, (h, w) in sizes.items():
            Image.new(mode, (w, h)).save(tmp_path / kind / "train" / f"{name}.png")
    (tmp_path / "classes.txt").write_text("no\nyes\n")
    (tmp_path / "images" / "train" / "d.png").write_bytes(b"broken")
    for stride, crop in ((8, (105, 105)), (16, (113, 113)), (32, (129, 129))):
        model = ModelConfig(backbone="mobilenet_v2", output_stride=stride)
        config = dataclasses.replace(make_config(tmp_path), model=model)
        assert settle_folder(config).data.crop_size == crop
    for name in "abc":
        (tmp_path / "images" / "train" / f"{name}.png").write_bytes(b"broken")
    assert settle_folder(make_config(tmp_path)).data.crop_size == (513, 513)  # the paper's


class OneLabel(Source):
    """Images with one class each, whose sizes nobody may ask for: that reads all of them."""

    def sizes(self) -> list[tuple[int, int] | None]:
        raise AssertionError


@pytest.mark.parametrize(
    ("crop", "eval_size", "expected"),
    [
        (None, None, ((224, 224), (224, 224))),
        ((33, 40), None, ((33, 40), (33, 40))),
        (None, (96, 96), ((96, 96), (96, 96))),
        ((33, 40), (96, 96), ((33, 40), (96, 96))),
    ],
)
def test_a_classifier_is_evaluated_at_the_size_of_its_crops(
    crop: tuple[int, int] | None,
    eval_size: tuple[int, int] | None,
    expected: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    config = Config(
        model=ModelConfig(backbone="mobilenet_v2", head="classifier"),
        task=TaskConfig(eval_size=eval_size),
        data=DataConfig(source="imagenet2012", crop_size=crop),
        machine=MachineConfig(root="nowhere"),
    )
    source = OneLabel([], NAMES, COLORS, ignore_label=NO_CLASS)  # type: ignore[arg-type]
    settled = settle(config, source)
    assert (settled.data.crop_size, settled.task.eval_size) == expected
    assert settle(settled, source) == settled


def test_other_classes_than_the_data_have_are_refused(tiny_config: Config) -> None:
    root = Path(tiny_config.machine.root)
    for classes, told in (
        (NAMES[::-1], "0: 'blue' / 'grey'"),
        (NAMES[:2], "2 for grey, red, blue"),
    ):
        with pytest.raises(UserError, match=rf"task.classes .*\({told}"):
            settle_folder(make_config(root, classes=classes))


def test_another_number_of_classes_is_refused(tiny_config: Config) -> None:
    model = dataclasses.replace(tiny_config.model, num_classes=5)
    config = dataclasses.replace(tiny_config, model=model)
    with pytest.raises(UserError, match=r"--model.num_classes=3"):
        open_split(config, "train")
    assert open_data(config, "train").class_names == NAMES


# ---- sizes and weights, where configs/folder.py leaves them to the data


def write_pairs(root: Path, sizes: list[tuple[int, int]], mask: int = 1) -> None:
    """Images of these sizes whose masks have class 0 but for one row of class `mask`."""
    (root / "classes.txt").write_text("no\nyes\n")
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
        for i, size in enumerate(sizes):
            array = np.zeros(size, np.uint8)
            array[:1] = mask
            Image.fromarray(array).save(root / kind / "train" / f"{i}.png")


def open_folder(root: Path, *flags: str) -> tuple[Config, Source]:
    named = [f"--machine.root={root}", "--data.holdout=0", *flags]
    config = override(load_config_file("folder"), named)
    return config, open_split(config, "train")


@pytest.mark.parametrize(
    ("sizes", "flags", "resize", "box", "crop"),
    [
        ([(900, 1200)] * 3, (), "fit", (769, 1025), (513, 513)),
        ([(900, 1200), (1200, 900)], (), "fit", (1025, 1025), (513, 513)),
        ([(700, 1025)] * 2, (), "keep", None, (513, 513)),
        ([(40, 56), (40, 56), (1200, 1200)], (), "keep", None, (49, 65)),  # most of them count
        ([(60, 90)], ("--crop-size=33x33",), "fit", (49, 65), (33, 33)),
        ([(900, 1200)], ("--task.resize=keep",), "keep", None, (513, 513)),
        ([(900, 1200)], ("--task.eval_size=513x513",), "keep", (513, 513), (513, 513)),
    ],
)
def test_images_far_above_the_crop_are_scaled(
    sizes: list[tuple[int, int]],
    flags: tuple[str, ...],
    resize: str,
    box: tuple[int, int] | None,
    crop: tuple[int, int],
    tmp_path: Path,
) -> None:
    write_pairs(tmp_path, sizes)
    config, source = open_folder(tmp_path, *flags)
    chosen, settled = choose(config, source), settle(config, source)
    assert (settled.task.resize, settled.task.eval_size) == (resize, box)
    assert settled.data.crop_size == crop
    assert ("task.resize" in chosen and chosen["task.resize"].reason != "") == (resize == "fit")


def test_weights_follow_the_masks_unless_they_are_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, [(16, 16)] * 3)
    for name, content in (("1", b"broken"), ("2", b"")):
        (tmp_path / "masks" / "train" / f"{name}.png").write_bytes(content)
    config, source = open_folder(tmp_path, "--train.class_weights=auto")
    weights = settle(config, source).train.class_weights
    assert weights == pytest.approx(class_weights(np.array([[240, 16]])), rel=0.01)
    for flag, named in (("", ()), ("1,2", (1.0, 2.0))):
        config, source = open_folder(tmp_path, f"--train.class_weights={flag}")
        assert settle(config, source).train.class_weights == named


def test_masks_without_classes_give_no_weights(tmp_path: Path) -> None:
    write_pairs(tmp_path, [(1, 16)], mask=255)
    opened = open_folder(tmp_path, "--train.class_weights=auto")
    assert settle(*opened).train.class_weights == ()


@given(
    hnp.arrays(
        np.int64,
        st.tuples(st.integers(1, 5), st.integers(2, 30)),
        elements=st.integers(0, 10**9),
    ).filter(np.any)
)
def test_weights_have_mean_one_over_the_pixels(pixels: np.ndarray) -> None:
    weights, of_class = class_weights(pixels), pixels.sum(0)
    assert (weights[of_class == 0] == 1).all() and (weights <= MOST_WEIGHT).all()
    if (weights < MOST_WEIGHT).all():
        assert weights @ of_class / of_class.sum() == pytest.approx(1)
        shares = of_class / np.maximum(((pixels > 0) * pixels.sum(1, keepdims=True)).sum(0), 1)
        squares = (weights**2 * shares)[of_class > 0]
        np.testing.assert_allclose(squares, squares[0])


def test_weights_are_those_of_camvid() -> None:
    """The pixels of its 367 masks of train, counted once, as one mask that shows every class."""
    pixels = [
        *(10682767, 14750079, 623349, 20076880, 2845085, 6166762),
        *(743859, 714595, 3719877, 405385, 184967),
    ]
    expected = load_config_file("camvid").train.class_weights
    np.testing.assert_allclose(class_weights(np.array([pixels])), expected, atol=0.005)


def test_a_class_in_few_masks_weighs_as_in_these_masks() -> None:
    """As in VOC: each image shows one of the kinds, which covers a fifth of it."""
    masks = np.array([[80, 20, 0]] * 99 + [[80, 0, 20]])
    background, common, rare = class_weights(masks)
    assert common == rare == pytest.approx(2 * background)


def test_a_choice_is_a_line_with_its_flag() -> None:
    choices = {
        "train.steps": Choice(500, "so many"),
        "task.colors": Choice(COLORS, ""),
        "train.class_weights": Choice((1.0, 2.5, 3.0, 1.0, 1.0), "of the masks"),
    }
    assert format_choices(choices).splitlines() == [
        "steps          500                          so many       --steps",
        "class weights  1.0, 2.5, 3.0, 1.0, ... (5)  of the masks  --train.class_weights",
    ]
    assert format_choices({}) == ""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_recipe_and_flags_go_before_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path, [(16, 16)])
    base = settings_for(load_config_file("folder"), tmp_path, named=False)
    config = with_preset(base, name, ())
    assert capsys.readouterr().err.startswith(f"recipe {name} (--preset): ")
    assert {k: value_of(config, k) for k in PRESETS[name].fields} == PRESETS[name].fields
    assert config.machine == base.machine and config.task == base.task
    for length in ("--steps=7", "--train.epochs=2", "--time=1h"):
        override(with_preset(base, name, (length,)), (length,))


@pytest.mark.parametrize(("images", "name"), [(2, "small"), (MOST_IMAGES + 1, "paper")])
def test_the_number_of_images_chooses_the_preset(
    images: int, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(images):
        (tmp_path / f"{i}.png").touch()
    base = settings_for(load_config_file("folder"), tmp_path, named=False)
    assert with_preset(base, None, ()) == with_preset(base, name, ())
    assert f"recipe {name} (for {images} image files, --preset)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--preset = 'smal' .*did you mean 'small'"):
        with_preset(base, "smal", ())
