"""What pixels look like at random, an image each its own way; label maps have no part in it.

Shapes: image f32 [b, h, w, c] in [0, 255], and so is what is returned. Padding (grey 127) changes
with the rest, as it would in an image that has it.
"""

import math
from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array

# YIQ (NTSC 1953): luma, and a plane of colours in which a hue is an angle.
TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def color_jitter(key: Array, image: Array, strength: float) -> Array:
    """Random brightness, contrast, saturation: factors uniform in 1 +- strength, a draw an image.

    Others than RGB have no saturation.
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


def turn_hue(key: Array, image: Array, most: float) -> Array:
    """Turn colours about grey by up to `most` of a whole turn, luma kept; others than RGB stay."""
    if image.shape[-1] != 3:
        return image
    angle = 2 * jnp.pi * uniform(key, image, -most, most)[..., 0]
    sin, cos, zero = jnp.sin(angle), jnp.cos(angle), jnp.zeros_like(angle)
    turn = jnp.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], axis=-1)
    to_yiq = jnp.array(TO_YIQ)
    matrix = jnp.linalg.inv(to_yiq) @ turn.reshape(-1, 3, 3) @ to_yiq
    return jnp.clip(jnp.einsum("bhwc,bdc->bhwd", image, matrix, precision="highest"), 0.0, 255.0)


def bend_gamma(key: Array, image: Array, strength: float) -> Array:
    """255 (x / 255)^gamma, gamma from 1 / (1 + strength) to 1 + strength, as likely below 1."""
    most = math.log1p(strength)
    return 255.0 * (image / 255.0) ** jnp.exp(uniform(key, image, -most, most))


def blur(key: Array, image: Array, most: float) -> Array:
    """A Gaussian of sigma 0 to `most` pixels, cut off at twice the largest; edges are repeated."""
    sigma, reach = uniform(key, image, 0.0, most), math.ceil(2 * most)
    distances = range(-reach, reach + 1)
    # The least sigma leaves the image as it is: exp(-5000) is 0.
    weights = [jnp.exp(-0.5 * (d / jnp.maximum(sigma, 0.01)) ** 2) for d in distances]
    total = reduce(jnp.add, weights)
    for axis in (1, 2):
        pads = [(reach, reach) if i == axis else (0, 0) for i in range(4)]
        padded, n = jnp.pad(image, pads, mode="edge"), image.shape[axis]
        parts = (jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in range(len(weights)))
        image = reduce(jnp.add, map(jnp.multiply, weights, parts)) / total
    return image


def add_noise(key: Array, image: Array, most: float) -> Array:
    """Normal noise of each pixel and channel, its standard deviation 0 to `most` grey levels."""
    strength_key, noise_key = jax.random.split(key)
    noise = uniform(strength_key, image, 0.0, most) * jax.random.normal(noise_key, image.shape)
    return jnp.clip(image + noise, 0.0, 255.0)


def uniform(key: Array, image: Array, low: float, high: float) -> Array:
    """A draw an image: f32 [b, 1, 1, 1]."""
    return jax.random.uniform(key, (image.shape[0], 1, 1, 1), minval=low, maxval=high)
