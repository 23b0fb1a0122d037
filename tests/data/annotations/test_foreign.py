"""Annotations that are not read are named, with what helps."""

import json
from pathlib import Path

import pytest
from annotated import make_images, write

from deeplab_jax.config import DataConfig
from deeplab_jax.data.annotations.foreign import name_foreign
from deeplab_jax.data.folder import understand
from deeplab_jax.errors import UserError

LABEL_STUDIO = [{"annotations": [{"result": [{"type": "polygonlabels", "value": {}}]}]}]
REGION = {"regions": [{"shape_attributes": {"name": "polygon"}, "region_attributes": {}}]}


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("project-1.json", LABEL_STUDIO, "Label Studio.*as COCO"),
        ("train/via_region_data.json", {"a.jpg9": REGION}, "VIA.*as COCO"),
        ("ds0/ann/a.jpg.json", {"objects": [{"classTitle": "red"}]}, "Supervisely"),
        ("annotations/p.json", {"annotations": [{"segments_info": []}]}, "panoptic"),
        ("annotations/a.xml", "<annotation><bndbox></bndbox></annotation>", "boxes"),
        ("labels/train/a.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n", r"data\.yaml.*names: \[a, b\]"),
    ],
)
def test_what_it_looks_like_is_said(tmp_path: Path, name: str, content: object, what: str) -> None:
    make_images(tmp_path, "images/a.jpg", "images/b.jpg")
    assert name_foreign(tmp_path) == ""
    write(tmp_path / name, content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=f"not understood: .*{Path(name).name} looks like .*{what}"):
        understand(tmp_path, DataConfig(source="folder"))
