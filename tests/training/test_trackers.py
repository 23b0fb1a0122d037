"""What trackers get of a run, read back from their files; and that none can stop it."""

import dataclasses
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import with_workdir

from deeplab_jax import Config, UserError
from deeplab_jax.config import flatten, to_dict
from deeplab_jax.data.settle import open_split
from deeplab_jax.inference.evaluate import Evaluation
from deeplab_jax.reporting.metrics_file import read_metrics
from deeplab_jax.training import trackers
from deeplab_jax.training.log import Log
from deeplab_jax.training.loop import fit
from deeplab_jax.training.trackers import Write

Scalars = dict[str, dict[int, float]]  # by name and step


def logging_to(config: Config, workdir: Path, *names: str) -> Config:
    config = with_workdir(config, workdir)
    return dataclasses.replace(config, machine=dataclasses.replace(config.machine, log_to=names))


def log_steps(config: Config, first: int, steps: range) -> None:
    """What a run from a step on logs of these steps: the loss is the step."""
    folder = Path(config.machine.workdir)
    folder.mkdir(exist_ok=True)
    with Log(folder / "metrics.jsonl", first, config, open_split(config, "train")) as log:
        for step in steps:
            log.train(step, {"loss": float(step), "skipped_in_a_row": 0}, np.arange(8))
        log.flush()


def check_resumed(config: Config) -> None:
    """Log to step 4, as a run that is lost then, and from step 2 on again to step 6."""
    log_steps(config, 0, range(1, 5))
    log_steps(config, 2, range(3, 7))


def test_a_tracker_that_is_not_installed_is_said_before_any_work(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wandb").mkdir()  # as its own runs leave it, which is no package
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    for name in ("mlflow", "wandb"):
        monkeypatch.delitem(trackers.sys.modules, name, raising=False)
        config = logging_to(tiny_config, tmp_path / "run", name)
        with pytest.raises(UserError, match=f"machine.log_to = {name}: .* pip install {name}"):
            fit(config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"machine.log_to = .* some of tensorboard, wandb, mlflow"):
        logging_to(tiny_config, tmp_path, "tensorbord")


@contextmanager
def failing_to_open(*_: Any) -> Iterator[Write]:
    raise SystemExit("no key")
    yield


@contextmanager
def failing_to_write(*_: Any) -> Iterator[Write]:
    def write(line: trackers.Line) -> None:
        if line.step != 3:
            raise OSError(f"no route for {line.step}")

    yield write


@contextmanager
def blocking(*_: Any) -> Iterator[Write]:
    yield lambda _: threading.Event().wait()


@pytest.mark.parametrize(
    ("open_tracker", "missing", "reason"),
    [
        (failing_to_open, 6, "no key"),
        (failing_to_write, 5, "no route for 1"),
        (blocking, 6, "it is too slow"),
    ],
)
def test_nothing_that_a_tracker_does_stops_a_run(
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    open_tracker: trackers.Open,
    missing: int,
    reason: str,
) -> None:
    """All of the log is there, and what the tracker lacks is said once."""
    monkeypatch.setitem(trackers.OPEN, "wandb", open_tracker)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.2)
    start = time.monotonic()
    config = logging_to(tiny_config, tmp_path / "run", "wandb")
    log_steps(config, 0, range(1, 7))
    assert time.monotonic() - start < 5
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["loss"] for row in rows] == [1, 2, 3, 4, 5, 6]
    said = capsys.readouterr().err
    assert said.count(f"wandb: {missing} of 6 lines were not logged: {reason}") == 1
    assert said.count("the run goes on without") == (reason != "it is too slow")


def test_few_lines_wait_for_a_slow_tracker(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers, "MOST_LINES", 3)
    opened, go_on, written = threading.Event(), threading.Event(), []

    @contextmanager
    def slow(*_: Any) -> Iterator[Write]:
        opened.set()
        go_on.wait()
        yield written.append

    tracker = trackers.Tracker("slow", slow, tiny_config, 0)
    opened.wait()
    for step in range(1, 11):
        tracker.log(trackers.Line(step, {"loss": 1.0}))
    go_on.set()
    trackers.close_trackers([tracker], failed=False)
    assert [line.step for line in written] == [1, 2, 3]
    assert "slow: 7 of 10 lines were not logged: it is too slow" in capsys.readouterr().err


