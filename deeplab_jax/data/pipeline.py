"""From a source to batches: deterministic, elastic, sharded by host, without TensorFlow.

What an example looks like depends on (seed, position) alone, so the batches are the same for any
number of workers and hosts, and a run resumes by starting at `step`: there is no other state.

A record that cannot be read becomes an example of ignored pixels in its place, so that the others
keep theirs. Every batch names its records: `record` int64 [b], with `bad` bool [b] for these;
`BadRecords` counts them and stops the run above a limit.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from deeplab_jax.config import PAPER_CROP, Config, ModelConfig, TaskConfig, round_up
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
from deeplab_jax.errors import SIGNALS, UserError

MOST_EXAMPLES = 2**53  # of "endless" data: Grain counts batches by dividing, as floats

Batch = dict[str, np.ndarray]
Batches = Generator[Batch, None, None]


class ReaderFailed(SystemExit):
    """What reads the data came to an end that it should not: one line, exit code 1."""


def open_split(config: Config, split: str) -> Source:
    """The source of one split, checked to have the model's kind and number of classes.

    Raises:
      UserError: what is missing or does not fit, named.
    """
    source, wanted = open_data(config, split), config.model.num_classes
    names = source.class_names
    if wanted is not None and len(names) != wanted:
        raise UserError(
            f"model.num_classes = {wanted}, but the data set has {len(names)} classes"
            f" ({', '.join(names[:4])}, ...): set --model.num_classes={len(names)}"
        )
    return source


def open_data(config: Config, split: str) -> Source:
    """The source of one split for a model of the same kind, whatever its number of classes."""
    data, task, machine, model = config.data, config.task, config.machine, config.model
    if data.one_label != (model.head == "classifier"):
        raise UserError(
            f"model.head = {model.head!r} does not fit data.source = {data.source!r}: classifier is"
            " for imagenet2012, the other heads are for segmentation"
        )
    return open_source(
        data.source,
        split,
        root=machine.root or None,
        data_dir=machine.prepared_dir,
        classes=data.classes or None,
        num_classes=model.num_classes,
        ignore_label=255 if task.ignore_label is None else task.ignore_label,
        image_dir=data.image_dir,
        mask_dir=data.mask_dir,
        holdout=data.holdout or None,
        palette=data.palette_masks,
        exif_upright=data.exif_upright,
        white=task.white,
    )


def settle(config: Config, train_source: Source) -> Config:
    """The configuration with what "from the data" stands for filled in.

    Classes, colours and the ignored label are the source's; a crop is as large as the images in
    the middle of the order of sizes, at most the paper's.
    """
    model, task, data = config.model, config.task, config.data
    names, colors = train_source.class_names, train_source.colors
    ignored = train_source.ignore_label if data.source == "folder" else None
    crop = data.crop_size
    if crop is None and model.head == "classifier":
        crop = input_size((1, 1), model, task)
    elif crop is None:
        sizes = [size for size in train_source.sizes() if size is not None] or [PAPER_CROP]
        crop = crop_size(np.array(sizes), model.output_stride)
    task = replace(task, classes=names, colors=colors, ignore_label=ignored)
    if model.head == "classifier":
        task = replace(task, eval_size=task.eval_size or crop)
    return replace(
        config,
        model=replace(model, num_classes=len(names)),
        task=task,
        data=replace(data, crop_size=crop),
    )


def crop_size(sizes: np.ndarray, stride: int) -> Size:
    """A crop k * stride + 1 for images of sizes [n 2]: the median image, at most the paper's.

    It is square where some images are upright and some not, as the paper's 513 x 513 for VOC.
    """
    sides = zip(np.median(sizes, axis=0), PAPER_CROP, strict=True)
    h, w = (min(max(17, int(n)), most) for n, most in sides)
    upright, lying = (sizes[:, 0] > sizes[:, 1]).any(), (sizes[:, 0] < sizes[:, 1]).any()
    if upright and lying:
        h = w = max(h, w)
    return (round_up(h, stride), round_up(w, stride))


def train_example(
    index: int,
    rng: np.random.Generator,
    source: Source,
    config: Config,
    fill: Pixel = GREY,
) -> Batch:
    """Decode, scale, crop and pad a record: image u8 [*crop_size, 3], label u8 [*crop_size].

    An image with one label has it handed through, u16 [1 1].
    """
    data, task, size = config.data, config.task, config.data.crop
    read = read_record(source, index)
    if isinstance(read, str):
        label_size = (1, 1) if data.one_label else size
        return blank(source, size, label_size, fill) | about(index, bad=True)
    image, label = read
    if data.one_label:
        crop = inception_crop(rng, image.shape[:2], size)
        image = cut(image, crop, size, fill, smooth=True)
        return {"image": image, "label": label, **about(index)}
    scale = random_scale(rng, data.min_scale, data.max_scale, data.scale_step)
    whole_size = image.shape[:2]
    if task.resize == "fit" and task.eval_size is not None:
        whole_size = fit_size(whole_size, task.eval_size)
    crop = random_crop(rng, whole_size, scale, size)
    return {
        "image": cut(image, crop, size, fill, smooth=True),
        "label": cut(label, crop, size, source.ignore_label, smooth=False),
        **about(index),
    }


def read_record(source: Source, index: int) -> tuple[np.ndarray, np.ndarray] | str:
    """Image u8 [h w 3] and label of a record, or why it cannot be read."""
    try:
        example = source[index]
        return image_of(example, example["id"]), example["label"]
    except UNREADABLE as error:
        return str(error)


def blank(source: Source, size: Size, label_size: Size, fill: Pixel) -> Batch:
    """An example whose pixels are all ignored."""
    dtype = np.uint16 if source.ignore_label > 255 else np.uint8
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
                    f"{len(self.names)} records could not be read, more than machine.max_bad_records ="
                    f" {self._limit}; the last is {self.names[index]} ({reason}). See them all:"
                    " python -m deeplab_jax check-data"
                )


def train_batches(
    source: Source,
    config: Config,
    *,
    start_step: int = 0,
    host: int = 0,
    hosts: int = 1,
    fill: Pixel = GREY,
) -> Batches:
    """Shuffled batches from `start_step` on, without end: this host's share of each global batch.

    `fill` is the pixel that images are padded with (`models.build.mean_pixel`).
    """
    batch_size = config.train.batch_size
    make = partial(train_example, source=source, config=config, fill=fill)
    # Not repeat(), whose length overflows in batches of one.
    epochs = MOST_EXAMPLES // len(source)
    shuffled = grain.MapDataset.range(len(source)).seed(config.train.seed).shuffle().repeat(epochs)
    examples = shuffled.random_map(make)[start_step * batch_size :]
    mine = (
        examples
        if hosts == 1
        else grain.MapDataset.source(Share(examples, batch_size, host, hosts))
    )
    return read(mine.batch(batch_size // hosts), config.machine.workers)


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


def read(batches: "grain.MapDataset[Any]", workers: int) -> Batches:
    """Iterate with a few batches decoded ahead, by threads or by worker processes.

    Workers end when the iterator is closed or dropped, and with the process that started them.

    Raises:
      ReaderFailed: in place of what Grain raises, as when a worker was killed.
    """
    threads = grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=2)
    dataset = batches.to_iter_dataset(threads)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which we do not use
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(processes, outlive_nothing)
    with closing(iter(dataset)) as iterator:
        try:
            with signals_held_back():  # in the workers, which the first batch starts, for good
                first = next(iterator, None)
            if first is not None:
                yield first
                yield from iterator
        except UserError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ReaderFailed(
                f"error: reading the data failed ({type(error).__name__}: {reason:.300}). If the"
                " machine was short of memory, fewer --machine.workers help. The same command goes on"
            ) from error


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Processes started inside do not hear SIGINT and SIGTERM, from their very first moment.

    Ctrl-C goes to all processes of a terminal, a cluster's SIGTERM to all of a job; but the run
    that they work for needs them until it has saved. This process hears both, at the latest at the
    end. Where there are no masks (Windows), nothing is done.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It starts with the first process, and would take the mask away from the thread it starts in.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_nothing(worker: int, workers: int) -> None:
    """In a worker: end with the process that started it, also when that was killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


