"""The embedded data set: pure, well labelled, and unsolvable without context."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deeplab_jax.data.datasets import drawing, scenes

HEIGHT, WIDTH = 257, 321


@pytest.fixture(scope="module")
def train() -> list[tuple[np.ndarray, np.ndarray]]:
    return [scenes.render(scenes.SPLIT_SEEDS["train"], i) for i in range(120)]


@pytest.fixture(scope="module")
def validation() -> list[tuple[np.ndarray, np.ndarray]]:
    return [scenes.render(scenes.SPLIT_SEEDS["validation"], i) for i in range(60)]


def _pixels(images, *names: str) -> list[np.ndarray]:
    """RGB pixels [n 3] of each named class."""
    ids = [scenes.CLASS_NAMES.index(name) for name in names]
    return [np.concatenate([image[label == i] for image, label in images]) for i in ids]


def test_render_is_pure_and_deterministic():
    image, label = scenes.render(5, 3)
    scenes.render(5, 4)
    again = scenes.render(5, 3)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert label.shape == (HEIGHT, WIDTH) and label.dtype == np.uint8
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    assert (image != scenes.render(5, 4)[0]).any()
    assert (image != scenes.render(6, 3)[0]).any()


def test_render_is_the_same_in_another_process():
    code = (
        "import hashlib; from deeplab_jax.data.datasets.scenes import render;"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in render(1, 7))).hexdigest())"
    )
    run = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    digests = {subprocess.run(run, check=True, capture_output=True).stdout for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize("size", [(65, 81), (129, 161), (200, 333)])
def test_render_other_sizes(size):
    image, label = scenes.render(1, 0, *size)
    assert image.shape == (*size, 3) and label.shape == size


def test_labels_are_in_range_and_every_class_has_its_share(train):
    labels = np.stack([label for _, label in train])
    counts = np.bincount(labels.ravel(), minlength=256)
    classes = len(scenes.CLASS_NAMES)
    assert len(scenes.COLORS) == classes
    assert counts[classes : scenes.IGNORE_LABEL].sum() == 0
    share = counts / labels.size
    assert share[:classes].min() > 0.005 and share[:classes].max() < 0.5
    assert 0.01 < share[scenes.IGNORE_LABEL] < 0.12
    in_image = [(labels == i).any((1, 2)).mean() for i in range(classes)]
    assert min(in_image) > 0.7


def test_void_separates_objects_from_everything_else(train):
    """Two neighbouring pixels of different classes are both regions."""
    for _, label in train[:20]:
        for a, b in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            differ = (a != b) & (a != scenes.IGNORE_LABEL) & (b != scenes.IGNORE_LABEL)
            assert np.maximum(a, b)[differ].max(initial=0) < scenes.FIRST_OBJECT


@pytest.mark.parametrize("draw", ["craft", "figure"])
def test_both_members_of_a_pair_are_the_very_same_sprite(draw):
    def image(label: int) -> np.ndarray:
        canvas = drawing.Canvas(np.zeros((64, 96, 3), np.float32), np.zeros((64, 96), np.uint8))
        if draw == "craft":
            shapes = drawing.craft(scenes.HULLS[0], scenes.CABINS[0])
            canvas.draw(drawing.Sprite(48, 50, 60, shapes, facing=1, tilt=0.05), label)
        else:
            canvas.draw(drawing.Sprite(48, 60, 50, drawing.figure(scenes.FIGURES[0])), label)
        image, lowest, highest = canvas.finish()
        assert set(np.unique(highest)) == {0, label} and (lowest <= highest).all()
        return image

    one, other = (scenes.BOAT, scenes.CAR) if draw == "craft" else (scenes.PERSON, scenes.BUOY)
    np.testing.assert_array_equal(image(one), image(other))


@pytest.mark.parametrize("pair", [("boat", "car"), ("person", "buoy")])
def test_colour_alone_stays_at_chance_within_a_pair(train, validation, pair):
    """A Bayes classifier on quantised colours, balanced, is no better than a coin."""

    def histogram(rgb: np.ndarray) -> np.ndarray:
        bins = (rgb // 32).astype(int) @ (64, 8, 1)
        return np.bincount(bins, minlength=512) / len(rgb)

    a, b = (histogram(rgb) for rgb in _pixels(train, *pair))
    test_a, test_b = (histogram(rgb) for rgb in _pixels(validation, *pair))
    accuracy = (test_a[a > b].sum() + test_b[a <= b].sum()) / 2
    assert abs(accuracy - 0.5) < 0.06


@pytest.mark.parametrize("pair", [("boat", "car"), ("person", "buoy")])
def test_members_of_a_pair_are_equally_frequent_and_equally_coloured(train, pair):
    one, other = _pixels(train, *pair)
    assert 0.7 < len(one) / len(other) < 1.4
    np.testing.assert_allclose(one.mean(0), other.mean(0), atol=12)


BUILD = """
import json, sys
import tensorflow_datasets as tfds
from deeplab_jax.data.datasets import scenes
config = scenes.ScenesConfig(name="tiny", train=3, validation=2, height=65, width=81)
builder = scenes.Scenes(data_dir=sys.argv[1], config=config, file_format="array_record")
builder.download_and_prepare()
skip = tfds.decode.SkipDecoding()
for split in ("train", "validation"):
    source = builder.as_data_source(split, decoders={"image": skip, "label": skip})
    for example in source:
        row = {k: bytes(example[k]).hex() for k in ("image", "label")}
        print("ROW", json.dumps({"split": split, "id": example["id"].decode(), **row}))
assert builder.info.features["label"].names == list(scenes.CLASS_NAMES)
assert "tensorflow" not in sys.modules
"""


def test_builder_prepares_and_reads_back_without_tensorflow(tmp_path):
    """In a process of its own, as another test may have imported TensorFlow."""
    run = [sys.executable, "-c", BUILD, str(tmp_path)]
    out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line[4:]) for line in out.splitlines() if line.startswith("ROW ")]
    assert [row["split"] for row in rows].count("train") == 3 and len(rows) == 5
    assert len({row["id"] for row in rows}) == 5
    for row in rows:
        index = int(row["id"].rsplit("_", 1)[1])
        image, label = scenes.render(scenes.SPLIT_SEEDS[row["split"]], index, 65, 81)
        for name, array in (("image", image), ("label", label)):
            decoded = np.asarray(Image.open(io.BytesIO(bytes.fromhex(row[name]))))
            np.testing.assert_array_equal(decoded, array)