def read_events(folder: Path) -> tuple[Scalars, dict[str, str]]:
    """Scalars as TensorBoard shows them, and texts: its records are framed by lengths and CRCs."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars: Scalars = {}
    texts: dict[str, str] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.session_log.status == SessionLog.START:
                for by_step in scalars.values():
                    for step in [step for step in by_step if step >= event.step]:
                        del by_step[step]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.setdefault(value.tag, {})[event.step] = value.simple_value
                elif value.tensor.string_val:
                    texts[value.tag] = value.tensor.string_val[0].decode()
    return scalars, texts


def test_tensorboard_has_numbers_and_configuration(tiny_config: Config, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="TensorBoard's files take tensorboardX")
    config = logging_to(tiny_config, tmp_path / "run", "tensorboard")
    check_resumed(config)
    scalars, texts = read_events(tmp_path / "run" / "tensorboard")
    assert scalars["loss"] == {step: step for step in range(1, 7)}
    assert scalars["images_per_second"][6] > 0
    (text,) = texts.values()
    assert f'"learning_rate": {config.optim.learning_rate}' in text


def test_an_evaluation_gives_scores_of_each_class_and_an_image(
    tiny_config: Config, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboardX", reason="TensorBoard's files take tensorboardX")
    config = logging_to(tiny_config, tmp_path, "tensorboard")
    source = open_split(config, "val")
    result = Evaluation(
        config=config,
        confusion=np.array([[6, 2, 0], [0, 8, 0], [0, 0, 0]]),
        trimaps={},
        boundary=None,
        images=np.array([[14, 16]]),
        unreadable=(),
        predictions={0: source[0]["label"]},
        seconds=1.0,
        seconds_per_image=1.0,
    )
    with Log(tmp_path / "metrics.jsonl", 0, config, source) as log:
        log.evaluation(3, result, source)
    scalars, _ = read_events(tmp_path / "tensorboard")
    assert scalars["eval/iou/grey"] == {3: 0.75}
    assert scalars["eval/iou/red"][3] == pytest.approx(0.8)
    assert "eval/iou/blue" not in scalars  # nowhere in the truth: not a number
    assert scalars["eval/miou"][3] == pytest.approx(0.775)
    events = b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())
    assert b"eval/images" in events


def read_blocks(file: Path) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log, blocks of 32 kB of parts of records."""
    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = -at % 2**15
        if left < 7 and left:  # too little for a part
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore")  # its own
def test_wandb_goes_on_in_one_run(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="W&B takes wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    config = logging_to(tiny_config, tmp_path / "my run", "wandb")
    check_resumed(config)
    wandb.teardown()
    runs, history, settings = set(), {}, []
    for file in sorted((tmp_path / "my run" / "wandb").glob("offline-run-*/*.wandb")):
        for data in read_blocks(file):
            record = Record.FromString(data)
            row = {item.nested_key[0]: item.value_json for item in record.history.item}
            history |= {int(row["step"]): float(row["loss"])} if "loss" in row else {}
            if record.HasField("run"):
                runs.add((record.run.run_id, record.run.display_name, record.run.project))
                settings += [item.key for item in record.run.config.update]
    assert history == {step: step for step in range(1, 7)}
    ((name, display_name, project),) = runs
    assert name == (tmp_path / "my run" / "wandb" / "id").read_text()
    assert (display_name, project) == ("my run", "deeplab_jax")
    assert settings.count("optim.learning_rate") == 1


@pytest.mark.filterwarnings("ignore")  # its own
def test_mlflow_goes_on_in_one_run(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow takes mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 120)  # its first start makes a database
    config = logging_to(tiny_config, tmp_path / "my run", "mlflow")
    check_resumed(config)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'my run' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("deeplab_jax")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "my run" and run.info.status == "FINISHED"
    assert run.data.params == {k: str(v) for k, v in flatten(to_dict(config)).items()}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {m.step: m.value for m in history} == {step: step for step in range(1, 7)}
