"""What predictions are written as: a table of the formats, and the files of label maps.

Every file carries MARK: it may be written again, and is never read as an image to predict.
"""

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from deeplab_jax.config import TaskConfig
from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.classes import other_names
from deeplab_jax.data.datasets import cityscapes, voc
from deeplab_jax.errors import UserError
from deeplab_jax.files import write_atomically
from deeplab_jax.reporting import figures

Format = Literal["index", "color", "ids", "coco", "geotiff", "voc", "cityscapes"]
MARK = "written by deeplab_jax predict"
MARKED = (".png", ".tif", ".json", ".mp4")
# Where the evaluation server of VOC looks, segmentation by methods trained on any data.
VOC_RESULTS = "results/VOC2012/Segmentation/comp6_test_cls"
IDS = np.arange(256, dtype=np.uint8)
STRIP_ROWS = 64  # of a TIFF
MAX_TIFF = 2**32 - 2**24  # bytes of its pixels: places in it are numbers of 32 bits
# Of GeoTIFF: the tags that say where the pixels lie, and the types of their values.
GEOREFERENCE = {33550: "d", 33922: "d", 34264: "d", 34735: "H", 34736: "d", 34737: "s"}
TIFF_TYPES = {"s": 2, "H": 3, "I": 4, "d": 12}


class Form(NamedTuple):
    """How a label map is written: the pixel of each class id, u8[256], u16[256] or u8[256 3].

    `palette`: the ids' colours, where pixels are ids. `stored`: as the image's pixels lie in its
    file, not as its EXIF tag turns them. `fixed`: the image's own file name in this `folder`.
    `suffix` "": all go into one file, OUT/predictions.json.
    """

    pixels: np.ndarray = IDS
    palette: Sequence[figures.RGB] | None = None
    suffix: str = ".png"
    stored: bool = False
    fixed: bool = False
    folder: str = ""


# From the name of a format, by the task and the classes' colours, to what it writes.
FORMS: dict[Format, Callable[[TaskConfig, figures.Colors], Form]] = {
    "index": lambda _, colors: Form(palette=colors),
    "color": lambda _, colors: Form(figures.colorize(IDS, colors)),
    "ids": lambda task, _: Form(mask_values(task)),
    "coco": lambda *_: Form(suffix=""),
    # A georeference is of the pixels as they are stored; a server compares with them.
    "geotiff": lambda _, colors: Form(palette=colors, suffix=".tif", stored=True),
    "voc": lambda *_: Form(palette=voc.COLORS, stored=True, fixed=True, folder=VOC_RESULTS),
    "cityscapes": lambda *_: Form(label_ids(), stored=True, fixed=True),
}


def mask_values(task: TaskConfig) -> np.ndarray:
    """The pixel of each class id in masks as those of training: u8[256], u16 where one is larger.

    What is no class has the ignored label.
    """
    values = np.array(task.values or IDS, np.int64)
    table = np.full(256, VOID, np.uint8 if values.max() < 256 else np.uint16)
    table[: len(values)] = values[:256]
    return table


def label_ids() -> np.ndarray:
    """Cityscapes' ids (`labelIds`) of its classes."""
    table = np.zeros(256, np.uint8)
    table[: len(cityscapes.TRAIN_ID_TO_ID)] = cityscapes.TRAIN_ID_TO_ID
    return table


def check_classes(ours: tuple[str, ...], form: Format) -> None:
    """Raise UserError unless a network's classes can be those of the server, and in its order."""
    if form not in ("voc", "cityscapes"):
        return
    theirs = voc.CLASS_NAMES if form == "voc" else cityscapes.CLASS_NAMES
    other, problem = other_names(ours, theirs), ""
    if len(ours) != len(theirs):
        problem = f" is for {len(theirs)} classes; these weights have {len(ours)}"
    elif other and {*ours} == {*theirs}:
        problem = f": these weights have the server's classes in another order ({other})"
    if problem:
        raise UserError(f"--format={form}{problem}")
    if other:
        warning = "the server has other names for these classes, which go by their ids"
        print(f"warning: --format={form}: {warning}: {other}", file=sys.stderr)


def is_ours(file: Path) -> bool:
    """Whether `predict` wrote a file, at any time: it may be written again."""
    if file.suffix.lower() not in MARKED:
        return False
    try:
        with file.open("rb") as f:
            head = f.read(200)
            f.seek(-min(1000, os.fstat(f.fileno()).st_size), os.SEEK_END)  # an MP4's words
            return MARK.encode() in head + (f.read() if file.suffix.lower() == ".mp4" else b"")
    except OSError:
        return False


