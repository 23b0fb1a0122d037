"""What is random per example but cheap on the device: flip, colour jitter; and uint8 to float."""

import jax
import jax.numpy as jnp
from jax import Array


def augment(
    key: Array, image: Array, label: Array, *, flip: bool, photometric: float
) -> tuple[Array, Array]:
    """image u8 [b h w c], label u8 [b h w] -> image f32 in [0, 255], label int32.

    `flip` mirrors each example with probability 1/2 (official `flip_dim`); `photometric` is the
    strength of random brightness, contrast and saturation, 0 for none.
    """
    flip_key, color_key = jax.random.split(key)
    x, y = image.astype(jnp.float32), label.astype(jnp.int32)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (image.shape[0],))
        x = jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
        y = jnp.where(mirrored[:, None, None], y[:, :, ::-1], y)
    if photometric:
        x = color_jitter(color_key, x, photometric)
    return x, y


def color_jitter(key: Array, image: Array, strength: float) -> Array:
    """Random brightness, contrast, saturation: factors uniform in 1 +- strength, a draw an image.

    Others than RGB, [b h w 3], have no saturation.
    Padding (grey 127) moves with the rest, as it would in an image that has it.
    """
    low, high = 1.0 - strength, 1.0 + strength
    factors = jax.random.uniform(key, (3, image.shape[0], 1, 1, 1), minval=low, maxval=high)
    brightness, contrast, saturation = factors
    x = image * brightness
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    x = (x - mean) * contrast + mean
    if image.shape[-1] != 3:
        return jnp.clip(x, 0.0, 255.0)
    gray = x @ jnp.array([[0.299], [0.587], [0.114]])  # ITU-R BT.601 luma
    return jnp.clip((x - gray) * saturation + gray, 0.0, 255.0)
