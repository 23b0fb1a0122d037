"""From a source to batches: deterministic, elastic, sharded by host, without TensorFlow.

What an example looks like depends on (seed, position) alone, so the batches are the same for any
number of workers and hosts, and a run resumes by starting at `step`: there is no other state.

A record that cannot be read becomes an example of ignored pixels in its place, so that the others
keep theirs. Every batch names its records: `record` int64 [b], with `bad` bool [b] for these;
`BadRecords` counts them and stops the run above a limit.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grain
import numpy as np
from absl import flags

from deeplab_jax.config import DataConfig, ModelConfig, round_up
from deeplab_jax.data.sources import UNREADABLE, Source, image_of, open_source
from deeplab_jax.data.transforms import (
    GREY,
    Pixel,
    Size,
    central_crop,
    cut,
    fit_size,
    inception_crop,
    pad,
    random_crop,
    random_scale,
    whole,
)
from deeplab_jax.errors import UserError

Batch = dict[str, np.ndarray]


def open_split(data: DataConfig, split: str, model: ModelConfig) -> Source:
    """The source of one split, checked to have the model's kind and number of classes.

    Raises:
      UserError: what is missing or does not fit, named.
    """
    num_classes = model.num_classes
    if data.one_label != (model.head == "classifier"):
        raise UserError(
            f"model.head = {model.head!r} does not fit data.source = {data.source!r}: classifier is"
            " for imagenet2012, the other heads are for segmentation"
        )
    source = open_source(
        data.source,
        split,
        root=data.root or None,
        data_dir=data.prepared_dir,
        classes=data.classes or None,
        num_classes=num_classes,
        ignore_label=data.ignore_label,
        image_dir=data.image_dir,
        mask_dir=data.mask_dir,
        holdout=data.holdout or None,
        palette=data.palette_masks,
        exif_upright=data.exif_upright,
        white=data.white,
    )
    names = source.class_names
    if len(names) != num_classes:
        raise UserError(
            f"model.num_classes = {num_classes}, but the data set has {len(names)} classes"
            f" ({', '.join(names[:4])}, ...): set --model.num_classes={len(names)}"
        )
    return source


def train_example(
    index: int,
    rng: np.random.Generator,
    source: Source,
    data: DataConfig,
    fill: Pixel = GREY,
) -> Batch:
    """Decode, scale, crop and pad a record: image u8 [*crop_size, 3], label u8 [*crop_size].

    A picture with one label has it handed through, u16 [1 1].
    """
    read = read_record(source, index)
    if isinstance(read, str):
        label_size = (1, 1) if data.one_label else data.crop_size
        return blank(source, data, data.crop_size, label_size, fill) | about(index, bad=True)
    image, label = read
    if data.one_label:
        crop = inception_crop(rng, image.shape[:2], data.crop_size)
        image = cut(image, crop, data.crop_size, fill, smooth=True)
        return {"image": image, "label": label, **about(index)}
    scale = random_scale(rng, data.min_scale, data.max_scale, data.scale_step)
    size = image.shape[:2]
    if data.resize == "fit" and data.eval_size is not None:
        size = fit_size(size, data.eval_size)
    crop = random_crop(rng, size, scale, data.crop_size)
    return {
        "image": cut(image, crop, data.crop_size, fill, smooth=True),
        "label": cut(label, crop, data.crop_size, source.ignore_label, smooth=False),
        **about(index),
    }


def read_record(source: Source, index: int) -> tuple[np.ndarray, np.ndarray] | str:
    """Image u8 [h w 3] and label of a record, or why it cannot be read."""
    try:
        example = source[index]
        return image_of(example, example["id"]), example["label"]
    except UNREADABLE as error:
        return str(error)


def blank(source: Source, data: DataConfig, size: Size, label_size: Size, fill: Pixel) -> Batch:
    """An example whose pixels are all ignored."""
    dtype = np.uint16 if data.one_label else np.uint8
    return {
        "image": np.full((*size, 3), fill, np.uint8),
        "label": np.full(label_size, source.ignore_label, dtype),
    }


def about(index: int, *, bad: bool = False) -> Batch:
    """Which record an example is, and whether it could not be read."""
    return {"record": np.array(index, np.int64), "bad": np.array(bad)}


def for_device(batch: Batch) -> Batch:
    """A batch without what `about` says: that is for the host alone."""
    return {name: part for name, part in batch.items() if name not in ("record", "bad")}


class BadRecords:
    """The unreadable records that a run has met."""

    def __init__(self, source: Source, limit: int) -> None:
        self._source, self._limit = source, limit
        self.names: dict[int, str] = {}

    def note(self, batch: Batch) -> None:
        """Name each unreadable record once, on stderr.

        Raises:
          UserError: there are now more than the limit.
        """
        for index in batch["record"][batch["bad"]].tolist():
            if index in self.names:
                continue
            self.names[index] = self._source.name(index)
            again = read_record(self._source, index)  # for its words alone
            passed = "it was read the second time: a passing fault of the disk or network"
            reason = again if isinstance(again, str) else passed
            print(f"unreadable, so ignored: {self.names[index]} ({reason})", file=sys.stderr)
            if len(self.names) > self._limit:
                raise UserError(
                    f"{len(self.names)} records could not be read, more than data.max_bad_records ="
                    f" {self._limit}; the last is {self.names[index]} ({reason}). See them all:"
                    " python -m deeplab_jax check-data"
                )


def train_batches(
    source: Source,
    data: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    host: int = 0,
    hosts: int = 1,
    fill: Pixel = GREY,
) -> Iterator[Batch]:
    """Endless shuffled batches from `start_step` on: this host's share of each global batch.

    `fill` is the pixel that pictures are padded with (`models.build.mean_pixel`).
    """
    make = partial(train_example, source=source, data=data, fill=fill)
    shuffled = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    examples = shuffled.random_map(make)[start_step * batch_size :]
    mine = (
        examples
        if hosts == 1
        else grain.MapDataset.source(Share(examples, batch_size, host, hosts))
    )
    return read(mine.batch(batch_size // hosts), data.workers)


@dataclass(frozen=True)
class Share:
    """A host's rows of each batch, which stand together: as one host would order them all.

    What is drawn by row, flips and colours on the device, is then the same for any number of hosts.
    """

    examples: "grain.MapDataset[Any]"
    batch_size: int
    host: int
    hosts: int

    def __len__(self) -> int:
        return len(self.examples) // self.batch_size * (self.batch_size // self.hosts)

    def __getitem__(self, index: int) -> Batch:
        rows = self.batch_size // self.hosts
        step, row = divmod(index, rows)
        example: Batch = self.examples[step * self.batch_size + self.host * rows + row]
        return example


def read(batches: "grain.MapDataset[Any]", workers: int) -> Iterator[Batch]:
    """Iterate with a few batches decoded ahead, by threads or by worker processes."""
    if workers == 0:
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        return iter(batches.to_iter_dataset(options))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which we do not use
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    return iter(batches.to_iter_dataset(options).mp_prefetch(processes))


def network_size(data: DataConfig, source: Source, output_stride: int) -> Size:
    """The size that every picture is brought to at evaluation: one compiled shape serves all.

    Raises:
      UserError: a picture is larger than `data.eval_size` and `data.resize` is "keep".
    """
    if data.one_label:
        return data.eval_size or data.crop_size
    largest = largest_size(source)
    if data.eval_size is None:
        stride = output_stride
        h, w = (round_up(n, stride) for n in largest)
        return (h, w)
    if data.resize == "keep" and any(n > e for n, e in zip(largest, data.eval_size, strict=True)):
        raise UserError(
            f"data.eval_size = {data.eval_size}, but the largest picture is {largest} (height,"
            " width): enlarge it, leave it out (None: sized by the data) or set --data.resize=fit"
        )
    return data.eval_size


def largest_size(source: Source) -> Size:
    """Largest height and largest width of a source's pictures, of those that can be read."""
    sizes = [size for size in source.sizes() if size is not None]
    if not sizes:
        raise UserError(f"none of the {len(source)} images can be read, such as {source.name(0)}")
    return (max(h for h, _ in sizes), max(w for _, w in sizes))