def unwritable(file: Path, error: OSError) -> UserError:
    return UserError(
        f"{file}: cannot be written ({error.strerror}); make room, rename, or choose another --out"
    )


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A path beside the file that takes its place at the end, or is gone where that fails.

    Raises:
      UserError: it cannot be written.
    """
    staging = file.with_name(f".{os.getpid()}{file.suffix}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield staging
        os.replace(staging, file)
    except BrokenPipeError:  # of the output, whose reader has left
        raise
    except OSError as error:
        raise unwritable(file, error) from error
    finally:
        with suppress(OSError):
            staging.unlink()


# ---- label files


def save_label(label: np.ndarray, file: Path, form: Form, source: Path) -> None:
    """Write a label map u8[h w] as a PNG or, by the file's suffix, a TIFF."""
    if file.suffix == ".png":
        image = Image.fromarray(form.pixels[label])
        if form.palette is not None:
            image = figures.index_image(label, form.palette)
        save(image, file)
    else:
        with new_file(file) as staging, staging.open("wb") as stream:
            write_tiff(stream, label, form, read_georeference(source), str(file))


def save(image: Image.Image, file: Path) -> None:
    """Write a PNG: the whole file or, if that fails, nothing of it.

    Raises:
      UserError: it cannot be written.
    """
    mark, content = PngInfo(), io.BytesIO()
    mark.add_text("Software", MARK)
    # Of photographs, the usual level 6 takes three times as long for a tenth less.
    image.save(content, "PNG", pnginfo=mark, optimize=image.mode == "P", compress_level=3)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content.getvalue())
    except OSError as error:
        raise unwritable(file, error) from error


def write_tiff(
    stream: IO[bytes],
    label: np.ndarray,
    form: Form,
    georeference: dict[int, tuple[str, Any]],
    name: str,
) -> None:
    """Write a label map strip by strip, deflated: it may be larger than memory.

    Raises:
      UserError: it takes more than the 4 GB of a TIFF.
    """
    (h, w), dtype = label.shape, form.pixels.dtype
    stream.write(b"II*\0" + bytes(4) + MARK.encode() + b"\0")
    begins, sizes = [], []
    for top in range(0, h, STRIP_ROWS):
        pixels = form.pixels[label[top : top + STRIP_ROWS]].astype(dtype.newbyteorder("<"))
        begins.append(stream.tell())
        sizes.append(stream.write(zlib.compress(pixels.tobytes())))
        if stream.tell() > MAX_TIFF:
            raise UserError(f"{name}: more than the 4 GB of a TIFF: cut the image first")
    channels = form.pixels.shape[1] if form.pixels.ndim == 2 else 1
    tags: dict[int, tuple[str, Any]] = {
        **georeference,
        256: ("I", [w]),
        257: ("I", [h]),
        258: ("H", [8 * dtype.itemsize] * channels),
        259: ("H", [8]),  # deflate
        262: ("H", [2 if channels == 3 else 1 if form.palette is None else 3]),
        273: ("I", begins),
        277: ("H", [channels]),
        278: ("I", [STRIP_ROWS]),
        279: ("I", sizes),
        305: ("s", MARK.encode() + b"\0"),
    }
    if form.palette is not None:  # all reds first, 16 bits each
        palette = figures.colorize(IDS, form.palette).T.astype(int) * 257
        tags[320] = ("H", palette.ravel().tolist())
    write_directory(stream, tags)


def write_directory(stream: IO[bytes], tags: dict[int, tuple[str, Any]]) -> None:
    """Write the tags of a TIFF at its end, and where they are at its beginning."""
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        data = values if kind == "s" else struct.pack(f"<{len(values)}{kind}", *values)
        if len(data) > 4:
            stream.write(bytes(stream.tell() % 2))
            place = struct.pack("<I", stream.tell())
            stream.write(data)
        else:
            place = data.ljust(4, b"\0")
        entries.append(struct.pack("<HHI", tag, TIFF_TYPES[kind], len(values)) + place)
    stream.write(bytes(stream.tell() % 2))
    directory = stream.tell()
    stream.write(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    stream.seek(4)
    stream.write(struct.pack("<I", directory))


def tiff_tags(file: Path) -> Mapping[int, Any]:
    """What a TIFF of any size says of itself; {} of other files, and of broken ones."""
    try:
        with file.open("rb") as f:
            header = f.read(8)
            header += f.read(8) if header[2:3] == b"+" else b""  # BigTIFF
            directory = ImageFileDirectory_v2(header)
            f.seek(directory.next)
            directory.load(f)
            return dict(directory)
    except Exception:  # Pillow raises anything
        return {}


def read_georeference(file: Path) -> dict[int, tuple[str, Any]]:
    """The tags of a TIFF that say where its pixels lie, as `write_tiff` takes them; or {}.

    Not its value for no data: a prediction has a class everywhere, and it could be that class's id.
    """
    tags: dict[int, tuple[str, Any]] = {}
    for tag, value in tiff_tags(file).items():
        kind = GEOREFERENCE.get(tag)
        try:
            if kind == "s":
                tags[tag] = kind, str(value).encode("ascii", "replace") + b"\0"
            elif kind:
                values = [*value] if isinstance(value, tuple) else [value]
                struct.pack(f"<{len(values)}{kind}", *values)
                tags[tag] = kind, values
        except struct.error:  # not of its type
            return {}
    return tags
