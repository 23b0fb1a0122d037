"""One data set in the forms that tools write: the label maps are equal, and no flag is needed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from folders import save
from PIL import Image

from deeplab_jax.arguments import read_config
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import camvid
from deeplab_jax.data.source import Source
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.training.loop import open_sources

CAMVID = Path(__file__).resolve().parents[3] / "shared" / "data" / "camvid"
NAMES, VOID = camvid.CLASS_NAMES, len(camvid.CLASS_NAMES)
COLORS = np.array([*voc_colormap(40)[1:12], (0, 0, 0)], np.uint8)
COUNTS = {"train": 4, "val": 2}

Pair = tuple[str, Path, np.ndarray]  # name, image, values 0 to 11


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[Pair]]:
    """Some images of both splits."""
    if not CAMVID.is_dir():
        pytest.skip(f"needs the images of CamVid in {CAMVID}")
    found = {}
    for split, count in COUNTS.items():
        images = sorted((CAMVID / "images" / split).iterdir())[:: 101 // count][:count]
        masks = [CAMVID / "masks" / split / f"{image.stem}.png" for image in images]
        labels = [np.asarray(Image.open(mask)) for mask in masks]
        found[split] = [(i.stem, i, y) for i, y in zip(images, labels, strict=True)]
    return found


def link(image: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.symlink_to(image)


def rectangles(mask: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles (left, top, right, bottom) that a mask bool[h w] consists of."""
    open_runs: dict[tuple[int, int], int] = {}
    for y in range(len(mask) + 1):
        row = mask[y] if y < len(mask) else np.zeros(mask.shape[1], bool)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        runs = {*map(tuple, edges.reshape(-1, 2).tolist())}
        for run in [run for run in open_runs if run not in runs]:
            yield run[0], open_runs.pop(run), run[1], y
        for run in runs:
            open_runs.setdefault(run, y)


def indices(root: Path, split: str, name: str, image: Path, label: np.ndarray) -> None:
    link(image, root / "images" / split / f"{name}.jpg")
    save(root / "masks" / split / f"{name}.png", label)
    (root / "classes.txt").write_text("\n".join(NAMES))


def colours(root: Path, split: str, name: str, image: Path, label: np.ndarray) -> None:
    link(image, root / split / f"{name}.jpg")
    save(root / f"{split}_labels" / f"{name}_L.png", COLORS[label])
    rows = zip(COLORS.tolist(), [*NAMES, "Void"], strict=True)
    lines = [f"{r} {g} {b}\t\t{name}" for (r, g, b), name in rows]
    (root / "label_colors.txt").write_text("\n".join(lines))


def cvat(root: Path, split: str, name: str, image: Path, label: np.ndarray) -> None:
    link(image, root / "JPEGImages" / f"{name}.jpg")
    save(root / "SegmentationClass" / f"{name}.png", COLORS[label])
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / f"{split}.txt").open("a") as file:
        print(name, file=file)
    rows = sorted(zip([*NAMES, "void"], COLORS.tolist(), strict=True))
    lines = ["# label:color_rgb:parts:actions"]
    lines += [f"{name}:{r},{g},{b}::" for name, (r, g, b) in rows]
    (root / "labelmap.txt").write_text("\n".join(lines))


def roboflow(root: Path, split: str, name: str, image: Path, label: np.ndarray) -> None:
    folder = root / ("valid" if split == "val" else split)
    link(image, folder / f"{name}_jpg.rf.0a1b.jpg")
    save(folder / f"{name}_jpg.rf.0a1b_mask.png", label)
    lines = ["Pixel Value, Class", *(f"{i}, {n}" for i, n in enumerate([*NAMES, "void"]))]
    (folder / "_classes.csv").write_text("\n".join(lines))


def coco(root: Path, split: str, name: str, image: Path, label: np.ndarray) -> None:
    link(image, root / "images" / split / f"{name}.jpg")
    file = root / "annotations" / f"instances_{split}.json"
    empty = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate([*NAMES, "void"])],
    }
    data = json.loads(file.read_text()) if file.is_file() else empty
    number = len(data["images"]) + 1
    h, w = label.shape
    data["images"].append({"id": number, "file_name": f"{name}.jpg", "height": h, "width": w})
    for k in np.unique(label).tolist():
        rings = [[a, b, c, b, c, d, a, d] for a, b, c, d in rectangles(label == k)]
        data["annotations"].append(
            {
                "id": len(data["annotations"]) + 1,
                "image_id": number,
                "category_id": k + 1,
                "segmentation": rings,
                "area": int((label == k).sum()),
                "iscrowd": 0,
            }
        )
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(data))


def labelme(root: Path, split: str, name: str, image: Path, label: np.ndarray) -> None:
    link(image, root / split / f"{name}.jpg")
    shapes = [
        {
            "label": [*NAMES, "__ignore__"][k],
            "points": [[a, b], [c, b], [c, d], [a, d]],
            "shape_type": "polygon",
        }
        for k in np.unique(label).tolist()
        for a, b, c, d in rectangles(label == k)
    ]
    h, w = label.shape
    data = {"shapes": shapes, "imagePath": f"{name}.jpg", "imageHeight": h, "imageWidth": w}
    (root / split / f"{name}.json").write_text(json.dumps(data | {"imageData": None}))


def by_name(source: Source, index: int) -> np.ndarray:
    """A label map with the classes of CamVid by their names, 255 for void."""
    label = source[index]["label"]
    table = np.full(256, 255)
    for i, name in enumerate(source.class_names):
        if name in NAMES:
            table[i] = NAMES.index(name)
    return table[label]


@pytest.mark.parametrize("write", [indices, colours, cvat, roboflow, coco, labelme])
def test_every_form_gives_the_same_label_maps(
    write: Callable[..., None], pairs: dict[str, list[Pair]], tmp_path: Path
) -> None:
    """Polygons along pixels' edges too: of a hand's polygons the difference is the hand's."""
    for split, some in pairs.items():
        for pair in some:
            write(tmp_path, split, *pair)
    config = read_config(None, [], tmp_path)
    _, _, train, val = open_sources(config, device_mesh((1, 1, 1), jax.devices()[:1]))
    for source, split in ((train, "train"), (val, "val")):
        assert {*NAMES} <= {*source.class_names} <= {*NAMES, "background"}
        assert len(source) == COUNTS[split]
        for i, (_, _, label) in enumerate(pairs[split]):
            np.testing.assert_array_equal(by_name(source, i), np.where(label == VOID, 255, label))
