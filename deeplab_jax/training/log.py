"""What a run writes down step by step: metrics.jsonl, what trackers get, steps gone bad."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab_jax.config import Config
from deeplab_jax.data.source import Source
from deeplab_jax.errors import UserError
from deeplab_jax.files import Appender, json_text, write_atomically
from deeplab_jax.inference.evaluate import Evaluation
from deeplab_jax.inference.results import collect_scores, draw_predictions, main_metric
from deeplab_jax.parallel.processes import wait_for_all, writes
from deeplab_jax.reporting.metrics_file import read_log
from deeplab_jax.training.trackers import Line, close_trackers, open_trackers


class NumbersGoneBad(UserError):
    """Too many steps in a row had a loss or gradient that is no finite number; the last: `step`."""

    def __init__(self, step: int, in_a_row: int) -> None:
        super().__init__(
            f"step {step}: loss or gradient is no finite number, as in each of the last {in_a_row}"
            " steps (machine.max_bad_steps). Nothing of them is in the state; metrics.jsonl names"
            " their images. A lower --optim.learning_rate may help, or --machine.rollback=True,"
            " which goes back to the last checkpoint and passes over them"
        )
        self.step = step


class Log:
    """metrics.jsonl: one JSON object a line; the same numbers for the trackers of `machine.log_to`.

    Of several processes one writes; a skipped step's images are named by the process that read
    them. Lines after `first_step` are of a lost stretch: removed. A step is read after the next
    one was dispatched, so that the device never waits for the host. `evaluated` has the score of
    each evaluation by its step; `skipping`: whether the step that was read last changed nothing.
    """

    def __init__(self, file: Path, first_step: int, config: Config, source: Source) -> None:
        rows, broken = read_log(file) if file.exists() else ([], 0)
        rows = [row for row in rows if row["step"] <= first_step]
        self._metric = main_metric(config.data.one_label)
        scores = {row["step"]: row[self._metric] for row in rows if self._metric in row}
        self.evaluated = {step: number_or_least(score) for step, score in scores.items()}
        self._ended = any("ended" in row for row in rows if row["step"] == first_step)
        wait_for_all("log read")
        self._file, self._trackers = None, []
        if writes():
            if broken:
                keep_broken(file, broken)
            write_atomically(file, "".join(json_text(row) + "\n" for row in rows))
            self._file = Appender(file)
            self._trackers = open_trackers(config, first_step)
        self._config, self._source = config, source
        self._pending: tuple[int, dict[str, Any], np.ndarray] | None = None
        self._last, self._waited, self._note = (first_step, time.monotonic()), 0.0, ""
        self.skipping = False

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._file:
            self._file.close()
        close_trackers(self._trackers, failed=error is not None)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data: its share of the time is logged."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def train(self, step: int, metrics: dict[str, Any], records: np.ndarray) -> str:
        """Remember this step, read the one before; returns a note for the progress line."""
        self.flush()
        self._pending = (step, metrics, records)
        return self._note

    def flush(self) -> None:
        """Read the remembered step: write it if it is to be logged, name its records if skipped.

        Raises:
          NumbersGoneBad: it is the last of too many skipped ones.
        """
        if self._pending is None:
            return
        (step, metrics, records), self._pending = self._pending, None
        in_a_row = int(metrics.pop("skipped_in_a_row"))
        self.skipping = in_a_row > 0
        if self.skipping:
            names = [self._source.name(i) for i in records.tolist()]
            self._write({"step": step, "skipped": names})
            what = "loss or gradient is no finite number, skipped; its images"
            print(f"warning: step {step}: {what}: {', '.join(names)}", file=sys.stderr)
        elif step % self._config.machine.log_every == 0:
            self._write_step(step, {name: float(value) for name, value in metrics.items()})
        if in_a_row >= self._config.machine.max_bad_steps:
            raise NumbersGoneBad(step, in_a_row)

    def _write_step(self, step: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        before, start = self._last
        rate = (step - before) * self._config.train.batch / (now - start)
        wait = self._waited / (now - start)
        self._last, self._waited = (step, now), 0.0
        timings = {"images_per_second": round(rate, 3), "data_wait": round(wait, 3)}
        self._write({"step": step, **values, **timings})
        self._note = f"loss {values['loss']:.3f}, {rate:.1f} images/s, {wait:.0%} waiting for data"

    def evaluation(self, step: int, result: Evaluation, source: Source) -> None:
        """Write and print an evaluation."""
        scores = collect_scores(result)
        self._write({"step": step, **scores})
        self.evaluated[step] = number_or_least(scores[self._metric])
        if self._trackers:
            image = draw_predictions(result, source) if result.predictions else None
            self._send(step, score_classes(result, source), image)
        if self._file:
            print(f"step {step}: {result.headline} ({result.seconds:.0f} s)", file=sys.stderr)
        self._last, self._waited = (step, time.monotonic()), 0.0  # the rate leaves this out

    def end(self, step: int, reason: str) -> None:
        """Write and print why the run ends before its last step."""
        if not self._ended:
            self._write({"step": step, "ended": reason})
        print(reason, file=sys.stderr)

    def _write(self, row: dict[str, Any]) -> None:
        if self._file:
            self._file.append(json_text(row) + "\n")
        self._send(row["step"], row)

    def _send(self, step: int, row: dict[str, Any], image: Image.Image | None = None) -> None:
        """Give the trackers what is a finite number, neither step nor names, and an image."""
        values = {k: x for k, x in row.items() if isinstance(x, float) and math.isfinite(x)}
        for tracker in self._trackers if values or image else ():
            tracker.log(Line(step, values, image))


def number_or_least(score: float | None) -> float:
    """A score to be compared: one that is undefined is below all others."""
    return -math.inf if score is None or math.isnan(score) else score


def score_classes(result: Evaluation, source: Source) -> dict[str, float]:
    """The IoU of each class as trackers have it; a classifier's classes, a thousand, have none."""
    if result.one_label:
        return {}
    pairs = zip(source.class_names, result.scores.iou.tolist(), strict=True)
    return {f"eval/iou/{name.replace('/', '_')}": iou for name, iou in pairs}


def keep_broken(file: Path, broken: int) -> None:
    """Keep what a log with broken lines holds, and say how many are left out of what goes on."""
    copy = file.with_name(f"{file.name}.broken")
    with copy.open("ab") as stream:
        stream.write(file.read_bytes())
    print(f"warning: {file}: {broken} broken lines are left out; kept in {copy}", file=sys.stderr)
