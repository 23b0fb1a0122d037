"""Killed, interrupted or damaged at any moment, a run ends with the numbers of an unbroken one."""

import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
from conftest import with_workdir

from deeplab_jax import Config
from deeplab_jax.config import save_json
from deeplab_jax.errors import INTERRUPTED
from deeplab_jax.reporting.metrics_file import read_metrics

pytestmark = [
    pytest.mark.reliability,
    # Where a restore fails, what Orbax was still reading finds its event loop closed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

PHASES = {"start-up": 8, "step": 9, "save": 8, "evaluate": 5}  # R1's thirty kills
TIMINGS = ("images_per_second", "data_wait")


@pytest.fixture(scope="module")
def config(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """200 steps with a moving average, 40 saves, 10 evaluations."""
    config = faults.change(tiny_config, "train", steps=200, ema_decay=0.99, seed=0)
    config = faults.change(config, "machine", eval_every=20, checkpoint_every=5)
    return with_workdir(config, tmp_path_factory.mktemp("runs") / "unbroken")


@pytest.fixture(scope="module")
def unbroken(config: Config) -> Path:
    assert begin(config).wait() == 0
    return Path(config.machine.workdir)


def begin(config: Config, **options: Any) -> "subprocess.Popen[bytes]":
    """`train.py` of this configuration; its output goes beside the run's folder, to NAME.txt."""
    folder = Path(config.machine.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    save_json(config, folder.with_suffix(".json"))
    arguments = ["train.py", f"--config={folder.with_suffix('.json')}"]
    return faults.start(arguments, folder.with_suffix(".txt"), **options)


def said(config: Config) -> str:
    return Path(config.machine.workdir).with_suffix(".txt").read_text()


def history(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    rows = read_metrics(file) if file.exists() else []
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


def arrays(folder: Path) -> dict[str, Any]:
    """Digests of parameters, BatchNorm, optimiser, average and counters in the last checkpoint."""
    (file,) = (folder / "checkpoints" / "200" / "about").glob("metadata")
    digests: dict[str, Any] = json.loads(file.read_text())["arrays"]
    kinds = {name.partition("/")[0] for name in digests}
    assert {"params", "batch_stats", "opt_state", "ema", "step"} <= kinds
    return digests


def assert_same_run(folder: Path, unbroken: Path) -> None:
    assert arrays(folder) == arrays(unbroken)
    assert history(folder) == history(unbroken)
    steps = [row["step"] for row in history(folder) if "loss" in row]
    assert steps == list(range(1, 201))
    weights = "best/model.safetensors"
    assert (folder / weights).read_bytes() == (unbroken / weights).read_bytes()


class Moment:
    """Something to wait for: a random time of start-up, or an event of the run's own."""

    def __init__(self, phase: str, folder: Path, rng: random.Random) -> None:
        self._phase, self._folder = phase, folder
        self._time = time.monotonic() + rng.uniform(0.1, 12.0)
        self._before = len(history(folder))
        self._rows = rng.randint(1, 4)

    def __call__(self) -> bool:
        if self._phase == "start-up":
            return time.monotonic() > self._time
        if self._phase == "save":
            saving = (self._folder / "checkpoints").glob("*.orbax-checkpoint-tmp")
            return len(history(self._folder)) != self._before and any(saving)
        rows = history(self._folder)
        if self._phase == "evaluate":
            return len(rows) != self._before and rows[-1]["step"] % 20 == 0 and "loss" in rows[-1]
        return len(rows) >= self._before + self._rows


def interrupted_often(
    config: Config, number: signal.Signals, phases: list[str], seed: int
) -> Iterator[tuple[str, int]]:
    """Begin the run again and again, ending it at seeded random moments; phase and exit code."""
    rng, folder = random.Random(seed), Path(config.machine.workdir)
    for phase in rng.sample(phases, len(phases)):
        process = begin(config)
        happened = faults.wait_for(process, Moment(phase, folder, rng), 300)
        assert happened, (phase, said(config)[-2000:])
        time.sleep(rng.uniform(0, 0.05))
        yield phase, faults.end(process, number)


def test_r1_killed_at_random_moments(config: Config, unbroken: Path, tmp_path: Path) -> None:
    config = with_workdir(config, tmp_path / "killed")
    phases = list(Counter(PHASES).elements())
    for phase, code in interrupted_often(config, signal.SIGKILL, phases, seed=0):
        assert code == -signal.SIGKILL, phase
    assert begin(config).wait() == 0
    print(f"\nR1: {len(phases)} kills, {PHASES}: equal")
    assert_same_run(tmp_path / "killed", unbroken)


def test_r2_interrupted_at_random_moments(config: Config, unbroken: Path, tmp_path: Path) -> None:
    """At most one step lost: what was logged is saved, or nothing new was."""
    folder = tmp_path / "interrupted"
    config = with_workdir(config, folder)
    phases = [*PHASES, *PHASES, *PHASES]
    for phase, code in interrupted_often(config, signal.SIGTERM, phases, seed=1):
        too_early = phase == "start-up" and code == -signal.SIGTERM  # for Python to listen
        assert code == INTERRUPTED or too_early, said(config)[-2000:]
        saved = [int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
        logged = [row["step"] for row in history(folder)]
        assert max(saved, default=0) == max(logged, default=0)
    assert begin(config).wait() == 0
    print(f"\nR2: {len(phases)} times SIGTERM, each phase alike: no step lost, equal")
    assert_same_run(folder, unbroken)


def test_r3_a_second_signal_leaves_at_once(config: Config, tmp_path: Path) -> None:
    config = with_workdir(config, tmp_path / "twice")
    process = begin(config)
    assert faults.wait_for(process, lambda: len(history(tmp_path / "twice")) > 2, 300)
    process.send_signal(signal.SIGSTOP)  # so that both are there when it wakes
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert process.wait(20) == INTERRUPTED


def checkpoint_files(folder: Path) -> list[str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(str(p.relative_to(folder)) for p in files)


def test_r4_every_file_of_a_checkpoint_damaged_in_every_way(unbroken: Path, tmp_path: Path) -> None:
    """Identical arrays, or a message that names the checkpoint, and the one before."""
    from deeplab_jax.parallel.mesh import device_mesh, place
    from deeplab_jax.training.checkpoint import Checkpoints
    from deeplab_jax.training.state import TrainState

    newest = unbroken / "checkpoints" / "200"
    like = saved_state(newest)
    outcomes: Counter[str] = Counter()
    for name in checkpoint_files(newest):
        for how in faults.DAMAGES:
            folder = tmp_path / "damaged"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(unbroken / "checkpoints", folder)
            faults.damage(folder / "200" / name, how)
            with Checkpoints(folder, {}) as checkpoints:
                found = checkpoints.restore_newest(place(TrainState(**like), device_mesh()))
            assert found is not None
            aside = (folder / "200.damaged").exists()
            assert found[0] == (195 if aside else 200), (name, how)
            outcomes["the one before" if aside else "identical"] += 1
            kind = re.sub(r"[0-9a-f]{32}", "DATA", name)
            outcomes[f"  {kind} {how}: {'the one before' if aside else 'identical'}"] += 1
    print("\nR4:", *(f"{count:4d} {what}" for what, count in outcomes.items()), sep="\n")


def saved_state(checkpoint: Path) -> dict[str, Any]:
    """The tree of a checkpoint as Orbax itself restores it, for its shapes."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        tree: dict[str, Any] = checkpointer.restore(checkpoint.absolute() / "state")
    return tree


def test_r6_a_full_disk_while_training(config: Config, unbroken: Path, tmp_path: Path) -> None:
    """Saves and log lines fail, the run goes on; begun again with space, it ends the same."""
    config = with_workdir(config, tmp_path / "full")
    process = begin(config, file_bytes=16_000)
    assert faults.wait_for(process, lambda: "tried again later" in said(config), 600), said(config)
    assert process.poll() is None
    faults.end(process, signal.SIGKILL)
    text = said(config)
    assert "could not be written" in text and "Training goes on" in text
    assert begin(config).wait() == 0
    assert_same_run(tmp_path / "full", unbroken)


@pytest.mark.parametrize("devices", [4])
def test_r7_another_number_of_devices_and_of_workers(
    config: Config, unbroken: Path, tmp_path: Path, devices: int
) -> None:
    """The arrays are those saved; the next loss is the same to 1e-5: sums run in another order."""
    shutil.copytree(unbroken, tmp_path / "moved")
    config = with_workdir(config, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "200")
    assert begin(faults.change(config, "machine", workers=2), devices=devices).wait() == 0
    ours, theirs = (
        next(row["loss"] for row in history(folder) if row["step"] == 196)
        for folder in (tmp_path / "moved", unbroken)
    )
    print(f"\nR7: loss {ours} on {devices} devices, {theirs} on one")
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_r16_a_hang_prints_every_stack_and_ends(config: Config, tmp_path: Path) -> None:
    config = with_workdir(faults.change(config, "machine", hang_seconds=60), tmp_path / "hung")
    save_json(config, tmp_path / "hung.json")
    script = (
        "import sys, time; from pathlib import Path; from deeplab_jax.training import loop\n"
        "from deeplab_jax.config import load_json\n"
        "def stuck():\n    time.sleep(10**6)\n    yield\n"
        "loop.batches_from = lambda run, position: stuck()\n"
        "loop.fit(load_json(Path(sys.argv[1])))\n"
    )
    arguments = ["-c", script, str(tmp_path / "hung.json")]
    assert faults.start(arguments, tmp_path / "hung.txt").wait(300) == 1
    text = said(config)
    assert "Timeout (0:01:00)!" in text and "in stuck" in text and "in train" in text
