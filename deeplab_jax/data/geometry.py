"""Where pixels go at random, an image each its own way: the label map by the very same map.

Shapes: image f32 [b, h, w, c], label int32 [b, h, w]. A label map of one label an image,
[b, 1, 1], stays as it is.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from deeplab_jax.config.augment import AugmentConfig

Pair = tuple[Array, Array]  # image and label


def mirror(key: Array, image: Array, label: Array, axis: int) -> Pair:
    """Mirror each example along an axis, 1 of rows or 2 of columns, with probability 1/2."""
    chosen = jax.random.bernoulli(key, 0.5, (image.shape[0],))
    return reverse(image, chosen, axis), reverse(label, chosen, axis)


def turn_quarters(key: Array, image: Array, label: Array) -> Pair:
    """Turn each example, which is square, by k quarters anticlockwise, k of 0 to 3."""
    k = jax.random.randint(key, (image.shape[0],), 0, 4)

    def turn(x: Array) -> Array:
        x = jnp.where(per_image(k % 2 == 1, x), jnp.swapaxes(x, 1, 2), x)
        return reverse(reverse(x, (k == 1) | (k == 2), 1), k >= 2, 2)

    return turn(image), turn(label)


def reverse(x: Array, chosen: Array, axis: int) -> Array:
    """x [b, ...] with the chosen examples, bool [b], reversed along an axis."""
    return jnp.where(per_image(chosen, x), jnp.flip(x, axis), x)


def per_image(values: Array, x: Array) -> Array:
    """A value an image, [b], as it is broadcast over x [b, ...]."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def move(
    key: Array,
    image: Array,
    label: Array,
    config: AugmentConfig,
    *,
    fill: Sequence[int],
    ignore_label: int,
) -> Pair:
    """Rotate, shear and stretch each example about its centre, by one affine map.

    The image is read bilinearly and the label at the nearest pixel, both at the same places. What
    lies outside is `fill` [c] and ignored.
    """
    b, h, w, _ = image.shape
    y, x = jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2
    (yy, yx), (xy, xx) = draw_maps(key, b, config)
    # Not as a product of matrices: accelerators would round what stands in them to 8 or 10 bits.
    y, x = (
        per_image(to_y, image[..., 0]) * y[:, None] + per_image(to_x, image[..., 0]) * x + centre
        for to_y, to_x, centre in ((yy, yx, (h - 1) / 2), (xy, xx, (w - 1) / 2))
    )
    rows, columns = jnp.floor(y + 0.5), jnp.floor(x + 0.5)
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    moved = jax.vmap(bilinear)(image, jnp.clip(y, 0, h - 1), jnp.clip(x, 0, w - 1))
    image = jnp.where(inside[..., None], moved, jnp.array(fill, image.dtype))
    if label.shape != inside.shape:
        return image, label
    rows = jnp.clip(rows, 0, h - 1).astype(jnp.int32)
    columns = jnp.clip(columns, 0, w - 1).astype(jnp.int32)
    return image, jnp.where(inside, jax.vmap(pick)(label, rows, columns), ignore_label)


def draw_maps(key: Array, b: int, config: AugmentConfig) -> tuple[Pair, Pair]:
    """A linear map for each of b images, from (y, x) in the result to (y, x) in the image.

    Turn @ lean @ stretch, row by row: ((y of y, y of x), (x of y, x of x)), each f32 [b].
    """
    turn, lean, stretch = jax.random.uniform(key, (3, b), minval=-1.0, maxval=1.0)
    angle = jnp.deg2rad(config.rotate) * turn
    slope = jnp.tan(jnp.deg2rad(config.shear) * lean)
    root = jnp.exp(0.5 * jnp.log1p(config.aspect) * stretch)  # of width over height
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return (
        ((cos + sin * slope) * root, sin / root),
        ((cos * slope - sin) * root, cos / root),
    )


def bilinear(image: Array, y: Array, x: Array) -> Array:
    """Values of an image [h, w, c] at places in it, y and x f32 [...]: f32 [..., c]."""
    h, w, _ = image.shape
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, h - 1), jnp.minimum(left + 1, w - 1)
    down, over = (y - top)[..., None], (x - left)[..., None]
    above = pick(image, top, left) * (1 - over) + pick(image, top, right) * over
    below = pick(image, bottom, left) * (1 - over) + pick(image, bottom, right) * over
    return above * (1 - down) + below * down


def pick(pixels: Array, rows: Array, columns: Array) -> Array:
    """Pixels of [h, w, ...] at indices that are in bounds."""
    return pixels.at[rows, columns].get(mode="promise_in_bounds")
