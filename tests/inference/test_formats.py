"""What is written is what was predicted, in the words of those who read it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from deeplab_jax import TaskConfig, UserError
from deeplab_jax.data.annotations.shapes import Runs, decode_runs, parse_coco_string
from deeplab_jax.inference import coco, formats
from deeplab_jax.inference.coco import coco_file
from deeplab_jax.inference.formats import FORMS, is_ours, read_georeference, save_label

COLORS = ((0, 0, 0), (220, 60, 60), (60, 90, 220))
LABEL = np.random.default_rng(0).integers(0, 3, (70, 50), np.uint8)
VALUES = (0, 7, 300)
GEOTIFF = {
    33550: (0.5, 0.5, 0.0),
    33922: (0.0, 0.0, 0.0, 500000.0, 5600000.0, 0.0),
    34735: (1, 1, 0, 1, 1024, 0, 1, 1),
    34737: "WGS 84|",
    42113: "0",
}


def write_geotiff(file: Path, size: tuple[int, int]) -> None:
    directory = ImageFileDirectory_v2()
    directory.tagtype |= {33550: 12, 33922: 12, 34735: 3, 34737: 2, 42113: 2}
    for tag, value in GEOTIFF.items():
        directory[tag] = value
    Image.new("RGB", size[::-1]).save(file, tiffinfo=directory)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("name", ["index", "geotiff", "color", "ids"])
def test_a_label_file_holds_the_labels(name: Any, suffix: str, tmp_path: Path) -> None:
    """As ids under a palette, colours, or the values of the masks, some above 255; also of MARK."""
    form = FORMS[name](TaskConfig(classes=("a", "b", "c"), values=VALUES), COLORS)
    file = tmp_path / f"a{suffix}"
    save_label(LABEL, file, form, tmp_path / "none")
    expected = {"color": np.array(COLORS)[LABEL], "ids": np.array(VALUES)[LABEL]}.get(name, LABEL)
    with Image.open(file) as image:
        np.testing.assert_array_equal(np.asarray(image), expected)
        assert image.mode == {"color": "RGB", "ids": "I;16"}.get(name, "P")
        if image.mode == "P":
            np.testing.assert_array_equal(image.convert("RGB"), np.array(COLORS)[LABEL])
    assert is_ours(file) and [*tmp_path.iterdir()] == [file]


def test_small_values_have_eight_bits() -> None:
    assert FORMS["ids"](TaskConfig(values=(0, 255)), COLORS).pixels.dtype == np.uint8
    np.testing.assert_array_equal(FORMS["ids"](TaskConfig(), COLORS).pixels, np.arange(256))


def test_a_georeference_is_carried_over(tmp_path: Path) -> None:
    """All but the value for no data, which could be a class's id."""
    write_geotiff(tmp_path / "in.tif", LABEL.shape)
    form = FORMS["geotiff"](TaskConfig(), COLORS)
    save_label(LABEL, tmp_path / "out.tif", form, tmp_path / "in.tif")
    with Image.open(tmp_path / "out.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), LABEL)
        tags = dict(image.tag_v2)  # type: ignore[attr-defined]
    assert {t: tags.get(t) for t in GEOTIFF} == GEOTIFF | {42113: None}
    assert read_georeference(tmp_path / "out.tif") == read_georeference(tmp_path / "in.tif")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_other_files_have_no_georeference(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, header: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.tif"
    file.write_bytes(header + content)
    read_georeference(file)


def test_a_tiff_ends_at_4_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_TIFF", 100)
    with pytest.raises(UserError, match=r"a\.tif: more than .* of a TIFF"):
        save_label(LABEL, tmp_path / "a.tif", FORMS["geotiff"](TaskConfig(), COLORS), tmp_path)
    assert not [*tmp_path.iterdir()]


LABELS = arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LABELS, max_size=4), st.sampled_from([1, 5, 100]))
def test_coco_s_run_lengths_are_the_masks(
    tmp_path_factory: pytest.TempPathFactory, labels: list[np.ndarray], block: int
) -> None:
    """Also where columns are looked at one by one, as those of an image larger than memory."""
    file = tmp_path_factory.getbasetemp() / "predictions.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, "COLUMN_PIXELS", block)
        with coco_file(file, ["a", 'b "quoted"', "c", "d"]) as add:
            for i, label in enumerate(labels):
                add(f"{i}.jpg", label)
    read = json.loads(file.read_text(encoding="utf-8"))
    assert is_ours(file)
    assert [(c["id"], c["name"]) for c in read["categories"]][1] == (1, 'b "quoted"')
    sizes = {image["id"]: (image["height"], image["width"]) for image in read["images"]}
    assert [*sizes.values()] == [label.shape for label in labels]
    ids = [a["id"] for a in read["annotations"]]
    assert ids == [*range(1, len(ids) + 1)]
    found = [np.full(label.shape, 9, np.uint8) for label in labels]
    for a in read["annotations"]:
        runs = parse_coco_string(a["segmentation"]["counts"])
        size = tuple(a["segmentation"]["size"])
        top, left, part = decode_runs(Runs(runs, size), size)
        mask = np.zeros(size, bool)
        mask[top : top + part.shape[0], left : left + part.shape[1]] = part
        assert a["area"] == mask.sum() and a["iscrowd"] == 0
        y, x = np.nonzero(mask)
        assert a["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        found[a["image_id"] - 1][mask] = a["category_id"]
    for label, again in zip(labels, found, strict=True):
        np.testing.assert_array_equal(again, label)


def test_nothing_is_left_of_what_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError), coco_file(tmp_path / "predictions.json", ["a"]) as add:
        add("a.jpg", LABEL)
        raise ValueError
    assert not [*tmp_path.iterdir()]
