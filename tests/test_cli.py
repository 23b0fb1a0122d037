"""However a command ends, it is one message and an exit code; a user's mistake before the work."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from synthetic import write_squares

from deeplab_jax import UserError
from deeplab_jax.__main__ import main
from deeplab_jax.process import keep_compiled_programs

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    *("train", "check-data", "evaluate", "study", "predict", "convert", "export", "export-tf"),
    *("plan", "summary"),
)


def fails(arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    monkeypatch.setattr(sys, "argv", ["deeplab_jax", *arguments.split()])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "no command 'trian'; did you mean 'train'?"),
        ("segment", "no command 'segment'; choose one of check-data, train"),
        ("train --config=configs/none.py", "configs/none.py: no such file"),
        ("train nowhere", "nowhere is missing: there is no such folder"),
        ("train --config=configs/camvid.py --machine.root=nowhere", "nowhere is missing"),
        ("train --model.output_stride=7", "model.output_stride = 7"),
        ("train --train.batch_size=3", "train.batch_size = 3 cannot be split over 8 devices"),
        ("check-data --config=configs/camvid.py --machine.root=nowhere", "nowhere is missing"),
        ("evaluate --weights nowhere", "nowhere: no model.safetensors"),
        ("predict nowhere --weights nowhere --out x", "nowhere: no such file or folder"),
        ("predict configs --weights x --out x --format pdf", "invalid choice: 'pdf'"),
        ("train --eval.scales 0.5 -1", "eval.scales = (0.5, -1.0) is not possible: one number"),
        ("train --eval.window 100 100", "eval.window = (100, 100) is not possible"),
        ("convert nowhere --out x", "nowhere: no checkpoint there"),
        ("summary --size 16 513", "size = (16, 513) is not possible: height and width, each"),
        ("summary --size 513", "argument --size: expected 2 arguments"),
        ("summary --model.widht=0.5", "--model.widht"),
        ("study mine.py --out x", "study mine.py: no such Python file"),
        ("export-tf configs --out LICENSE/x.npz", "--out = LICENSE: that is a file"),
        ("export-tf configs --out configs", "--out = configs: that is a folder; name a file"),
        (
            "plan --topology v5e:4x4 --config=configs/voc.py --machine.root=x --hlo configs",
            "--hlo =",
        ),
        ("convert model.pth --out x", "model.pth: a pickle can run code"),
        ("export nowhere --to onnx --out LICENSE", "--out = LICENSE: that is a file"),
        ("export-tf nowhere --out x.npz", "nowhere: no model.safetensors"),
    ],
)
def test_mistakes(
    arguments: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert message in fails(arguments, monkeypatch, capsys)


def test_a_mask_with_wrong_values_is_named_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 3, "val": 2})
    Image.new("L", (56, 40), 9).save(tmp_path / "masks" / "train" / "p01.png")
    error = fails(
        f"train --config=configs/camvid.py --machine.root={tmp_path} --model.num_classes=3"
        " --train.class_weights",
        monkeypatch,
        capsys,
    )
    assert "p01.png" in error and "hold 9" in error


def test_folders_are_tried_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for work in ("weights.convert.convert_variables", "training.study.run_study"):
        monkeypatch.setattr(f"deeplab_jax.{work}", None)
    file = tmp_path / "file"
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    file.touch()
    for command in (f"convert {tmp_path / 'x.npz'}", "study decoder-convs"):
        for out in (file, file / "below"):
            assert f"--out = {out}: " in fails(f"{command} --out {out}", monkeypatch, capsys)


def ends(
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    command: str = "summary",
) -> tuple[object, str]:
    """Exit code and message of a command that raises this."""

    def raising(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr(f"deeplab_jax.cli.{command}", raising)
    monkeypatch.setattr(sys, "argv", ["deeplab_jax", command])
    with pytest.raises(SystemExit) as leaving:
        main()
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return leaving.value.code, message


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


XLA = "RESOURCE_EXHAUSTED: Out of memory allocating 6338789600 bytes."


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("machine.root = 'x' is missing"), "error: machine.root = 'x' is missing\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "error: /a: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "/a/b: Read-only file system"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/f/x"), "/f/x: Not a directory"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), "/a: Too many open files"),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), "/a: No space .* make room"),
        (
            ValueError(f"RESOURCE_EXHAUSTED: x [OS error {errno.ENOSPC}: No space left on device]"),
            "room",
        ),
        (chained(ValueError("not saved"), OSError(errno.EIO, "I/O error", "/a")), "/a: I/O error"),
        (MemoryError(), "not enough memory .MemoryError."),
        (jax.errors.JaxRuntimeError(XLA), "not enough memory .*6338789600"),
        (RuntimeError("std::bad_alloc"), "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "not enough memory"),
        (RuntimeError("can't start new thread"), "not enough memory"),
        (ModuleNotFoundError("No module named 'grain'"), "No module named 'grain'; .*pip install"),
        (RuntimeError("Unable to initialize backend 'cuda': no"), "'cuda': no; JAX_PLATFORMS=cpu"),
        (RuntimeError("Could not determine home directory."), "~.*--machine.prepared_dir"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "not readable as UTF-8"),
    ],
)
def test_what_the_machine_lacks_is_one_message(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, text = ends(error, monkeypatch, capsys)
    assert code == 2 and re.search(message, text) and text.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("predict", "--eval.window 513 513"),
        ("evaluate", "--task.resize=fit"),
        ("train", "--train.accumulate"),
        ("study", "--model.remat=units"),
    ],
)
def test_out_of_memory_names_what_helps(
    command: str, setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    error = jax.errors.JaxRuntimeError(XLA)
    code, text = ends(error, monkeypatch, capsys, command)
    assert code == 2 and setting in text


def test_a_fault_of_ours_leaves_its_line_and_where_its_trace_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, text = ends(ZeroDivisionError("division by zero"), monkeypatch, capsys)
    (trace,) = tmp_path.glob("deeplab_jax-*.txt")
    assert code == 1 and text.startswith("error: ZeroDivisionError: division by zero\n")
    assert str(trace) in text
    assert "in raising" in trace.read_text(encoding="utf-8")


def test_what_else_ends_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert ends(KeyboardInterrupt(), monkeypatch, capsys)[0] == 75
    assert ends(SystemExit(1), monkeypatch, capsys) == (1, "")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `dl` is the command line."""
    script = f'set -o pipefail; dl() {{ "{sys.executable}" -m deeplab_jax "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
    )


