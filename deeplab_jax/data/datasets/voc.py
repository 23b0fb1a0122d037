"""PASCAL VOC 2012 segmentation, as a TFDS builder over a VOCdevkit folder already on disk."""

import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.masks import plain_code, read_mask
from deeplab_jax.errors import UserError
from deeplab_jax.files import read_user_text

# Source: the VOC2012 devkit, VOCinit.m; background is 0.
_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse"
    " motorbike person pottedplant sheep sofa train tvmonitor"
)
CLASS_NAMES = tuple(_NAMES.split())
COLORS = voc_colormap(len(CLASS_NAMES))

LISTS, IMAGES = "ImageSets/Segmentation", "JPEGImages"
# The augmented masks (Hariharan et al. 2011) where they are, else the original ones.
MASKS = ("SegmentationClassAug", "SegmentationClass")


class Voc2012Segmentation(tfds.core.GeneratorBasedBuilder):
    """Each list ImageSets/Segmentation/NAME.txt is the split NAME; masks become PNG of ids."""

    VERSION = tfds.core.Version("1.0.0")
    # Where TFDS would look for checksums of downloads, of which there are none; finding it needs
    # importlib_resources, which TFDS 4.9.10 does not require of pip.
    code_path = None

    def __init__(self, *, devkit: str, data_dir: str) -> None:
        """Open `devkit`, which is or holds VOC2012/; raises UserError for what it lacks."""
        folder = _find_folder(Path(devkit).expanduser())
        self._lists = _read_lists(folder)
        self._files = {i: _find_files(folder, i) for ids in self._lists.values() for i in ids}
        # What is prepared is of one devkit, with its lists and masks as they were.
        files = [file for pair in self._files.values() for file in pair]
        states = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        names = [file.relative_to(folder).as_posix() for file in files]
        content = repr((str(folder.resolve()), self._lists, names, states))
        super().__init__(data_dir=f"{data_dir}/devkit_{zlib.crc32(content.encode()):08x}")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        }
        return self.dataset_info_from_configs(
            description=__doc__, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(ids) for split, ids in self._lists.items()}

    def _generate_examples(self, ids: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        for id_ in ids:
            image, mask = self._files[id_]
            # Encoded, not arrays: TFDS needs TensorFlow to encode a NumPy array.
            yield id_, {"id": id_, "image": str(image), "label": io.BytesIO(_mask_as_ids(mask))}


def _mask_as_ids(mask: Path) -> bytes:
    png, code = io.BytesIO(), plain_code(len(CLASS_NAMES))
    ids = code.ids(read_mask(mask.read_bytes(), str(mask)), str(mask))
    Image.fromarray(ids).save(png, "PNG")
    return png.getvalue()


def _find_folder(devkit: Path) -> Path:
    for folder in (devkit / "VOC2012", devkit, devkit / "VOCdevkit" / "VOC2012"):
        if (folder / LISTS).is_dir():
            return folder
    raise UserError(f"{devkit} is not a VOC devkit: give the folder that holds VOC2012/{LISTS}")


def _read_lists(folder: Path) -> dict[str, tuple[str, ...]]:
    lists = {path.stem: _read_list(path) for path in sorted((folder / LISTS).glob("*.txt"))}
    if not lists:
        raise UserError(f"{folder / LISTS} has no list of images such as train.txt or val.txt")
    return lists


def _read_list(path: Path) -> tuple[str, ...]:
    if not re.fullmatch(r"\w+", path.stem) or path.stem == "all":
        raise UserError(
            f"{path}: the name of a list must consist of letters, digits and _, and not be 'all', "
            "because it becomes a TFDS split"
        )
    lines = [line.split() for line in read_user_text(path).splitlines()]
    # Lists of the augmented masks may have lines "/JPEGImages/ID.jpg /SegmentationClassAug/ID.png".
    ids = tuple(Path(words[0]).stem if "/" in words[0] else words[0] for words in lines if words)
    if not ids:
        raise UserError(f"{path} is empty: write the id of one image a line, or delete the file")
    if twice := [id_ for id_, count in Counter(ids).items() if count > 1]:
        raise UserError(f"{path} lists {twice[0]} more than once")
    return ids


def _find_files(folder: Path, id_: str) -> tuple[Path, Path]:
    image = folder / IMAGES / f"{id_}.jpg"
    mask = next((m for kind in MASKS if (m := folder / kind / f"{id_}.png").is_file()), None)
    if not image.is_file():
        raise UserError(f"{image} is missing; a list in {folder / LISTS} names it")
    if mask is None:
        raise UserError(
            f"{id_}.png is in none of {' and '.join(MASKS)} of {folder}; a list names it"
        )
    return image, mask
