"""Constants of Cityscapes: the 19 classes that are evaluated, and the way from its 34 ids to them.

Source: cityscapesScripts, cityscapesscripts/helpers/labels.py.
"""

from pathlib import Path

from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.colors import parse_color
from deeplab_jax.data.layouts import TEST, ClassTable, Item, Layout, split_name
from deeplab_jax.data.walk import list_folders, walk_images
from deeplab_jax.errors import UserError

# All in the order of the train ids. The ids are those in the masks, and what the server wants.
TRAIN_ID_TO_ID = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_NAMES = (
    "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain,"
    " sky, person, rider, car, truck, bus, train, motorcycle, bicycle"
)
CLASS_NAMES = tuple(_NAMES.split(", "))
_COLORS = (
    "804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98"
    " 4682b4 dc143c ff0000 00008e 000046 003c64 005064 0000e6 770b20"
)
COLORS = tuple(parse_color(color) for color in _COLORS.split())
# Of all other ids the pixels are ignored.
VALUES = tuple((id_, i) for i, id_ in enumerate(TRAIN_ID_TO_ID)) + tuple(
    (id_, VOID) for id_ in range(256) if id_ not in TRAIN_ID_TO_ID
)
IMAGES, MASKS = "leftImg8bit", "gtFine"


def read(folder: Path) -> Layout | None:
    """The unpacked downloads: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY; None: another layout.

    Masks are *_labelTrainIds.png where the official scripts have made them, else *_labelIds.png.
    Those of the test split hold nothing.

    Raises:
      UserError: an image has no mask.
    """
    if not ((folder / IMAGES).is_dir() and (folder / MASKS).is_dir()):
        return None
    made = any((folder / MASKS).rglob("*_labelTrainIds.png"))
    kind, values = ("labelTrainIds", ()) if made else ("labelIds", VALUES)
    splits = {}
    for split in list_folders(folder / IMAGES):
        items = []
        for image in walk_images(folder / IMAGES / split).images:
            id_ = image.relative_to(folder / IMAGES / split).as_posix().removesuffix(".png")
            name = id_.removesuffix(f"_{IMAGES}") + f"_{MASKS}_{kind}.png"
            mask = folder / MASKS / split / name
            if not mask.is_file() and split != TEST:
                raise UserError(f"{image} has no mask {mask}")
            items.append(Item(id_, image, mask))
        if items and split != TEST:
            splits[split_name(split)] = tuple(items)
    table = ClassTable(CLASS_NAMES, COLORS, values, origin="Cityscapes")
    return Layout("cityscapes", f"Cityscapes, masks of {kind}", splits, table)
