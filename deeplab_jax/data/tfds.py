"""Data sets with a name, prepared once by TFDS as ArrayRecord and read without TensorFlow."""

import contextlib
import io
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from deeplab_jax.config import Config
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import cityscapes, scenes, voc
from deeplab_jax.data.decode import Unreadable
from deeplab_jax.data.masks import MaskCode, list_some, plain_code
from deeplab_jax.data.source import BROKEN_RECORD, NO_CLASS, Record, Source
from deeplab_jax.errors import UserError
from deeplab_jax.files import locked, with_retries, writable_folder

TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


@dataclass(frozen=True)
class Prepared:
    """A split (or a part, as "train[:100]") of any TFDS data set that is prepared as ArrayRecord.

    `keys` are those of id, image and label. Labels that are no masks but a class an image are
    counted from `first_class`. Raises UserError for a split or feature that it lacks.
    """

    builder_dir: str
    split: str
    keys: tuple[str, str, str] = ("id", "image", "label")
    first_class: int = 0

    def __post_init__(self) -> None:
        info, split = self._info, self.split.split("[")[0]
        features = [("feature", key, info.features) for key in self.keys]
        for what, name, there in [("split", split, info.splits), *features]:
            if name not in there:
                known = list_some(sorted(there))
                raise UserError(f"{info.name} has no {what} {name!r}; there are {known}")
        if len(self) == 0:
            raise UserError(f"split {self.split!r} of {info.name} is empty")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        def read() -> dict[str, Any]:
            try:
                record: dict[str, Any] = self._records[index]
            except BROKEN_RECORD:
                _open_records.cache_clear()  # a reader that has failed stays so
                raise
            return record

        try:
            record = with_retries(read, BROKEN_RECORD)
        except BROKEN_RECORD as error:
            name = f"{self.split}[{index}]"
            raise Unreadable(f"{name}: the record cannot be read ({error})") from error
        id, image, label = (record[key] for key in self.keys)
        if isinstance(label, bytes):
            return Record(id.decode(), image, label)
        if label < 0:  # TFDS's -1
            raise UserError(f"{id.decode()}: the split {self.split!r} has no labels")
        return Record(id.decode(), image, int(label) + self.first_class)

    def describe(self) -> str:
        """Name, version and split of the data set, its examples and bytes."""
        info = self._info
        size = info.splits[self.split].num_bytes
        return f"{info.full_name}, {len(self)} examples of {self.split} ({size} bytes)"

    @property
    def _info(self) -> Any:
        return tfds.builder_from_directory(self.builder_dir).info

    @property
    def _records(self) -> Any:
        # Not held by the object: open files cannot be pickled; each worker process opens its own.
        return _open_records(self.builder_dir, self.split, self.keys)


@lru_cache(maxsize=8)
def _open_records(builder_dir: str, split: str, keys: tuple[str, str, str]) -> Any:
    # Undecoded: TFDS's own decoding differs with what is installed (OpenCV or PIL).
    decoders = {key: tfds.decode.SkipDecoding() for key in keys[1:]}
    return tfds.builder_from_directory(builder_dir).as_data_source(split, decoders=decoders)


# ---- the data sets by name


def open_prepared(config: Config, split: str) -> Source:
    """Open a split of *scenes*, VOC, Cityscapes or ImageNet, which is prepared where it is not yet.

    Cityscapes and ImageNet need TensorFlow for that, once, and their downloads in `machine.root`.
    """
    kind, root = config.data.source, str(Path(config.machine.root).expanduser())
    there = str(Path(config.machine.prepared_dir).expanduser())
    if kind == "scenes":
        made = prepare(scenes.Scenes(data_dir=there))
        code = plain_code(len(scenes.CLASS_NAMES))
        return Source(Prepared(made, split), scenes.CLASS_NAMES, scenes.COLORS, code)
    if kind == "voc2012":
        made = prepare(voc.Voc2012Segmentation(devkit=root, data_dir=there))
        code = plain_code(len(voc.CLASS_NAMES))
        return Source(Prepared(made, split), voc.CLASS_NAMES, voc.COLORS, code)
    if kind == "cityscapes":
        builder = tfds.builder("cityscapes/semantic_segmentation", data_dir=there)
        keys = ("image_id", "image_left", "segmentation_label")
        records = Prepared(prepare(builder, root), split, keys)
        code = MaskCode(False, cityscapes.VALUES)
        return Source(records, cityscapes.CLASS_NAMES, cityscapes.COLORS, code)
    return _open_imagenet(split, root, there, config.model.num_classes)


def _open_imagenet(split: str, root: str, there: str, num_classes: int | None) -> Source:
    """Classes are named by their WordNet ids; with one more of them, class 0 is "background".

    So it is in the official networks of 1001 classes.
    """
    builder = tfds.builder("imagenet2012", data_dir=there)
    missing = [tar for tar in TARS if not Path(root, tar).is_file()]
    if missing and not Path(builder.data_dir).is_dir():
        raise UserError(
            f"imagenet2012 is not prepared in {there} (--machine.prepared_dir), and {root} "
            f"(--machine.root) lacks {' and '.join(missing)}: register at "
            "https://image-net.org/download-images and put both there"
        )
    made = prepare(builder, root)
    names = tuple(tfds.builder_from_directory(made).info.features["label"].names)
    background = ("background",) if num_classes == len(names) + 1 else ()
    names = (*background, *names)
    records = Prepared(made, split, ("file_name", "image", "label"), len(background))
    return Source(records, names, voc_colormap(len(names)), ignore_label=NO_CLASS)


def prepare(builder: tfds.core.DatasetBuilder, downloads: str | None = None) -> str:
    """Return the data set's folder, prepared as ArrayRecord from the `downloads` in a folder."""
    made = Path(builder.data_dir)
    if made.is_dir():  # whole, as TFDS renames it last; the folder around it may be read-only
        return str(made)
    # Two processes may start together; the system frees the lock of one that dies.
    folder = writable_folder(made.parent, "machine.prepared_dir")
    with locked(folder / ".lock", wait=True):
        if not made.is_dir():
            # What a killed run left behind; while the lock is held it is nobody's work in progress.
            for left in folder.glob(f"incomplete.*_{made.name}"):
                shutil.rmtree(left)
            print(f"preparing {builder.name} in {made}, once ...", flush=True)
            _prepare(builder, downloads)
    return str(made)


def _prepare(builder: tfds.core.DatasetBuilder, downloads: str | None) -> None:
    config = tfds.download.DownloadConfig(manual_dir=downloads, try_download_gcs=False)
    tfds.disable_progress_bar()
    try:
        # TFDS writes beside the folder and renames at the end: a killed run leaves nothing
        # half-made. It prints "Downloading ...", which alarms where nothing is.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=config, file_format="array_record")
    except AssertionError as error:  # TFDS's way to say which files are missing
        raise UserError(f"{error} (machine.root = {downloads})") from error
    except ImportError as error:
        raise UserError(
            f"preparing {builder.name}, once, needs more packages ({error}): "
            "pip install tensorflow-cpu importlib_resources"
        ) from error