def eval_example(
    index: int,
    source: Source,
    data: DataConfig,
    input_size: Size,
    label_size: Size,
    fill: Pixel = GREY,
) -> Batch:
    """One whole picture for evaluation; an index past the end gives an example of ignored pixels.

    So does a record that cannot be read, marked as bad. image u8 [*input_size, 3], scaled to
    `scaled` (h, w) and padded; label u8 [*label_size], at the picture's own `size` (h, w) and
    padded with the ignored label. A picture with one label, u16 [1 1], is cut to its centre, and
    both sizes are the label's.
    """
    one = {"scaled": np.ones(2, np.int32), "size": np.ones(2, np.int32)}
    read = read_record(source, index) if index < len(source) else ""
    if isinstance(read, str):
        example = blank(source, data, input_size, label_size, fill)
        return {**example, **one, **about(index, bad=read != "")}
    image, label = read
    if data.one_label:
        image = cut(image, central_crop(input_size), input_size, fill, smooth=True)
        return {"image": image, "label": label, **one, **about(index)}
    size = image.shape[:2]
    scaled = fit_size(size, input_size) if data.resize == "fit" else size
    return {
        "image": whole(image, scaled, input_size, fill, smooth=True),
        "label": pad(label, label_size, source.ignore_label),
        "scaled": np.array(scaled, np.int32),
        "size": np.array(size, np.int32),
        **about(index),
    }


def eval_batches(
    source: Source,
    data: DataConfig,
    *,
    batch_size: int,
    input_size: Size,
    host: int = 0,
    hosts: int = 1,
    fill: Pixel = GREY,
    only: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Every picture once, in order (or `only` these, in theirs).

    The last batch is filled up with ignored pixels.
    """
    make = partial(
        eval_example,
        source=source,
        data=data,
        input_size=input_size,
        label_size=(1, 1) if data.one_label else largest_size(source),
        fill=fill,
    )
    indices = range(len(source)) if only is None else only
    past_the_end = [len(source)] * (-len(indices) % batch_size)
    examples = grain.MapDataset.source([*indices, *past_the_end]).map(make)
    return read(examples[host::hosts].batch(batch_size // hosts), data.workers)
