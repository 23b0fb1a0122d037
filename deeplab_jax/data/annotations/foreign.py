"""Annotations in forms that are not read, known by their heads, so that a message can name them."""

import re
from itertools import islice
from pathlib import Path

from deeplab_jax.data.annotations.files import list_files, load_head
from deeplab_jax.data.walk import list_folders

LOOKED_AT = 3  # files of each kind in a folder
COCO = "export them as COCO (polygons or masks)"
FORMS = {  # by suffix: what the file holds, what it is, and what helps
    ".json": (
        (r'"(polygon|brush|rectangle|ellipse)labels"', "Label Studio's JSON", COCO),
        (r'"shape_attributes"', "VIA's JSON", COCO),
        (r'"classTitle"', "Supervisely's JSON", f"{COCO}, or as masks"),
        (r'"segments_info"', "COCO's panoptic JSON", "write masks of class ids, as PNG"),
        (r'"items"\s*:\s*\[.*"label_id"', "Datumaro's JSON", COCO),
    ),
    ".xml": ((r"<bndbox>", "boxes (PASCAL VOC)", "only polygons or masks say what pixels are"),),
    ".txt": (
        (
            r"\A\s*\d+( -?[\d.]+){6,}\s*$",
            "YOLO's labels without their data.yaml",
            "write it: train: and val: with the folders of images, and names: [a, b]",
        ),
    ),
}


def name_foreign(folder: Path) -> str:
    """What annotations of a form that is not read a folder holds, up to two deep; "": none."""
    inside = [folder / name for name in list_folders(folder)]
    deeper = [one / name for one in inside for name in list_folders(one)]
    for place in [folder, *inside, *deeper]:
        for suffix, forms in FORMS.items():
            for file in islice(list_files(place, suffix), LOOKED_AT):
                head = load_head(file)
                for pattern, what, help in forms:
                    if re.search(pattern, head, re.DOTALL | re.MULTILINE):
                        return f"{file} looks like {what}, which is not read: {help}"
    return ""
