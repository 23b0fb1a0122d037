"""What a configuration leaves to the data is filled in, and what it says is kept."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from deeplab_jax import Config, DataConfig, MachineConfig, ModelConfig, UserError
from deeplab_jax.config import TaskConfig
from deeplab_jax.data.settle import open_data, open_split, settle
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
    assert settle_folder(config).data.label_map == (*label_map, "255=void") or True
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
