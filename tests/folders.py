"""Small folders of images and masks, and a small VOC devkit."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_jax import Config, DataConfig, MachineConfig
from deeplab_jax.data.datasets import voc
from deeplab_jax.data.folder import open_folder
from deeplab_jax.data.source import Source, open_source


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def encode(image: Image.Image | np.ndarray, format: str = "PNG", **options: object) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def palette(ids: np.ndarray, colors: np.ndarray) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette(colors.tobytes() + bytes(768 - colors.size))
    return image


def make_folder(root: Path, ids: list[str], split: str = "train", value: int = 1) -> Path:
    for id in ids:
        label = np.zeros((6, 8), np.uint8)
        label[1:3] = value
        save(root / "images" / split / f"{id}.jpg", np.zeros((6, 8, 3), np.uint8))
        save(root / "masks" / split / f"{id}.png", label)
    return root


def make_devkit(root: Path, count: int = 3) -> Path:
    folder = root / "VOC2012"
    for i in range(count):
        save(folder / "JPEGImages" / f"p{i}.jpg", np.zeros((6, 8, 3), np.uint8))
        save(folder / "SegmentationClass" / f"p{i}.png", np.full((6, 8), i, np.uint8))
    (folder / voc.LISTS).mkdir(parents=True)
    (folder / voc.LISTS / "val.txt").write_text("".join(f"p{i}\n" for i in range(count)))
    return root


def open_two(root: Path, split: str = "train", holdout: float = 0.0) -> Source:
    data = DataConfig(source="folder", holdout=holdout)
    return open_folder(root, split, data=data, num_classes=2)


def open_voc(devkit: Path, split: str, prepared: Path) -> Source:
    machine = MachineConfig(root=str(devkit), prepared_dir=str(prepared))
    return open_source(Config(data=DataConfig(source="voc2012"), machine=machine), split)


def ids_of(source: Source) -> list[str]:
    return [source[i]["id"] for i in range(len(source))]
