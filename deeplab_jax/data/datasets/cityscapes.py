"""Constants of Cityscapes: the 19 classes that are evaluated, and the way from its 34 ids to them.

Source: cityscapesScripts, cityscapesscripts/helpers/labels.py.
"""

from deeplab_jax.data.colors import parse_color

IGNORE_LABEL = 255
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
# 256 entries, so that it can be indexed with any uint8 mask.
ID_TO_TRAIN_ID = tuple(
    TRAIN_ID_TO_ID.index(id_) if id_ in TRAIN_ID_TO_ID else IGNORE_LABEL for id_ in range(256)
)
