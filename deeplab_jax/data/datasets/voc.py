"""PASCAL VOC 2012 segmentation, as a TFDS builder over a VOCdevkit folder already on disk."""

import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.decode import decode_label
from deeplab_jax.data.layout import VOC_IMAGES, VOC_LISTS
from deeplab_jax.errors import UserError
from deeplab_jax.files import read_user_text

# Source: the VOC2012 devkit, VOCinit.m; background is 0.
CLASS_NAMES = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
COLORS = voc_colormap(len(CLASS_NAMES))
IGNORE_LABEL = 255

LISTS, IMAGES = VOC_LISTS, VOC_IMAGES
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
        self._folder = _voc_folder(Path(devkit).expanduser())
        self._lists = _read_lists(self._folder)
        self._files = {
            id_: _find_files(self._folder, id_) for ids in self._lists.values() for id_ in ids
        }
        # What is prepared is of one devkit, with its lists and masks as they were.
        super().__init__(data_dir=str(Path(data_dir) / self._fingerprint()))

    def _fingerprint(self) -> str:
        files = [file for pair in self._files.values() for file in pair]
        stats = [(self._folder / file).stat() for file in files]
        states = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
        content = repr((str(self._folder.resolve()), self._lists, files, states))
        return f"devkit_{zlib.crc32(content.encode()):08x}"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        }
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(ids) for split, ids in self._lists.items()}

    def _generate_examples(self, ids: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        for id_ in ids:
            image, mask = (self._folder / file for file in self._files[id_])
            # Encoded, not arrays: TFDS needs TensorFlow to encode a NumPy array.
            yield id_, {"id": id_, "image": str(image), "label": io.BytesIO(_mask_as_ids(mask))}


def _mask_as_ids(mask: Path) -> bytes:
    ids = decode_label(mask.read_bytes(), str(mask), palette=True)
    png = io.BytesIO()
    Image.fromarray(ids).save(png, format="PNG")
    return png.getvalue()


def _voc_folder(devkit: Path) -> Path:
    for folder in (devkit / "VOC2012", devkit, devkit / "VOCdevkit" / "VOC2012"):
        if (folder / LISTS).is_dir():
            return folder
    raise UserError(
        f"{devkit} is not a VOC devkit: there is no VOC2012/{LISTS}; "
        "give the folder that holds VOC2012/"
    )


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
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise UserError(f"{path} lists {twice} more than once")
    return ids


def _find_files(folder: Path, id_: str) -> tuple[str, str]:
    image = f"{IMAGES}/{id_}.jpg"
    if not (folder / image).is_file():
        raise UserError(f"{folder / image} is missing; a list in {folder / LISTS} names it")
    masks = [f"{mask}/{id_}.png" for mask in MASKS if (folder / mask / f"{id_}.png").is_file()]
    if not masks:
        raise UserError(
            f"{id_}.png is in none of {' and '.join(MASKS)} of {folder}; a list in {LISTS} names it"
        )
    return image, masks[0]
