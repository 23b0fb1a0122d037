"""Thousands of damaged annotation files: each is refused by a `UserError` or painted right.

    python -m pytest tests/reliability/test_fuzz_annotations.py -m reliability -n 0 -s

As in test_fuzz.py, one input follows from one seed, and FUZZ_SEED=123 runs that one alone.
"""

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import SQUARE, make_images
from mutate import FLOATS, NUMBERS, TEXTS, Rng, damage, pick
from PIL import Image
from test_fuzz import damaged_json, encode, fuzz

from deeplab_jax.data.annotations import coco, cvat, kaggle, labelme, yolo
from deeplab_jax.data.annotations.shapes import VOID, Drawing, paint
from deeplab_jax.data.decode import Unreadable, image_size
from deeplab_jax.data.layouts import Layout

pytestmark = pytest.mark.reliability

PAIRS = [[1, 1], [5, 1], [5, 3], [1, 3]]


def check(layout: Layout | None, root: Path) -> None:
    """Whatever is accepted: images below the root, label maps of its classes, ids that differ."""
    if layout is None:
        return
    assert layout.table and 2 <= len(layout.table.names) < VOID
    for items in pickle.loads(pickle.dumps(layout)).splits.values():
        assert len({item.id for item in items}) == len(items) > 0
        for item in items:
            if isinstance(item.image, Path):
                assert item.image.resolve().is_relative_to(root)
            if item.label is None:
                continue
            assert isinstance(item.label, Drawing)
            try:
                size = image_size(item.image, item.id)
            except Unreadable:
                assert isinstance(item.image, bytes)  # embedded, and damaged
                continue
            label = paint(item.label, item.id, size)
            assert label.shape == (item.label.size or size) and label.dtype == np.uint8
            assert set(np.unique(label).tolist()) <= {*range(len(layout.table.names)), VOID}


def replace(parts: list[str], rng: Rng) -> list[str]:
    """A few parts replaced by what is seldom expected."""
    parts = [*parts]
    for at in rng.integers(len(parts), size=int(rng.integers(4))):
        parts[int(at)] = str(pick((*NUMBERS, *FLOATS, *TEXTS, "1,1;1"), rng))
    return parts


def coco_file(rng: Rng, root: Path) -> Layout | None:
    category = [{"id": 1, "name": "a", "supercategory": "b"}, {"id": 0, "name": "b"}]
    shapes: list[Any] = [
        [SQUARE, SQUARE],
        {"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]},
        {"size": [4, 6], "counts": "9220003"},
        [],
    ]
    annotations = [
        {"id": i, "image_id": i % 2, "category_id": 1, "segmentation": shape, "bbox": [1, 1, 4, 2]}
        for i, shape in enumerate(shapes)
    ]
    images = [
        {"id": i, "file_name": f"{name}.jpg", "width": 6, "height": 4}
        for i, name in enumerate(("a", "sub/b"))
    ]
    tree = {"images": images, "categories": category, "annotations": annotations}
    (root / "result.json").write_bytes(damaged_json(tree, rng))
    return coco.read(root)


def labelme_file(rng: Rng, root: Path) -> Layout | None:
    bits = Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8)).convert("1")
    mask, embedded = (
        base64.b64encode(encode(image, "PNG", {})).decode()
        for image in (bits, Image.new("RGB", (6, 4)))
    )
    shapes = [
        {"label": "a", "points": points, "shape_type": kind, "mask": mask}
        for kind, points in (
            ("polygon", PAIRS),
            ("rectangle", PAIRS[::2]),
            ("circle", PAIRS[:2]),
            ("line", PAIRS[:2]),
            ("linestrip", PAIRS),
            ("mask", [[1, 1], [2, 2]]),
            ("points", PAIRS),
        )
    ]
    path = pick(("a.jpg", "gone.jpg", "..\\images\\a.jpg"), rng)
    tree = {"shapes": shapes, "imagePath": path, "imageData": embedded}
    tree |= {"imageHeight": 4, "imageWidth": 6}
    name = "a.json" if path == "a.jpg" else "other.json"
    for file in root.glob("*.json"):  # of the seed before
        file.unlink()
    (root / name).write_bytes(damaged_json(tree, rng))
    return labelme.read(root)


