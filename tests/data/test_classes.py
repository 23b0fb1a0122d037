"""Classes of a network in another order than the data's."""

import pickle
from pathlib import Path

import numpy as np
from folders import make_folder

from deeplab_jax import DataConfig
from deeplab_jax.data.classes import match_classes
from deeplab_jax.data.folder import open_folder


def test_ignored_pixels_stay_ignored_in_another_order(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    data = DataConfig(source="folder", ignore_label=0)
    source = open_folder(tmp_path, "train", data=data, num_classes=3)
    names = ("class 2", "class 0", "class 1")
    mapped = match_classes(source, names, source.colors, "this network")
    old, new = source[0]["label"], mapped[0]["label"]
    np.testing.assert_array_equal(new, np.where(old == 1, 2, 255))
    assert mapped.ignore_label == 255 and mapped.class_names == names
    assert len(mapped) == 1 and mapped.sizes() == source.sizes()
    assert pickle.loads(pickle.dumps(mapped)).fingerprint != source.fingerprint
