"""One distinct colour per class id, and colours as people write them."""

from deeplab_jax.config import Color


def voc_colormap(n: int = 256) -> tuple[Color, ...]:
    """Return the first `n` RGB colours, 0..255, of the PASCAL VOC colour map; 512 are distinct.

    Bits 0, 3 and 6 of an id are the top bits of red, highest first; 1, 4 and 7 those of green;
    2 and 5 of blue. Source: VOCcode/VOClabelcolormap.m of the VOC devkit.
    """

    def channel(i: int, c: int) -> int:
        return sum(((i >> (3 * k + c)) & 1) << (7 - k) for k in range(3))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(n))


def parse_color(hexadecimal: str) -> Color:
    """Return the colour of six hexadecimal digits: "ff8000" is (255, 128, 0)."""
    red, green, blue = bytes.fromhex(hexadecimal)
    return red, green, blue
