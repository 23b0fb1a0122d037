"""TensorBoard, Weights & Biases and MLflow: where a run's numbers go beside metrics.jsonl.

`machine.log_to` names them. None can stop a run or hold it up: each is fed by a thread of its own,
and what it does not take in time is dropped and counted. A run that resumes goes on in the same
run of the tracker, whose id is kept in the run's folder.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from deeplab_jax.config import Config, flatten, to_dict
from deeplab_jax.config.experiment import TRACKERS
from deeplab_jax.errors import UserError, first_line
from deeplab_jax.files import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROJECT = "deeplab_jax"  # where the trackers' own variables name none
MOST_LINES = 1000  # that wait for a tracker
OPEN_SECONDS = 30.0  # for W&B's server to answer
CLOSE_SECONDS = 20.0  # for all trackers together, at a run's end
MLFLOW_PARAMS = 100  # a call, and the length of a value: MLflow's limits
MLFLOW_LENGTH = 6000


class Line(NamedTuple):
    """What is logged at a step: finite numbers by name, perhaps an image."""

    step: int
    values: Mapping[str, float]
    image: Image.Image | None = None


class RunFailed(Exception):
    """Tells a tracker that the run which it follows ends by an error."""


Write = Callable[[Line], object]
Open = Callable[[Config, int], AbstractContextManager[Write]]


def check_installed(names: Sequence[str]) -> None:
    """Raise UserError unless the package of each of these trackers can be imported."""
    for name in names:
        package = TRACKERS[name]
        spec = find_spec(package)
        if spec is None or spec.origin is None:  # a folder of that name, as wandb leaves them
            raise UserError(
                f"machine.log_to = {name}: {package} is not installed: pip install {package}, or"
                f" leave {name} out"
            )


# ---- each tracker: opened in a run's folder, it yields what takes a line


@contextmanager
def open_tensorboard(config: Config, first_step: int) -> Iterator[Write]:
    """Event files in tensorboard/; those of steps after the first that is trained now are void.

    Not by SummaryWriter: the thread and the queue that it has beside ours wait for ever on a full
    disk, at the end of the process too.
    """
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder = Path(config.machine.workdir) / "tensorboard"
    folder.mkdir(parents=True, exist_ok=True)
    # The suffix, as a file is named by its second: one of the same would be written over.
    events = EventsWriter(str(folder / "events"), f".{first_step}")
    start = SessionLog(status=SessionLog.START)
    events.write_event(Event(wall_time=time.time(), step=first_step + 1, session_log=start))

    def add(step: int, what: Any) -> None:
        events.write_event(Event(wall_time=time.time(), step=step, summary=what))

    def write(line: Line) -> None:
        for name, value in line.values.items():
            add(line.step, summary.scalar(name, value))
        if line.image is not None:
            sheet = np.asarray(line.image.convert("RGB"))
            add(line.step, summary.image("eval/images", sheet, dataformats="HWC"))
        events.flush()

    if first_step == 0:
        text = json.dumps(to_dict(config), indent=2)
        add(0, summary.text("config", f"```json\n{text}\n```"))
    with closing(events):
        yield write


@contextmanager
def open_wandb(config: Config, first_step: int) -> Iterator[Write]:
    """A run of Weights & Biases, whose files lie in wandb/; its variables (WANDB_*) hold.

    W&B's own count of steps never goes back, as a resumed run may: `step` is logged as a number,
    over which all others are drawn.
    """
    import wandb

    workdir = Path(config.machine.workdir)
    kept = workdir / "wandb" / "id"
    begun = kept.exists()
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=workdir.resolve().name,
        id=kept.read_text(encoding="utf-8") if begun else None,
        resume="allow" if begun else None,
        dir=str(workdir),
        config=None if begun else flatten(to_dict(config)),
        # The end of the process waits for W&B too, without a network for ever.
        settings=wandb.Settings(
            console="off", init_timeout=OPEN_SECONDS, finish_timeout=CLOSE_SECONDS / 2
        ),
    )
    with run:
        keep_id(kept, run.id)
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")

        def write(line: Line) -> None:
            image = {} if line.image is None else {"eval/images": wandb.Image(line.image)}
            run.log({"step": line.step, **line.values, **image})

        yield write


@contextmanager
def open_mlflow(config: Config, first_step: int) -> Iterator[Write]:
    """A run of MLflow: at MLFLOW_TRACKING_URI, or in a store of its own in mlflow/."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    folder = (Path(config.machine.workdir) / "mlflow").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(uri or f"sqlite:///{(folder / 'mlflow.db').as_posix()}")
    kept = folder / "id"
    if kept.exists():
        run = kept.read_text(encoding="utf-8")
        client.update_run(run, status="RUNNING")
    else:
        run = begin_mlflow(client, config, None if uri else (folder / "artifacts").as_uri())
        keep_id(kept, run)

    def write(line: Line) -> None:
        now = round(1000 * time.time())
        metrics = [Metric(mlflow_name(k), x, now, line.step) for k, x in line.values.items()]
        client.log_batch(run, metrics)
        if line.image is not None:
            client.log_image(run, line.image, artifact_file=f"eval/images/{line.step}.png")

    try:
        yield write
    except RunFailed:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run)


