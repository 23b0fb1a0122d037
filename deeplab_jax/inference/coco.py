"""Predictions as COCO's JSON: the pixels of each class of an image as run lengths."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab_jax.config import Size
from deeplab_jax.data.annotations.shapes import write_coco_string
from deeplab_jax.inference.formats import MARK, new_file

COCO_FILE = "predictions.json"
COLUMN_PIXELS = 2**22  # whose runs are looked for at a time


class Runs(NamedTuple):
    """Where a label map has one class, down its columns: first pixels i64[n], and past the last."""

    starts: np.ndarray
    ends: np.ndarray


def column_runs(label: np.ndarray) -> dict[int, Runs]:
    """The runs of each class of a label map u8[h w], which may be larger than memory."""
    h, w = label.shape
    step, last = max(1, COLUMN_PIXELS // h), -1
    starts, ids = [], []
    for left in range(0, w, step):
        column = label[:, left : left + step].T.ravel()
        new = np.flatnonzero(np.diff(column, prepend=np.int16(last)))
        starts.append(new + left * h)
        ids.append(column[new])
        last = column[-1]
    begin, class_ids = np.concatenate(starts), np.concatenate(ids)
    end = np.append(begin[1:], h * w)
    return {int(k): Runs(begin[class_ids == k], end[class_ids == k]) for k in np.unique(class_ids)}


def annotation(runs: Runs, size: Size) -> dict[str, Any]:
    """COCO's words for the pixels of a class: run lengths, area and box."""
    h, w = size
    starts, ends = runs
    edges = np.column_stack([starts, ends]).ravel()
    lengths = np.diff(np.concatenate([[0], edges, [h * w] if edges[-1] < h * w else []]))
    x, right = int(starts[0]) // h, int(ends[-1] - 1) // h
    crosses = bool((starts // h != (ends - 1) // h).any())  # a column's end, and goes on
    top, bottom = (0, h - 1) if crosses else (int((starts % h).min()), int(((ends - 1) % h).max()))
    return {
        "segmentation": {"size": [h, w], "counts": write_coco_string(lengths.astype(int).tolist())},
        "area": int((ends - starts).sum()),
        "bbox": [x, top, right - x + 1, bottom - top + 1],
        "iscrowd": 0,
    }


@contextmanager
def coco_file(
    file: Path, class_names: Sequence[str]
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """COCO's JSON, to which the function that it gives adds an image's name and label map.

    Annotations are written as they come; only the images' names are kept.

    Raises:
      UserError: it cannot be written.
    """
    images: list[dict[str, Any]] = []
    with new_file(file) as staging, staging.open("w", encoding="utf-8") as stream:
        stream.write(f'{{"info": {json.dumps({"description": MARK})},\n"annotations": [')
        count = 0

        def add(name: str, label: np.ndarray) -> None:
            nonlocal count
            (h, w), image_id = label.shape, len(images) + 1
            images.append({"id": image_id, "file_name": name, "width": w, "height": h})
            for class_id, runs in column_runs(label).items():
                stream.write(",\n" if count else "\n")
                count += 1
                ids = {"id": count, "image_id": image_id, "category_id": class_id}
                stream.write(json.dumps(ids | annotation(runs, (h, w))))

        yield add
        categories = [
            {"id": i, "name": name, "supercategory": ""} for i, name in enumerate(class_names)
        ]
        stream.write(
            f'],\n"categories": {json.dumps(categories)},\n"images": {json.dumps(images)}}}'
        )
