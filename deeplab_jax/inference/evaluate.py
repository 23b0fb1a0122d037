"""Evaluation: every pixel of a split counted once, at the images' own sizes."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from deeplab_jax.config import Config
from deeplab_jax.data.batches import BadRecords, Row, eval_batches, for_device, plan_evaluation
from deeplab_jax.data.source import Source
from deeplab_jax.inference.metrics import Counts, Scores, boundary_iou, scores
from deeplab_jax.inference.step import Labels, compile_eval_step
from deeplab_jax.lowering.session import Runtime
from deeplab_jax.models import mean_pixel
from deeplab_jax.parallel.mesh import batch_shares, check_batch_size, host_share, place_batch
from deeplab_jax.progress import Ticker

MANY_SIZES = 8  # of a split's images: a program is compiled for each


class Evaluation(NamedTuple):
    """What was counted over a split of n images, int64, and how; c classes.

    confusion [c, c]; trimaps: width -> the same within so many pixels of a boundary; boundary
    [c + 1, c + 1] or None, as in `Counts`; images [n, 2]: correct and counted pixels of each;
    unreadable: names of images that could not be read, and count nowhere; predictions: index ->
    u8[h, w] of a few images, from the best to the worst. An image of a classifier counts as one
    pixel, and its prediction is u16[1, 1].
    """

    config: Config
    confusion: np.ndarray
    trimaps: dict[int, np.ndarray]
    boundary: np.ndarray | None
    images: np.ndarray
    unreadable: tuple[str, ...]
    predictions: dict[int, np.ndarray]
    seconds: float
    seconds_per_image: float

    @property
    def one_label(self) -> bool:
        """Whether a classifier was evaluated."""
        return self.config.model.head == "classifier"

    @property
    def scores(self) -> Scores:
        """The measures that follow from the confusion matrix."""
        return scores(self.confusion)

    @property
    def trimap_miou(self) -> dict[int, float]:
        """The mIoU within each width of a boundary."""
        return {width: scores(counts).miou for width, counts in self.trimaps.items()}

    @property
    def boundary_iou(self) -> np.ndarray | None:
        """Boundary IoU of each class f64[c], nan for an absent one; None: not measured."""
        return None if self.boundary is None else boundary_iou(self.boundary)

    @property
    def image_accuracy(self) -> np.ndarray:
        """The share of each image's counted pixels that is right f64[n]; nan where none counts."""
        with np.errstate(invalid="ignore"):
            return self.images[:, 0] / self.images[:, 1]

    @property
    def headline(self) -> str:
        """The scores in a line."""
        s, bad = self.scores, len(self.unreadable)
        line = f"accuracy {100 * s.pixel_accuracy:.2f} %"
        line = line if self.one_label else f"mIoU {100 * s.miou:.2f} %, pixel {line}"
        return f"{line}, unreadable and not counted: {bad}" if bad else line