def yolo_files(rng: Rng, root: Path) -> Layout | None:
    """The data.yaml, a list or the text file of an image."""
    place = pick(("images", "../images", "list.txt", ["images/sub", "list.txt"]), rng)
    told: dict[str, Any] = {"path": ".", "train": place, "val": "sub", "nc": 2, "names": ["a", "b"]}
    files = {
        "data.yaml": b"\n".join(f"{k}: {json.dumps(v)}".encode() for k, v in told.items()),
        "list.txt": pick((b"./images/a.jpg\n", b"data/images/a.jpg\r\n"), rng),
        "labels/a.txt": b"0 .1 .1 .9 .1 .9 .9 .1 .9\n1 0 0 1 0 1 1\n0 .5 .5 .1 .1\n",
    }
    damaged = pick([*files], rng)
    if damaged == "data.yaml" and rng.random() < 0.5:  # YAML holds what JSON does
        files[damaged] = damaged_json(told, rng)
    else:
        files[damaged] = damage(files[damaged], rng)
    if damaged == "labels/a.txt":
        words = replace(files[damaged].decode(errors="replace").split(" "), rng)
        files[damaged] = " ".join(words).encode(errors="surrogatepass")
    for name, data in files.items():
        (root / name).write_bytes(data)
    return yolo.read(root)


CVAT = (
    '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>'
    "<label><name>a</name><color>#102030</color></label><label><name>b</name></label></labels>"
    '</task></meta><image id="0" name="a.jpg" width="6" height="4" subset="train">'
    '<polygon label="a" points="1.00,1.00;5.00,1.00;5.00,3.00" z_order="1"/>'
    '<mask label="b" rle="0, 1, 1, 4" left="2" top="1" width="3" height="2" z_order="0"></mask>'
    '<box label="a" xtl="1" ytl="1" xbr="3" ybr="3" rotation="30"/>'
    '<ellipse label="b" cx="2" cy="2" rx="2" ry="1" rotation="30"/><points label="a"/>'
    "</image></annotations>"
)


def cvat_file(rng: Rng, root: Path) -> Layout | None:
    """Values replaced, or the bytes damaged."""
    parts = CVAT.split('"')
    parts[1::2] = replace(parts[1::2], rng)
    data = '"'.join(parts).encode(errors="surrogatepass") if rng.random() < 0.6 else CVAT.encode()
    data = damage(data, rng) if rng.random() < 0.5 else data
    (root / "annotations.xml").write_bytes(data)
    return cvat.read(root)


def kaggle_file(rng: Rng, root: Path) -> Layout | None:
    head = pick(
        ("ImageId,ClassId,EncodedPixels", "img,class,rle", "ImageId_ClassId,x,rle_mask"), rng
    )
    name = "a.jpg_1" if "_Class" in head else "a.jpg"
    cells = [head, f"{name},1,10 2 14 2 18 2", f"{name},2,1 1", "sub/b.jpg,1,"]
    at, mark = int(rng.integers(1, len(cells))), pick((",", " "), rng)
    cells[at] = mark.join(replace(cells[at].split(mark), rng))
    data = "\n".join(cells).encode(errors="surrogatepass")
    data = damage(data, rng) if rng.random() < 0.5 else data
    (root / "train.csv").write_bytes(data)
    return kaggle.read(root)


ATTEMPTS = [coco_file, labelme_file, yolo_files, cvat_file, kaggle_file]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two images."""
    make_images(tmp_path / "data", "images/a.jpg", "images/sub/b.jpg")
    (tmp_path / "data" / "labels").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_damaged_annotations(
    attempt: Callable[[Rng, Path], Layout | None], root: Path, tmp_path: Path
) -> None:
    """64 megapixels are the most that is painted."""

    def annotations(rng: Rng) -> None:
        check(attempt(rng, root), root)

    annotations.__name__ = attempt.__name__
    fuzz(annotations, tmp_path, megabytes=1100)


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_undamaged_annotations(
    attempt: Callable[[Rng, Path], Layout | None], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are accepted: nothing else is at fault in what the test above has refused."""
    monkeypatch.setitem(globals(), "damaged_json", lambda tree, _: json.dumps(tree).encode())
    monkeypatch.setitem(globals(), "damage", lambda data, _: data)
    monkeypatch.setitem(globals(), "replace", lambda parts, *_: parts)
    for seed in range(20):
        layout = attempt(np.random.default_rng(seed), root)
        assert layout
        check(layout, root)
