"""A user's mistake ends in one message and exit code 2, before anything is computed."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from synthetic import write_squares

from deeplab_jax.__main__ import main

ROOT = Path(__file__).resolve().parents[1]


def fails(arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    monkeypatch.setattr(sys, "argv", ["deeplab_jax", *arguments.split()])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tran", "no command 'tran'"),
        ("train --config=configs/none.py", "configs/none.py: no such file"),
        ("train --config=configs/camvid.py --data.root=nowhere", "nowhere is missing"),
        ("train --model.output_stride=7", "model.output_stride = 7"),
        ("train --train.batch_size=3", "train.batch_size = 3 cannot be split over 8 devices"),
        ("check-data --config=configs/camvid.py --data.root=nowhere", "nowhere is missing"),
        ("evaluate --weights nowhere", "nowhere: no model.safetensors"),
        ("predict nowhere --weights nowhere --out x", "nowhere: no such file or folder"),
        ("predict configs --weights x --out x --format pdf", "invalid choice: 'pdf'"),
        ("train --eval.scales 0.5 -1", "eval.scales = (0.5, -1.0) is not possible: one number"),
        ("train --eval.window 100 100", "eval.window = (100, 100) is not possible"),
        ("convert nowhere --out x", "nowhere: no checkpoint there"),
        ("summary --size 16 513", "size = (16, 513) is not possible: height and width, each"),
        ("summary --size 513", "argument --size: expected 2 arguments"),
        ("summary --model.widht=0.5", "--model.widht"),
        ("convert model.pth --out x", "model.pth: a pickle can run code"),
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
        f"train --config=configs/camvid.py --data.root={tmp_path} --model.num_classes=3"
        " --train.class_weights --data.ignore_label=255",
        monkeypatch,
        capsys,
    )
    assert "p01.png" in error and "9" in error and "0 to 2" in error


def test_help_names_the_commands(capsys: pytest.CaptureFixture, monkeypatch: object) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "deeplab_jax", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert out.returncode == 0
    assert all(
        c in out.stdout
        for c in (
            *("train", "check-data", "evaluate", "study", "predict", "convert", "export-tf"),
            "summary",
        )
    )


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
