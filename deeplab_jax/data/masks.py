"""Masks of any kind, as they are stored, and the table from what they hold to class ids."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from deeplab_jax.config import Color
from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.decode import LAYOUT, open_image
from deeplab_jax.data.tiff import GDAL_NODATA, equals, parse_nodata
from deeplab_jax.errors import UserError

Edges = Literal["refuse", "ignore", "nearest"]
UNKNOWN = 256  # in a table, of what it does not list
MOST_SOFT = 0.5  # of a mask's pixels that may be soft edges
NEAR = 32  # levels: so far, lossy compression moves a colour
HIGHEST = 65535


class Mask(NamedTuple):
    """What a file holds: `values` u8 or u16 [h w]; of colours u32 [h w], as `pack` makes them.

    `palette` has the packed colours of a palette's indices; `lossy`: it was stored as JPEG, or as
    such a WebP; `nodata`: the value that a GeoTIFF marks pixels without data by.
    """

    values: np.ndarray
    kind: Literal["gray", "palette", "color"]
    palette: tuple[int, ...] = ()
    lossy: bool = False
    nodata: int | None = None


def list_some(values: Iterable[object], at_most: int = 8) -> str:
    """The first of some values, and how many more there are."""
    shown = [str(value) for value in values]
    more = f" and {len(shown) - at_most} more" if len(shown) > at_most else ""
    return ", ".join(shown[:at_most]) + more


def pack(color: Color) -> int:
    """A colour as one number, 0 to 2^24 - 1."""
    return color[0] | color[1] << 8 | color[2] << 16


def unpack(packed: int) -> Color:
    """The colour that `pack` made a number of."""
    return packed & 255, packed >> 8 & 255, packed >> 16 & 255


def hexadecimal(packed: int) -> str:
    """A packed colour as people write it, #rrggbb."""
    return "#" + bytes(unpack(packed)).hex()


# ---- reading


def read_mask(content: bytes, name: str) -> Mask:
    """Decode a mask as it is stored: ids, gray levels, palette indices or colours.

    Raises:
      UserError: names the file, and what is allowed.
    """
    with open_image(content, name) as image:
        layout, mode = image.info[LAYOUT], image.mode
        lossy = _is_lossy(image, content)
        if mode == "P":
            palette = _palette(image)
            if image.format != "GIF" or not is_gray(np.array(palette)).all():
                return Mask(np.asarray(image), "palette", palette)
            image = image.convert("L")  # of which a GIF has indices, in any order
        if mode in ("LA", "RGBA"):
            _refuse_alpha_alone(image, name)
        if mode in ("LA", "PA", "La"):
            image = image.getchannel(0)
        if len(image.getbands()) > 1:
            if ";16" in layout:
                raise UserError(f"{name}: a mask of 16-bit colours; save it with 8 bits a channel")
            rgb = image if mode in ("RGB", "RGBA") else image.convert("RGB")
            packed = np.asarray(rgb.convert("RGBA")).view("<u4")[..., 0] & 0xFFFFFF
            return Mask(packed, "color", lossy=lossy)
        stored, nodata = np.asarray(image), _nodata(image)
        if nodata is not None and not (0 <= nodata < HIGHEST and nodata.is_integer()):
            stored = np.where(equals(stored, nodata), HIGHEST, stored)  # as -9999 or nan
            nodata = HIGHEST
        values = _as_integers(stored, name)
        for bits, step in (("L;2", 85), ("L;4", 17)):  # which PIL spreads over 0 to 255
            values = values // step if bits in layout else values
        return Mask(values, "gray", lossy=lossy, nodata=None if nodata is None else int(nodata))


def _is_lossy(image: Image.Image, content: bytes) -> bool:
    """Whether an image is compressed in a way that changes values; a WebP without loss says so."""
    packed = str(image.info.get("compression", ""))
    return (
        image.format in ("JPEG", "MPO")
        or (image.format == "WEBP" and b"VP8L" not in content)
        or (image.format == "TIFF" and packed.endswith("jpeg"))
    )


def _refuse_alpha_alone(image: Image.Image, name: str) -> None:
    """Raise UserError where all that a mask shows is in its transparency, which is not read."""
    low, high = image.getchannel("A").getextrema()
    if low != high and all(
        len({*image.getchannel(band).getextrema()}) == 1 for band in image.getbands()[:-1]
    ):
        raise UserError(
            f"{name}: the mask has one colour, and only its transparency differs: save it without"
            " transparency, each class in a value or colour of its own"
        )


def _palette(image: Image.Image) -> tuple[int, ...]:
    table = image.getpalette("RGB") or []
    return tuple(map(pack, zip(table[::3], table[1::3], table[2::3], strict=True)))