# ---- evaluation


def input_size(size: Size, model: ModelConfig, task: TaskConfig) -> Size:
    """Height and width that the network gets for an image of `size`: by that image alone.

    The one rule of prediction and evaluation, so that neither an image's neighbours in a batch nor
    the rest of its split change what is predicted: `task.eval_size` where the image fits into it or
    is scaled to fit; else its own size, rounded up to k * output_stride + 1, k from 2. What the
    image does not fill is padded at the bottom and on the right, and image pooling sees that.
    A classifier sees the centre of an image in one size: `task.eval_size`, or ImageNet's usual one.
    """
    if model.head == "classifier":
        side = 299 if model.backbone.startswith("xception") else 224
        return task.eval_size or (side, side)
    if task.eval_size is not None:
        room = zip(size, task.eval_size, strict=True)
        if task.resize == "fit" or all(n <= most for n, most in room):
            return task.eval_size
    stride = model.output_stride
    h, w = (max(round_up(n, stride), 2 * stride + 1) for n in size)
    return (h, w)


class Row(NamedTuple):
    """A row of a batch: its record, past the end for a row to fill up with, and two sizes.

    `input_size` is what the network gets, `label_size` what its label map is padded to.
    """

    record: int
    input_size: Size
    label_size: Size


def plan_evaluation(
    source: Source,
    model: ModelConfig,
    task: TaskConfig,
    *,
    batch_size: int,
    shares: int = 1,
    only: Sequence[int] | None = None,
) -> list[list[Row]]:
    """Every image once (or `only` these), in batches of one input size each.

    Where the split has fewer images of a size than a batch holds, their batch has so many rows as
    to be a multiple of `shares`, the parts that devices split it into. An image whose header cannot
    be read stands with those of the most frequent size.
    """
    one_label = model.head == "classifier"
    sizes = source.sizes() if not one_label else [(1, 1)] * len(source)
    known = [input_size(s, model, task) for s in sizes if s is not None]
    common = Counter(known or [input_size((1, 1), model, task)]).most_common(1)[0][0]
    boxes = [common if s is None else input_size(s, model, task) for s in sizes]
    counts, largest = Counter(boxes), largest_size(sizes)
    groups: dict[Size, list[Row]] = {}
    for i in range(len(source)) if only is None else only:
        label_size = (1, 1) if one_label else largest if task.resize == "fit" else boxes[i]
        groups.setdefault(boxes[i], []).append(Row(i, boxes[i], label_size))
    batches = []
    for box, rows in groups.items():
        n = min(batch_size, -(-counts[box] // shares) * shares)
        rows += [rows[0]._replace(record=len(source))] * (-len(rows) % n)
        batches += [rows[i : i + n] for i in range(0, len(rows), n)]
    return batches


def largest_size(sizes: Sequence[Size | None]) -> Size:
    """Largest height and largest width; unknown sizes count as 1 x 1."""
    known = [size for size in sizes if size is not None] or [(1, 1)]
    return (max(h for h, _ in known), max(w for _, w in known))


def eval_example(row: Row, source: Source, task: TaskConfig, fill: Pixel = GREY) -> Batch:
    """One whole image for evaluation; an index past the end gives an example of ignored pixels.

    So does a record that cannot be read, marked as bad. image u8 [*input_size, 3], scaled to
    `scaled` (h, w) and padded; label u8 [*label_size], at the image's own `size` (h, w) and
    padded with the ignored label. An image with one label, u16 [1 1], is cut to its centre, and
    both sizes are the label's.
    """
    index, box, label_size = row
    one = {"scaled": np.ones(2, np.int32), "size": np.ones(2, np.int32)}
    read = read_record(source, index) if index < len(source) else ""
    one_label = label_size == (1, 1)
    if not isinstance(read, str) and not one_label and not fits(read[0], box, task):
        read = "larger than its header said when the evaluation was planned"
    if isinstance(read, str):
        example = blank(source, box, label_size, fill)
        return {**example, **one, **about(index, bad=read != "")}
    image, label = read
    if one_label:
        image = cut(image, central_crop(box), box, fill, smooth=True)
        return {"image": image, "label": label, **one, **about(index)}
    size = image.shape[:2]
    scaled = fit_size(size, box) if task.resize == "fit" else size
    return {
        "image": whole(image, scaled, box, fill, smooth=True),
        "label": pad(label, label_size, source.ignore_label),
        "scaled": np.array(scaled, np.int32),
        "size": np.array(size, np.int32),
        **about(index),
    }


def fits(image: np.ndarray, box: Size, task: TaskConfig) -> bool:
    """Whether an image fits into its input: not if its header could not be read for the plan."""
    return task.resize == "fit" or all(n <= m for n, m in zip(image.shape[:2], box, strict=True))


def eval_batches(
    source: Source,
    task: TaskConfig,
    plan: list[list[Row]],
    *,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
    fill: Pixel = GREY,
) -> Iterator[Batch]:
    """The batches of `plan_evaluation`; of each, this host's rows, every `hosts`-th."""
    make = partial(eval_batch, source=source, task=task, host=host, hosts=hosts, fill=fill)
    return read(grain.MapDataset.source(plan).map(make), workers)


def eval_batch(
    rows: list[Row], source: Source, task: TaskConfig, host: int, hosts: int, fill: Pixel
) -> Batch:
    """A host's rows of a batch, read and stacked."""
    examples = [eval_example(row, source, task, fill) for row in rows[host::hosts]]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
