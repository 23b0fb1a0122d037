"""Small folders of images with annotation files, and what they are painted as."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from folders import save

from deeplab_jax.data.annotations.shapes import Drawing, paint
from deeplab_jax.data.decode import image_size
from deeplab_jax.data.layouts import Item, Layout

SQUARE = [1, 1, 5, 1, 5, 3, 1, 3]  # columns 1 to 4, rows 1 and 2


def make_images(root: Path, *names: str, size: tuple[int, int] = (4, 6)) -> None:
    for name in names:
        save(root / name, np.zeros((*size, 3), np.uint8))


def write(path: Path, content: Any) -> Path:
    """Write a text, or what is no text as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def painted(item: Item) -> np.ndarray:
    size = image_size(item.image, item.id)
    if item.label is None:
        return np.zeros(size, np.uint8)
    assert isinstance(item.label, Drawing)
    return paint(item.label, item.id, size)


def labels(layout: Layout | None, split: str = "") -> dict[str, np.ndarray]:
    """The label maps of a split by the images' ids."""
    assert layout is not None
    return {item.id: painted(item) for item in layout.splits[split]}


def box(value: int, rows: slice, columns: slice, size: tuple[int, int] = (4, 6)) -> np.ndarray:
    label = np.zeros(size, np.uint8)
    label[rows, columns] = value
    return label
