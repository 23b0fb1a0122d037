"""CVAT for images XML 1.1: one annotations.xml, classes in the order of its labels.

Shapes of a higher z_order lie on top. Sources: cvat-ai/cvat, dataset_manager/formats/cvat.py and
transformations.py (which way boxes turn).
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from deeplab_jax.config import Color
from deeplab_jax.data.annotations.files import (
    MAX_BYTES,
    Images,
    find,
    index_images,
    list_files,
    load_head,
    show,
)
from deeplab_jax.data.annotations.gather import (
    INVALID,
    ONLY_BOXES,
    OTHERS,
    Classes,
    Gathered,
    class_name,
    conclude,
    draw,
    gather_nothing,
    number_classes,
    side,
)
from deeplab_jax.data.annotations.shapes import Drawing, Shape, box_runs, ellipse, rectangle, ring
from deeplab_jax.data.colors import parse_color
from deeplab_jax.data.layouts import Item, Layout, split_name
from deeplab_jax.errors import UserError

LOOK = re.compile(r"<annotations[\s>]")
CHUNK = 2**20  # letters that are parsed at once
MAX_DEPTH = 32  # of elements
FLAT = ("tag", "points", "polyline", "cuboid", "skeleton")  # labels and shapes without an area
DRAWN = ("polygon", "box", "ellipse", "mask")
PAINTED_BOXES = "box[|es] [is|are] painted as [a rectangle|rectangles]"


def read(folder: Path) -> Layout | None:
    """Read a folder with CVAT's annotations.xml; None of others.

    Raises:
      UserError: the file is broken, has a DOCTYPE, is of a video, or there is nothing to paint.
    """
    files = [path for path in list_files(folder, ".xml") if LOOK.search(load_head(path))]
    if not files:
        return None
    if len(files) > 1:
        raise UserError(f"{files[0]} and {files[1]} both are CVAT's annotations: keep one of them")
    file, images, gathered = files[0], index_images(folder), gather_nothing()
    classes = None
    for element in _elements(file):
        if element.tag == "track":
            raise UserError(f"{file}: this is of a video: export it as 'CVAT for images'")
        if element.tag == "meta":
            classes = _read_labels(element, str(file))
        elif classes is None:
            raise UserError(f"{file}: no list of labels before the first image; export it again")
        else:
            _read_image(element, f"{file}: {show(element.get('name'))}", images, classes, gathered)
    if classes is None:
        raise UserError(f"{file}: no list of labels (meta/task/labels); export it again")
    told = f"CVAT annotations ({file.name})"
    items = (item for some in gathered.splits.values() for item in some)
    shapes = sum(len(item.label.shapes) for item in items if isinstance(item.label, Drawing))
    if 0 < shapes == gathered.skipped[PAINTED_BOXES]:  # a data set for detection
        raise UserError(f"{folder}: {told}: {ONLY_BOXES}")
    return conclude("cvat", told, gathered, classes.table, folder)


# ---- XML


def _elements(file: Path) -> Iterator[ET.Element]:
    """The meta, image and track elements, each forgotten when it has been used."""
    parser: Any = ET.XMLPullParser(("start", "end"))
    root: ET.Element | None = None
    depth, before = 0, ""
    for text in _chunks(file):
        if re.search("<!(DOCTYPE|ENTITY)", before + text):
            raise UserError(f"{file}: has a DOCTYPE, which CVAT does not write: it is not read")
        before = text[-10:]
        try:
            parser.feed(text)
            events = list(parser.read_events())
        except (ET.ParseError, ValueError, LookupError) as error:
            raise UserError(f"{file}: not readable as XML ({error}); export it again") from error
        for event, element in events:
            depth += 1 if event == "start" else -1
            if depth > MAX_DEPTH:
                raise UserError(f"{file}: elements in more than {MAX_DEPTH} others")
            if root is None:
                root = element
            if event == "end" and depth == 1:
                if element.tag in ("meta", "image", "track"):
                    yield element
                root.clear()
    try:
        parser.close()
    except ET.ParseError as error:
        raise UserError(f"{file}: not readable as XML ({error}); export it again") from error


def _chunks(file: Path) -> Iterator[str]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file}: more than {MAX_BYTES // 2**30} GB; export it in parts")
        with file.open(encoding="utf-8-sig") as stream:
            while text := stream.read(CHUNK):
                yield text
    except OSError as error:
        raise UserError(f"{file}: the file cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not readable as UTF-8 ({error})") from error


def _read_labels(meta: ET.Element, origin: str) -> Classes:
    """The labels that can have an area, with their colours if all have one."""
    names: list[str] = []
    colors: list[Color] = []
    for label in meta.iterfind("./*/labels/label"):
        if label.findtext("type") in FLAT or label.find("parent") is not None:
            continue
        names.append(class_name(label.findtext("name"), f"{origin}: a label"))
        if re.fullmatch("#[0-9a-fA-F]{6}", color := (label.findtext("color") or "").strip()):
            colors.append(parse_color(color[1:]))
    return number_classes(names, origin, colors if len(colors) == len(names) else ())


# ---- images


def _read_image(
    element: ET.Element, where: str, images: Images, classes: Classes, gathered: Gathered
) -> None:
    subset, name = element.get("subset") or "", element.get("name") or ""
    own = [f"images/{subset}", subset, f"{subset}/images"] if subset else []
    found = find(images, name, [*own, "images", ""])
    if not found:
        gathered.missing.append(name)
        return
    h, w = (side(_number(element.get(key)), where) for key in ("height", "width"))
    shapes: list[tuple[float, Shape]] = []
    for child in element:
        if child.tag in FLAT:
            gathered.skipped[OTHERS] += 1
        elif child.tag in DRAWN:
            label = class_name(child.get("label"), where)
            if label not in classes.ids:
                listed = ", ".join(classes.table.names[:8])
                raise UserError(f"{where}: label {label!r} is not in the file's list ({listed})")
            try:
                z = float(child.get("z_order") or "0")
                shapes.append((z, _read_shape(child, classes.ids[label])))
                gathered.skipped[PAINTED_BOXES] += child.tag == "box"
            except ValueError:
                gathered.skipped[INVALID] += 1
    shapes.sort(key=lambda pair: pair[0])
    item = Item(found[1], images[found[0]], draw((h, w), (shape for _, shape in shapes)))
    gathered.splits.setdefault(split_name(subset), []).append(item)


def _read_shape(child: ET.Element, class_id: int) -> Shape:
    """What an element covers; raises ValueError."""

    def numbers(*keys: str) -> list[float]:
        return [float(child.get(key) or "") for key in keys]

    if child.tag == "polygon":
        points = (child.get("points") or "").replace(";", ",").split(",")
        return Shape(class_id, (ring([float(value) for value in points]),))
    if child.tag == "mask":
        counts = [int(value) for value in (child.get("rle") or "").split(",")]
        place = numbers("height", "width", "top", "left")
        if not all(value.is_integer() for value in place):
            raise ValueError("a mask whose box is not of whole pixels")
        h, w, top, left = map(int, place)
        return Shape(class_id, runs=box_runs(counts, (h, w), top, left, by_column=False))
    degrees = float(child.get("rotation") or "0")
    if not math.isfinite(degrees):
        raise ValueError("a rotation that is not finite")
    if child.tag == "box":
        corners = ring(numbers("xtl", "ytl", "xbr", "ybr"), 2)
        return Shape(class_id, (rectangle(corners, degrees),))
    (x, y), (rx, ry) = ring(numbers("cx", "cy", "rx", "ry"), 2).tolist()
    return Shape(class_id, (ellipse(x, y, rx, ry, degrees),))


def _number(text: str | None) -> float:
    """A number, finite or nan; a size of nan is refused where it is used."""
    try:
        return float(text or "")
    except ValueError:
        return float("nan")