def _as_integers(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    whole = values.dtype.kind in "bui" or bool((values == np.floor(values)).all())
    low, high = values.min(), values.max()
    if not whole or low < 0 or high > 65535:
        raise UserError(
            f"{name}: a mask of {values.dtype} from {low} to {high}; allowed are whole numbers from"
            " 0 to 65535, palette indices or colours"
        )
    return values.astype(np.uint8 if high <= 255 else np.uint16)


def _nodata(image: Image.Image) -> float | None:
    return parse_nodata(getattr(image, "tag_v2", {}).get(GDAL_NODATA, ""))


# ---- to class ids


@dataclass(frozen=True)
class MaskCode:
    """From what masks hold to class ids: pairs of a value, or packed colour, and an id or VOID.

    What a mask marks as no data is VOID, unless it is listed.
    `edges` says what becomes of what is not listed, as anti-aliased edges are not: refused, ignored
    or taken for the nearest that is listed.
    """

    by_color: bool
    table: tuple[tuple[int, int], ...]
    edges: Edges = "refuse"

    def ids(self, mask: Mask, name: str) -> np.ndarray:
        """The label map u8[h w] of a mask: class ids, and VOID where pixels are ignored.

        Raises:
          UserError: it holds what is not listed; the message begins with `name`.
        """
        values, table = self._looked_up(mask, name)
        found = table[values]
        if mask.nodata is not None:
            found[(found == UNKNOWN) & (mask.values == mask.nodata)] = VOID
        unknown = found == UNKNOWN
        if unknown.any():
            if mask.kind == "palette" and self.by_color:
                values = np.array(mask.palette, np.uint32)[values]
            self._settle(found, unknown, values, name)
        return found.astype(np.uint8)

    def _looked_up(self, mask: Mask, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The values of a mask, and the table u16[n] of their ids."""
        table = _table(self.table, self.by_color)
        if not self.by_color:
            return values_of(mask, name), table
        if mask.kind == "palette":  # one look-up a pixel, as for values
            spare = np.zeros(256 - len(mask.palette), int)
            return mask.values, table[np.array([*mask.palette, *spare])]
        gray = mask.kind == "gray"
        return mask.values.astype(np.uint32) * 0x010101 if gray else mask.values, table

    def _settle(
        self, found: np.ndarray, unknown: np.ndarray, values: np.ndarray, name: str
    ) -> None:
        strange, which, counts = np.unique(values[unknown], return_inverse=True, return_counts=True)
        keys = np.array([value for value, id in self.table if id != VOID])
        ids = np.array([id for _, id in self.table if id != VOID])
        apart = np.abs(
            _coordinates(strange, self.by_color)[:, None] - _coordinates(keys, self.by_color)
        )
        far = (
            apart.max(-1).min(1) > NEAR if self.edges == "nearest" else np.ones(len(strange), bool)
        )
        if self.edges == "refuse" or counts[far].sum() > MOST_SOFT * found.size:
            show = hexadecimal if self.by_color else str
            others = Counter(dict(zip(strange.tolist(), counts.tolist(), strict=True)))
            what = list_some(f"{show(v)} ({n} pixels)" for v, n in others.most_common())
            known = list_some(show(value) for value, _ in self.table)
            ask = (
                "" if self.edges != "refuse" else "; --data.edges=ignore or nearest, if soft edges"
            )
            raise UserError(f"{name}: the mask holds {what}; listed are {known}{ask}")
        nearest = ids[np.square(apart).sum(-1).argmin(1)]
        found[unknown] = VOID if self.edges == "ignore" else nearest[which]


@lru_cache(maxsize=4)
def _table(pairs: tuple[tuple[int, int], ...], by_color: bool) -> np.ndarray:
    table = np.full(2**24 if by_color else 2**16, UNKNOWN, np.uint16)
    for value, class_id in pairs:
        table[value] = class_id
    return table


def _coordinates(values: np.ndarray, by_color: bool) -> np.ndarray:
    """What distances are taken between: f64[n 3] of colours, f64[n 1] of values."""
    shifts = (0, 8, 16) if by_color else (0,)
    values = values.astype(int)
    return np.stack([values >> shift & (255 if by_color else 65535) for shift in shifts], -1) * 1.0


def values_of(mask: Mask, name: str) -> np.ndarray:
    """The values u8 or u16 [h w] of a mask; of one saved as colours, its gray levels.

    Raises:
      UserError: it holds colours other than gray.
    """
    if mask.kind != "color":
        return mask.values
    if (odd := mask.values[~is_gray(mask.values)]).size:
        raise UserError(
            f"{name}: the mask holds colours, such as {hexadecimal(int(odd[0]))}, and other masks"
            " hold class ids: save all alike"
        )
    return (mask.values & 255).astype(np.uint8)


def is_gray(packed: np.ndarray) -> np.ndarray:
    """Where packed colours have the same red, green and blue."""
    return packed == (packed & 255) * 0x010101


def plain_code(classes: int) -> MaskCode:
    """The code of masks that hold class ids, and VOID."""
    return MaskCode(False, (*((i, i) for i in range(classes)), (VOID, VOID)))
