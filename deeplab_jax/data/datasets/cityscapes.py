"""Constants of Cityscapes: the 19 classes that are evaluated, and the way from its 34 ids to them.

Source: cityscapesScripts, cityscapesscripts/helpers/labels.py.
"""

IGNORE_LABEL = 255

# (id in the masks, name, colour), in the order of the train ids.
_CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
_TRAIN_IDS = {id_: train_id for train_id, (id_, _, _) in enumerate(_CLASSES)}

CLASS_NAMES = tuple(name for _, name, _ in _CLASSES)
COLORS = tuple(color for _, _, color in _CLASSES)
TRAIN_ID_TO_ID = tuple(id_ for id_, _, _ in _CLASSES)  # what the server wants predictions as
# 256 entries, so that it can be indexed with any uint8 mask.
ID_TO_TRAIN_ID = tuple(_TRAIN_IDS.get(id_, IGNORE_LABEL) for id_ in range(256))
