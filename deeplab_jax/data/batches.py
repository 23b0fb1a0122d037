"""From a source to batches: deterministic, elastic, sharded by host, without TensorFlow.

What an example looks like depends on (seed, position) alone, so the batches are the same for any
number of workers and hosts, and a run resumes by starting at `step`: there is no other state.

A record that cannot be read becomes an example of ignored pixels in its place, so that the others
keep theirs. Every batch names its records: `record` int64 [b], with `bad` bool [b] for these;
`BadRecords` counts them and stops the run above a limit.
"""

import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import grain
import numpy as np

from deeplab_jax.config import Config, ModelConfig, TaskConfig
from deeplab_jax.data.sizes import fits, input_size
from deeplab_jax.data.source import UNREADABLE, Source, image_of
from deeplab_jax.data.transforms import (
    GREY,
    Pixel,
    Size,
    bring_to_input,
    class_crop,
    cut,
    fit_size,
    inception_crop,
    pad,
    random_crop,
    random_scale,
)
from deeplab_jax.data.workers import read
from deeplab_jax.errors import UserError

MOST_EXAMPLES = 2**53  # of "endless" data: Grain counts batches by dividing, as floats

Batch = dict[str, np.ndarray]
Batches = Generator[Batch, None, None]


def read_record(source: Source, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image u8 [h w c] and label of a record; raises what is `UNREADABLE`."""
    example = source[index]
    return image_of(example, example["id"]), example["label"]


def blank(source: Source, fill: Pixel) -> tuple[np.ndarray, np.ndarray]:
    """In place of what cannot be read: an image of one pixel, u8 [1 1 c], that is ignored."""
    dtype = np.uint16 if source.ignore_label > 255 else np.uint8
    return np.full((1, 1, source.reading.channels), fill, np.uint8), np.full(
        (1, 1), source.ignore_label, dtype
    )


def stack(examples: Sequence[Batch]) -> Batch:
    """A batch of examples."""
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def for_device(batch: Batch) -> Batch:
    """A batch without `record` and `bad`, which are for the host alone."""
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
            reason = "it was read the second time: a passing fault of the disk or network"
            try:
                read_record(self._source, index)  # for the words of its error alone
            except UNREADABLE as error:
                reason = str(error)
            print(f"unreadable, so ignored: {self.names[index]} ({reason})", file=sys.stderr)
            if len(self.names) > self._limit:
                raise UserError(
                    f"{len(self.names)} records could not be read, more than"
                    f" machine.max_bad_records = {self._limit}; the last is {self.names[index]}"
                    f" ({reason}). See them all: deeplab check-data"
                )


# ---- training


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

    Its rows stand together, so that what is drawn by row, flips and colours on the device, is the
    same for any number of hosts. `fill` is the pixel that images are padded with.
    """
    batch_size = config.train.batch
    order = grain.MapDataset.range(len(source)).seed(config.train.seed).shuffle()
    # Not repeat() without a number, whose length overflows in batches of one.
    order = order.repeat(MOST_EXAMPLES // len(source))
    examples = order.random_map(partial(train_example, source=source, config=config, fill=fill))
    rows = batch_size // hosts

    def read_step(step: int) -> Batch:
        first = step * batch_size + host * rows
        return stack([examples[first + row] for row in range(rows)])

    steps = grain.MapDataset.range(start_step, MOST_EXAMPLES // batch_size)
    return read(steps.map(read_step), config.machine.workers)


def train_example(
    index: int, rng: np.random.Generator, source: Source, config: Config, fill: Pixel = GREY
) -> Batch:
    """Decode, scale, crop and pad a record: image u8 [*crop_size, c], label u8 [*crop_size].

    An image with one label has it handed through, u16 [1 1].
    """
    data, task, bad = config.data, config.task, False
    try:
        image, label = read_record(source, index)
    except UNREADABLE:
        image, label = blank(source, fill)
        bad = True
    size = image.shape[:2]
    if data.one_label:
        crop = inception_crop(rng, size, data.crop)
    else:
        if task.resize == "fit" and task.eval_size is not None:
            size = fit_size(size, task.eval_size)
        scale = random_scale(rng, data.min_scale, data.max_scale, data.scale_step)
        crop = random_crop(rng, size, scale, data.crop)
        rare = config.augment.rare_crops
        if rare and rng.uniform() < rare:
            crop = class_crop(rng, label, crop, data.crop, source.ignore_label)
        label = cut(label, crop, data.crop, source.ignore_label, smooth=False)
    image = cut(image, crop, data.crop, fill, smooth=True)
    return {"image": image, "label": label, "record": np.array(index), "bad": np.array(bad)}


# ---- evaluation


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
    sizes = [(1, 1)] * len(source) if one_label else source.sizes()
    known = [size for size in sizes if size is not None] or [(1, 1)]
    largest = (max(h for h, _ in known), max(w for _, w in known))
    ((common, _),) = Counter(input_size(size, model, task) for size in known).most_common(1)
    boxes = [common if size is None else input_size(size, model, task) for size in sizes]
    counts = Counter(boxes)
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

    def read_rows(rows: list[Row]) -> Batch:
        return stack([eval_example(row, source, task, fill) for row in rows[host::hosts]])

    return read(grain.MapDataset.source(plan).map(read_rows), workers)


def eval_example(row: Row, source: Source, task: TaskConfig, fill: Pixel = GREY) -> Batch:
    """One whole image for evaluation; an index past the end gives an example of ignored pixels.

    So does a record that cannot be read, marked as bad. image u8 [*input_size, c], scaled to
    `scaled` (h, w) and padded; label u8 [*label_size], at the image's own `size` (h, w) and
    padded with the ignored label. An image with one label, u16 [1 1], is cut to its centre, and
    both sizes are the label's.
    """
    index, box, label_size = row
    fit, one_label = task.resize == "fit", label_size == (1, 1)
    (image, label), bad = blank(source, fill), False
    if index < len(source):
        try:
            found = read_record(source, index)
        except UNREADABLE:
            bad = True
        else:  # an image may be larger than its header said when the evaluation was planned
            bad = not (fit or one_label or fits(found[0].shape[:2], box))
            image, label = (image, label) if bad else found
    size = (1, 1) if one_label else image.shape[:2]
    image, scaled = bring_to_input(image, box, fill, fit=fit, centre=one_label)
    return {
        "image": image,
        "label": pad(label, label_size, source.ignore_label),
        "scaled": np.array(size if one_label else scaled, np.int32),
        "size": np.array(size, np.int32),
        "record": np.array(index),
        "bad": np.array(bad),
    }
