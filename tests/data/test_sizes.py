"""The sizes that the network gets: by rules that a user can work out."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab_jax import Config, DataConfig, ModelConfig
from deeplab_jax.config import PAPER_CROP, TaskConfig
from deeplab_jax.data.sizes import crop_size, input_size

MODEL, TASK = ModelConfig(), TaskConfig()
MIXED = [(375, 500), (375, 500), (500, 375)]


def test_the_rule_for_input_sizes() -> None:
    padded = TaskConfig(eval_size=(65, 49))
    fit = dataclasses.replace(padded, resize="fit")
    assert [input_size(s, MODEL, TASK) for s in ((1, 1), (33, 34), (40, 56))] == [
        *((33, 33), (33, 49), (49, 65))
    ]
    assert [input_size(s, MODEL, padded) for s in ((20, 30), (65, 49), (66, 20), (20, 50))] == [
        *((65, 49), (65, 49), (81, 33), (33, 65))
    ]
    assert input_size((1000, 20), MODEL, fit) == (65, 49)


def test_a_classifier_sees_every_image_in_one_size() -> None:
    classifier = ModelConfig(backbone="mobilenet_v2", head="classifier")
    xception = ModelConfig(head="classifier")
    for size in ((1, 1), (375, 500)):
        assert input_size(size, classifier, TASK) == (224, 224)
        assert input_size(size, xception, TASK) == (299, 299)
        assert input_size(size, classifier, TaskConfig(eval_size=(33, 40))) == (33, 40)


image_sizes = st.lists(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=5
)


@given(image_sizes, st.sampled_from([8, 16, 32]), st.sampled_from([None, (257, 513)]))
def test_a_crop_from_sizes_is_accepted(
    sizes: list[tuple[int, int]], stride: int, fit: tuple[int, int] | None
) -> None:
    model = ModelConfig(output_stride=stride)
    task = TaskConfig(eval_size=fit, resize="fit" if fit else "keep")
    crop = crop_size(sizes, model, task)
    Config(model=model, task=task, data=DataConfig(crop_size=crop))
    assert all(side % stride == 1 for side in crop)
    assert all(side <= most for side, most in zip(crop, PAPER_CROP, strict=True))


@pytest.mark.parametrize(
    ("sizes", "crop"),
    [
        (MIXED, (513, 513)),  # VOC
        ([(1024, 2048)], (513, 513)),  # Cityscapes
        ([(360, 480)], (369, 481)),  # CamVid
        ([(360, 480), (480, 640), (720, 960)], (481, 513)),
        ([(480, 360), (360, 480), (360, 480)], (481, 481)),
        ([(200, 200), (100, 300), (100, 300)], (113, 305)),  # neither upright: a square is not
        ([(8, 9)], (17, 17)),
    ],
)
def test_usual_crops(sizes: list[tuple[int, int]], crop: tuple[int, int]) -> None:
    assert crop_size(sizes, MODEL, TASK) == crop


def test_a_crop_suits_images_as_they_are_scaled_to_fit() -> None:
    """3000 x 4000 in 257 x 513 is 257 x 342."""
    fit = TaskConfig(eval_size=(257, 513), resize="fit")
    assert crop_size([(3000, 4000)], MODEL, fit) == (257, 353)
    assert crop_size([(3000, 4000)], MODEL, TaskConfig(eval_size=(257, 513))) == (513, 513)
