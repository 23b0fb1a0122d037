"""The colour map of PASCAL VOC: one distinct colour per class id."""

Color = tuple[int, int, int]


def voc_colormap(n: int = 256) -> tuple[Color, ...]:
    """Return the first `n` RGB colours, 0..255, of the PASCAL VOC colour map; 512 are distinct.

    Source: VOCcode/VOClabelcolormap.m of the VOC devkit.
    """
    return tuple(_voc_color(i) for i in range(n))


def _voc_color(i: int) -> Color:
    # Bits 0, 3, 6 of the id are the top bits of red, highest first; 1, 4, 7 of green; 2, 5 of blue.
    def channel(c: int) -> int:
        return sum(((i >> (3 * k + c)) & 1) << (7 - k) for k in range(3))

    return channel(0), channel(1), channel(2)
