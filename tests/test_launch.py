"""The launch files: sound shell, arguments that the configuration knows, and what they do on 75."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from deeplab_jax.config import parse

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def run(
    script: str, commands: dict[str, str], folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A launch script in `folder`, where the commands it calls are these lines of shell."""
    for name, line in commands.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_sound_shell(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)


@pytest.mark.parametrize("code", [0, 2, 75])
def test_slurm_queues_an_interrupted_run_again_and_no_other(code: int, tmp_path: Path) -> None:
    commands = {"srun": f'echo "$@" >&2; exit {code}', "scontrol": 'echo "$@"'}
    done = run("slurm.sh", commands, tmp_path, "--config=configs/voc.py", SLURM_JOB_ID="7")
    assert done.returncode == code
    assert done.stdout == ("requeue 7\n" if code == 75 else "")
    assert_known(done.stderr)


def test_every_worker_of_a_tpu_vm_gets_the_arguments_as_they_are(tmp_path: Path) -> None:
    commands = {"gcloud": 'for a in "$@"; do echo "$a"; done'}
    arguments = ("--config=configs/voc.py", "--machine.root=/my data")
    done = run("tpu_vm.sh", commands, tmp_path, *arguments, TPU="slice", ZONE="z")
    assert done.returncode == 0
    assert {"slice", "--zone=z", "--worker=all"} <= set(done.stdout.splitlines())
    command = done.stdout.splitlines()[-1].removeprefix("--command=")
    assert shlex.split(command)[-1] == "--machine.root=/my data"
    assert_known(command)


def test_gpus_of_one_machine_are_one_process(tmp_path: Path) -> None:
    commands = {".venv/bin/python": 'echo "$@"; exit 75'}
    done = run("gpus.sh", commands, tmp_path, "--config=configs/voc.py")
    assert done.returncode == 75
    assert_known(done.stdout)


def test_the_jobset_is_whole() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    job = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (slice_,) = job["spec"]["replicatedJobs"]
    spec = slice_["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    chips = spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert chips == int(rows) * int(columns)
    assert_known(shlex.join(container["command"]))
    assert 75 not in spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    (rule,) = job["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}


def assert_known(command: str) -> None:
    """The arguments of train.py in a command line are fields of the configuration."""
    words = shlex.split(command)
    arguments = words[words.index("train.py") + 1 :]
    assert arguments
    rooted = [a for a in arguments if not a.startswith("--machine.root")]
    parse([*rooted, "--machine.root=/data/VOCdevkit"], "")
