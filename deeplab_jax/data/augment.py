"""What is random per example on the device: where pixels go, what they look like; uint8 to float.

All of it follows from a key, so from (seed, step), and from the batch. What is off is not traced.
Scale and crop are the host's, and so is where a crop lies (`batches.py`).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from deeplab_jax.config import AugmentConfig
from deeplab_jax.data.appearance import add_noise, bend_gamma, blur, color_jitter, turn_hue
from deeplab_jax.data.geometry import Pair, mirror, move, per_image, turn_quarters
from deeplab_jax.data.hook import apply_hook
from deeplab_jax.ops.partition import BATCH, ROWS, constrain

# Each has a key by its place here: append, so that the others' draws stay what they were.
DRAWS = (
    *("flip", "photometric", "vertical_flip", "quarter_turns", "affine"),
    *("hue", "gamma", "blur", "noise", "cutmix", "hook"),
)


def augment(
    key: Array,
    image: Array,
    label: Array,
    config: AugmentConfig,
    *,
    fill: Sequence[int],
    ignore_label: int,
) -> Pair:
    """image u8 [b h w c], label u8 or u16 [b h w] -> image f32 in [0, 255], label int32.

    A classifier's label is [b 1 1]. `fill` [c] is the pixel outside of a moved image, whose label
    is ignored.

    Raises:
      UserError: `config.hook` is missing, fails, or returns something else than it was given.
    """

    def key_of(name: str) -> Array:
        return jax.random.fold_in(key, DRAWS.index(name))

    x, y = image.astype(jnp.float32), label.astype(jnp.int32)
    if config.flip:
        x, y = mirror(key_of("flip"), x, y, axis=2)
    if config.vertical_flip:
        x, y = whole_rows(*mirror(key_of("vertical_flip"), x, y, axis=1))
    if config.quarter_turns:
        x, y = whole_rows(*turn_quarters(key_of("quarter_turns"), x, y))
    if config.rotate or config.shear or config.aspect:
        moved = move(key_of("affine"), x, y, config, fill=fill, ignore_label=ignore_label)
        x, y = whole_rows(*moved)
    for name, change in (
        ("photometric", color_jitter),
        ("hue", turn_hue),
        ("gamma", bend_gamma),
        ("blur", blur),
        ("noise", add_noise),
    ):
        if most := getattr(config, name):
            x = change(key_of(name), x, most)
    if config.cutmix:
        x, y = cutmix(key_of("cutmix"), x, y, config.cutmix)
    return apply_hook(config.hook, key_of("hook"), x, y) if config.hook else (x, y)


def step_keys(seed: int, step: Array | int) -> Pair:
    """The keys of a training step: of augmentation and of dropout."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    return augment_key, dropout_key


def whole_rows(image: Array, label: Array) -> Pair:
    """Both, where devices share images: each moves whole ones, and keeps its rows afterwards."""
    return constrain(image, ROWS, P(BATCH)), constrain(label, ROWS, P(BATCH))


def cutmix(key: Array, image: Array, label: Array, probability: float) -> Pair:
    """Paste a rectangle of the next image in the batch, and of its label, over some of the images.

    Yun et al. 2019: its share of the area is uniform in 0 to 1, its shape the image's, its centre
    anywhere; what hangs over the edge is cut. French et al. 2020 have it for segmentation.
    """
    b, h, w, _ = image.shape
    keys = jax.random.split(key)
    chosen = jax.random.bernoulli(keys[0], probability, (b,))
    area, *centre = jax.random.uniform(keys[1], (3, b))
    reach = 0.5 * jnp.sqrt(area)
    y, x = (jnp.arange(n) + 0.5 for n in (h, w))
    rows, columns = (
        jnp.abs(places / n - middle[:, None]) < reach[:, None]
        for places, n, middle in zip((y, x), (h, w), centre, strict=True)
    )
    pasted = per_image(chosen, label) & rows[:, :, None] & columns[:, None, :]
    following = partial(jnp.roll, shift=-1, axis=0)
    image = jnp.where(pasted[..., None], following(image), image)
    return image, jnp.where(pasted, following(label), label)