def begin_mlflow(client: "MlflowClient", config: Config, artifacts: str | None) -> str:
    """Begin a run in MLflow with the configuration as its parameters; returns its id."""
    from mlflow.entities import Param

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    experiment = client.get_experiment_by_name(name)
    place = experiment.experiment_id if experiment else client.create_experiment(name, artifacts)
    workdir = Path(config.machine.workdir).resolve()
    run: str = client.create_run(place, run_name=workdir.name).info.run_id
    flat = flatten(to_dict(config))
    params = [Param(key, str(value)[:MLFLOW_LENGTH]) for key, value in flat.items()]
    for i in range(0, len(params), MLFLOW_PARAMS):
        client.log_batch(run, params=params[i : i + MLFLOW_PARAMS])
    return run


def mlflow_name(name: str) -> str:
    """A metric's name in the characters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)


def keep_id(file: Path, name: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, name)


OPEN: dict[str, Open] = {
    "tensorboard": open_tensorboard,
    "wandb": open_wandb,
    "mlflow": open_mlflow,
}


# ---- a thread for each, so that the run goes on whatever it does


class Tracker:
    """Feeds one tracker: `log` returns at once, and nothing that the tracker raises comes out."""

    def __init__(self, name: str, open_tracker: Open, config: Config, first_step: int) -> None:
        self.name = name
        self._lines: queue.SimpleQueue[Line | bool] = queue.SimpleQueue()
        self._given = self._written = 0
        self._error = ""
        work = (open_tracker, config, first_step)
        self._thread = threading.Thread(target=self._work, args=work, name=name, daemon=True)
        self._thread.start()

    def log(self, line: Line) -> None:
        """Have a line written, or dropped where too many wait."""
        self._given += 1
        if self._lines.qsize() < MOST_LINES:
            self._lines.put(line)

    def end(self, failed: bool) -> None:
        """Have the tracker closed after the lines that wait."""
        self._lines.put(failed)

    def join(self, seconds: float) -> None:
        """Wait so long for its end, and say how many lines it lacks."""
        self._thread.join(max(0, seconds))
        if self._written < self._given:
            missing = f"{self._given - self._written} of {self._given} lines"
            reason = self._error or "it is too slow"
            print(f"warning: {self.name}: {missing} were not logged: {reason}", file=sys.stderr)

    def _work(self, open_tracker: Open, config: Config, first_step: int) -> None:
        try:
            with open_tracker(config, first_step) as write:
                while not isinstance(line := self._lines.get(), bool):
                    try:
                        write(line)
                        self._written += 1
                    except Exception as error:
                        self._note(error)
                if line:
                    raise RunFailed
        except RunFailed:
            pass
        except BaseException as error:  # a library may also leave by SystemExit
            self._note(error)

    def _note(self, error: BaseException) -> None:
        """Say what went wrong, the first time."""
        if not self._error:
            self._error = first_line(error)
            what = f"{self._error}; the run goes on without"
            print(f"warning: {self.name}: {what}", file=sys.stderr)


def open_trackers(config: Config, first_step: int) -> list[Tracker]:
    """What feeds the trackers of `machine.log_to`; the first step is that of the run's state."""
    return [Tracker(name, OPEN[name], config, first_step) for name in config.machine.log_to]


def close_trackers(trackers: Sequence[Tracker], failed: bool) -> None:
    """Close them, all within CLOSE_SECONDS; those that take longer are left behind."""
    for tracker in trackers:
        tracker.end(failed)
    deadline = time.monotonic() + CLOSE_SECONDS
    for tracker in trackers:
        tracker.join(deadline - time.monotonic())
