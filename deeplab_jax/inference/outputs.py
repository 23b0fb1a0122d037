"""Where predictions go: every file is planned, and none takes the place of what is another's."""

import os
import unicodedata
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from deeplab_jax.data.decode import MAX_PIXELS
from deeplab_jax.errors import UserError
from deeplab_jax.files import writable_folder
from deeplab_jax.inference import video
from deeplab_jax.inference.coco import COCO_FILE
from deeplab_jax.inference.formats import Form, is_ours, unwritable
from deeplab_jax.inference.inputs import Input

SHEET = "contact_sheet.png"


def plan_outputs(images: Sequence[Input], out: Path, form: Form) -> list[Path]:
    """The label file of each image; none of these, of their overlays and the sheet is another's.

    Folders below a given one are kept below `out`. Where two images would write the same file, the
    later one's name gets a number: the label files of a.jpg and a.png are a.png and a_2.png. Those
    of large images are TIFFs; a form without label files has one for all.

    Raises:
      UserError: two images would write the same file for a server, which knows them by name; an
        image is too large for a server's PNG.
    """
    if not form.suffix:
        return [out / COCO_FILE] * len(images)
    plan: list[Path] = []
    taken: dict[str, Path] = {}
    if form.fixed:
        for file, _, large in images:
            label = out / form.folder / f"{file.stem}.png"
            if (other := taken.setdefault(fold(label), file)) != file:
                raise UserError(
                    f"{other} and {file} would both be {label}, a name that the server fixes:"
                    " predict them into different folders"
                )
            if large:
                most = MAX_PIXELS // 2**20
                raise UserError(f"{file}: above {most} megapixels, which no server has images of")
            plan.append(label)
        return plan
    names = [out / image.name.with_suffix("") for image in images]
    claimed = {fold(folder) for name in names for folder in name.parents} | {fold(out / SHEET)}
    for name, image in zip(names, images, strict=True):
        suffix = ".tif" if image.large else form.suffix
        suffix = ".mp4" if video.is_video(image.file) else suffix
        for i in count(1):
            label = name.with_name(f"{name.name}_{i}{suffix}" if i > 1 else f"{name.name}{suffix}")
            keys = {fold(label), fold(overlay_of(label))}
            if not keys & claimed:
                break
        claimed |= keys
        plan.append(label)
    return plan


def overlay_of(label: Path) -> Path:
    """The file of an overlay, beside its label file."""
    return label.with_name(f"{label.stem}_overlay.png")


def fold(path: Path | str) -> str:
    """Equal for paths that macOS or Windows may take for the same."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def check_outputs(images: Sequence[Input], files: Sequence[Path], out: Path) -> None:
    """Make the folder `out`, unless one of the files may not be written. Links are followed.

    Raises:
      UserError: a file would lie beside an image to predict, or in the place of another's.
    """
    inputs = {fold(os.path.realpath(f)) for f in {image.file.parent for image in images}}
    for folder in sorted({out, *(file.parent for file in files)}):
        if fold(os.path.realpath(folder)) in inputs:
            raise UserError(
                f"--out = {out}: {folder} holds images to predict; choose another folder, such as"
                f" --out {out / 'predicted'}"
            )
    writable_folder(out, "--out")
    for file in files:
        try:
            there = bool(file.lstat())
        except FileNotFoundError:
            there = False
        except OSError as error:
            raise unwritable(file, error) from error
        if there and not is_ours(file):
            raise UserError(
                f"{file} is there already, and this predict did not write it: choose another --out,"
                " or move it away"
            )