def test_output_that_cannot_be_written() -> None:
    full = shell("dl --help > /dev/full")
    assert full.returncode == 2
    assert full.stderr == "error: No space left on device; make room, or choose another folder\n"
    left = shell("dl train --help-all | true")
    assert (left.returncode, left.stderr) == (141, "")


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "C"],
)
def test_names_beyond_ascii_are_printed_with_escapes(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "stra\u00dfe.py").write_text("x = 'stra\u00dfe'\n1 / 0\n", encoding="utf-8")
    end = shell(f"dl train --config='{tmp_path}/stra\u00dfe.py'", **environment)
    assert end.returncode == 2 and "stra\\" in end.stderr
    assert "line 2: ZeroDivisionError" in end.stderr
    help_ = shell("dl train --help-all", **environment)
    assert help_.returncode == 0 and "--model.backbone" in help_.stdout


def test_without_a_home_nothing_is_kept_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    def kept() -> str | None:
        keep_compiled_programs()
        return os.environ.get("JAX_COMPILATION_CACHE_DIR")

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "here")  # which monkeypatch puts back
    assert kept() == "here"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").touch()
    for home in ("/dev/null", "/proc", str(tmp_path / "file")):
        monkeypatch.setenv("HOME", home)
        assert kept() is None
    with monkeypatch.context() as inside:
        inside.setattr(Path, "home", no_home)
        assert kept() is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept() == str(tmp_path / ".cache" / "deeplab_jax" / "xla")


def test_help_names_the_commands() -> None:
    out = shell("dl --help")
    assert out.returncode == 0
    assert all(f"\n  {c} " in out.stdout for c in COMMANDS)


LATE = ("jax", "numpy", "flax", "PIL", "tensorflow_datasets", "orbax", "grain")
WITHOUT = f"assert not {{*{LATE}}} & {{*sys.modules}}, sys.modules.keys()"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_no_jax(command: str) -> None:
    code = f"""
import sys
from deeplab_jax.__main__ import main
sys.argv = ["deeplab_jax", *"{command}".split(), "--help"]
try:
    main()
finally:
    {WITHOUT}
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


def test_importing_the_package_imports_what_is_used() -> None:
    code = f"""
import sys
import deeplab_jax
assert deeplab_jax.__version__ and issubclass(deeplab_jax.UserError, Exception)
assert {{"Config", "load", "build_model"}} <= {{*dir(deeplab_jax)}}
assert [m for m in sys.modules if m.startswith("deeplab_jax.")] == [
    "deeplab_jax.errors", "deeplab_jax.version"
]
from deeplab_jax import Config, DataConfig
from deeplab_jax.process import restart_with_huge_pages
{WITHOUT}
assert deeplab_jax.Config is Config
assert not hasattr(deeplab_jax, "Konfig")
assert callable(deeplab_jax.load) and callable(deeplab_jax.build_model)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_summary_of_the_paper_s_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = "summary --config=configs/voc.py --model.head=deeplabv3 --model.atrous_rates"
    monkeypatch.setattr(sys, "argv", ["deeplab_jax", *arguments.split(), "--size", "257", "321"])
    main()
    out = capsys.readouterr().out
    assert out.startswith("xception_65, deeplabv3: 21 classes, output stride 16")
    assert "one image of 257 x 321" in out and "exit_flow_block2" in out
    assert "aspp0" in out and "aspp1" not in out and "decoder0" not in out
    monkeypatch.setattr(sys, "argv", ["deeplab_jax", "summary", "--config=configs/voc.py"])
    main()
    lines = [" ".join(line.split()[:4]) for line in capsys.readouterr().out.splitlines()]
    assert "trainable parameters 41,055,413" in lines
    assert any(line.startswith("multiply-adds 54.04 B") for line in lines)
