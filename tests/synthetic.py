"""Tiny images whose labels are plain to see, networks of random weights, and comparing trees."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from PIL import Image

from deeplab_jax import ModelConfig
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.parallel.mesh import Shape, device_mesh

COLORS = np.array([(40, 40, 40), (220, 60, 60), (60, 90, 220)], np.uint8)
SIZE = (40, 56)


def square_image(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A red and a blue square on noisy grey, void around: image u8 [40 56 3], label u8 [40 56]."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SIZE, np.uint8)
    for class_id in (1, 2):
        y, x = rng.integers(2, 22), rng.integers(2, 38)
        label[y - 1 : y + 17, x - 1 : x + 17] = 255
        label[y : y + 16, x : x + 16] = class_id
    image = COLORS[np.where(label == 255, 0, label)].astype(int) + rng.integers(-20, 20, (*SIZE, 1))
    return image.clip(0, 255).astype(np.uint8), label


def write_squares(root: Path, splits: dict[str, int]) -> None:
    """A folder data set of `square_image`s."""
    seed = 0
    for split, count in splits.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image, label = square_image(seed)
            Image.fromarray(image).save(root / "images" / split / f"p{i:02d}.png")
            Image.fromarray(label).save(root / "masks" / split / f"p{i:02d}.png")
            seed += 1
    (root / "classes.txt").write_text("grey #282828\nred #dc3c3c\nblue #3c5adc\n")


def random_variables(model: ModelConfig, seed: int = 0) -> Any:
    """Variables without compiling `init`: kernels scaled by fan-in, plain BatchNorm."""
    rng = np.random.default_rng(seed)

    def leaf(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        if path[-1] in ("scale", "var"):
            return np.ones(shape, np.float32)
        if path[-1] in ("bias", "mean"):
            return np.zeros(shape, np.float32)
        fan_in = np.prod(shape[:3])
        return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    flat = flatten_dict(abstract_variables(model))
    return unflatten_dict({path: leaf(path, x.shape) for path, x in flat.items()})


def patches(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Eight noisy images of 4 x 4 patches, labelled by their red; sizes as evaluation wants."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 180, (8, size[0] // 4 + 1, size[1] // 4 + 1, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(coarse, 4, 1), 4, 2)[:, : size[0], : size[1]]
    image = image + rng.integers(0, 70, image.shape, dtype=np.uint8)
    sizes = np.tile(np.array(size, np.int32), (8, 1))
    return {"image": image, "label": image[..., 0] // 90, "scaled": sizes, "size": sizes}


def simulated_mesh(shape: Shape) -> Mesh:
    """A mesh of as many simulated devices as it takes."""
    return device_mesh(shape, jax.devices()[: math.prod(n or 1 for n in shape)])


def close(a: Any, b: Any, tolerance: float) -> None:
    """Equal up to `tolerance` of the tree's largest value."""
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(b))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=0, atol=tolerance * largest)
