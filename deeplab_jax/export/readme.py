"""README.md of an exported folder: what stands there, and a program that runs it without us."""

import json
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from deeplab_jax.export.prediction import KEY, Prediction

TEMPLATE = Path(__file__).with_name("readme.md").read_text(encoding="utf-8")
MARK = TEMPLATE.partition("\n")[0]


def write_readme(prediction: Prediction, file: str, proof: str) -> str:
    """The text for a file of that name."""
    about, image = json.loads(prediction.metadata()[KEY]), prediction.image
    h, w = prediction.size or (f"k * {about['input']['stride']} + 1",) * 2
    low, high = about["input"]["range"]
    pages = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    text: str = pages.from_string(TEMPLATE).render(
        about=about,
        file=file,
        form=file.rpartition(".")[2],
        proof=proof,
        image=f"{image.dtype}[batch, {h}, {w}, {image.shape[2]}], {low:g} to {high:g}",
        rgb=image.dtype == "uint8" and image.shape[2] == 3,
        classifies=about["task"] == "classification",
    )
    return text + "\n"
