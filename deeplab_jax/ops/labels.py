"""Which labels count."""

from jax import Array


def valid_pixels(label: Array, num_classes: int, ignore_label: int) -> Array:
    """Where a label counts: bool [b, h, w]. A label outside the classes counts as ignored."""
    return (label != ignore_label) & (label < num_classes) & (label >= 0)