class Evaluator:
    """A split, ready to be evaluated again and again by programs that are compiled once."""

    def __init__(
        self,
        config: Config,
        source: Source,
        mesh: Mesh,
        between_batches: Callable[[], None] = lambda: None,
        runtime: Runtime | Labels = "xla",
    ) -> None:
        size = config.eval.batch_size
        check_batch_size("eval.batch_size", size, mesh)
        self.config, self.source, self.mesh = config, source, mesh
        self._between_batches = between_batches
        self._step = compile_eval_step(config, mesh, source.ignore_label, runtime)
        plan = partial(plan_evaluation, source, config.model, config.task)
        self._make_plan = partial(plan, batch_size=size, shares=batch_shares(mesh))
        self._plan = self._make_plan()
        if (n := len({rows[0].input_size for rows in self._plan})) > MANY_SIZES:
            print(
                f"the images have {n} sizes, and a program is compiled for each; --task.eval_size H"
                " W pads all to one, as training's padding does",
                file=sys.stderr,
            )

    def compile(self, variables: Any) -> None:
        """Compile the program of the first batch now, by evaluating one without images."""
        without = [row._replace(record=len(self.source)) for row in self._plan[0]]
        jax.block_until_ready([labels for *_, labels in self._run(variables, [without])])
        self._between_batches()

    def estimate_seconds(self, variables: Any) -> float:
        """How long evaluating the split takes, by a few of its batches."""
        plan, times = self._plan[:4], [time.monotonic()]
        for _, _, *results in self._run(variables, plan):
            jax.block_until_ready(results)
            times.append(time.monotonic())
        return len(self.source) * average_seconds(plan, np.diff(times), len(self.source))

    def __call__(self, variables: Any) -> Evaluation:
        """Evaluate variables, which `place` has put on the mesh.

        Raises:
          UserError: more than `machine.max_bad_records` images are unreadable.
        """
        c, n = self.config, len(self.source)
        sums: Any = None
        images = np.zeros((n + 1, 2), np.int64)  # the last one of rows past the end
        bad = BadRecords(self.source, c.machine.max_bad_records)
        times, done = [time.monotonic()], 0
        _, hosts = host_share(self.mesh)
        with Ticker("evaluate", n, unit="image") as ticker:
            for rows, batch, counts, _ in self._run(variables, self._plan, c.machine.workers):
                self._between_batches()
                bad.note(batch)
                *new, right = jax.tree.map(lambda x: np.asarray(x, np.int64), counts)
                sums = new if sums is None else jax.tree.map(np.add, sums, new)
                # On the devices, each host's rows stand together.
                order = [row.record for host in range(hosts) for row in rows[host::hosts]]
                images[order] = right
                times.append(time.monotonic())
                done += sum(record < n for record in order)
                ticker.tick(done)
        confusion, trimaps, boundary = sums
        result = Evaluation(
            c,
            confusion,
            dict(zip(c.eval.trimap_widths, trimaps, strict=True)),
            boundary,
            images[:n],
            tuple(bad.names.values()),
            {},
            times[-1] - times[0],
            average_seconds(self._plan, np.diff(times), n),
        )
        best_to_worst = choose_images(result.image_accuracy, c.eval.images)
        return result._replace(predictions=self._predict(variables, best_to_worst))

    def _predict(self, variables: Any, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """The predictions of a few images, by index, u8[h, w] at their own sizes.

        There are none where there are several hosts, none of which has them all.
        """
        predictions: dict[int, np.ndarray] = {}
        if jax.process_count() > 1:
            return predictions
        for rows, batch, _, labels in self._run(variables, self._make_plan(only=indices)):
            for row, (h, w), label in zip(rows, batch["size"], np.asarray(labels), strict=True):
                predictions[row.record] = label[:h, :w]
        return {index: predictions[index] for index in indices}

    def _run(
        self, variables: Any, plan: list[list[Row]], workers: int = 0
    ) -> Iterator[tuple[list[Row], dict[str, np.ndarray], Counts, Array]]:
        """Read and evaluate each batch of a plan: its rows, what was read, counts, predictions."""
        (host, hosts), fill = host_share(self.mesh), mean_pixel(self.config.model)
        read = partial(eval_batches, self.source, self.config.task, plan, workers=workers)
        for rows, batch in zip(plan, read(host=host, hosts=hosts, fill=fill), strict=True):
            yield rows, batch, *self._step(variables, place_batch(for_device(batch), self.mesh))


def average_seconds(plan: list[list[Row]], seconds: np.ndarray, images: int) -> float:
    """Seconds an image took, by those of each batch of the plan; records from `images` on are none.

    The first batch of each size, which may compile, is left out where there are others.
    """
    first = {rows[0].input_size: i for i, rows in reversed([*enumerate(plan)])}
    later = sorted({*range(len(plan))} - {*first.values()}) or range(len(plan))
    count = sum(row.record < images for i in later for row in plan[i])
    return float(sum(seconds[i] for i in later)) / count


def choose_images(accuracy: np.ndarray, count: int) -> list[int]:
    """Indices of images at evenly spaced ranks of their accuracy f64[n], the best first.

    3 of accuracies 0.9, 0.1, nan, 0.5 and 0.3 are 0, 4 and 1: nan has no rank.
    """
    order = np.argsort(-accuracy, kind="stable")[: np.isfinite(accuracy).sum()]
    ranks = np.linspace(0, len(order) - 1, min(count, len(order)))
    return [int(order[round(rank)]) for rank in ranks]
