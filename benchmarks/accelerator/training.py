"""Real trainings at full width, by the command that users run, on CamVid and a part of VOC."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.accelerator.measure import ROOT, SHARED, Entry

WEIGHTS = SHARED / "weights" / "mobilenet_v2_1.0_224_imagenet_ptq_dequant.npz"
SHORT = (
    "--model.dtype=bfloat16 --train.batch_size=16 --train.steps=1500 --machine.eval_every=750"
    " --machine.checkpoint_every=1500 --machine.log_every=50"
)
FRESH = "--config=camvid --train.reestimate_batch_norm=False --model.backbone="
RUNS = {  # name: data, flags
    "camvid xception_65": ("camvid", f"{FRESH}xception_65"),
    "camvid resnet_v1_50": ("camvid", f"{FRESH}resnet_v1_50"),
    "camvid mobilenet_v2": ("camvid", "--config=camvid"),
    "voc xception_65": ("VOCdevkit", "--config=voc --data.train_split=train"),
}
PREDICTED = "waiting under 0.05; mIoU above 0.5 on CamVid, low on VOC: no pretrained weights"


def train(name: str, data: Path, flags: list[str], out: Path, left: float) -> dict[str, Any]:
    """One run: its rate, its share of time waiting for data, its scores; the report is kept."""
    if not data.exists():
        return {"error": f"{data} is not here"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "deeplab_jax"]
        if "mobilenet" in name and WEIGHTS.exists():
            convert = ["convert", str(WEIGHTS), "--out", f"{folder}/weights", "--backbone-only"]
            subprocess.run([*command, *convert], cwd=ROOT, check=True)
            flags = [*flags, f"--pretrained={folder}/weights"]
        run = Path(folder, "run")
        command += ["train", str(data), *flags, f"--workdir={run}"]
        done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=left)
        if done.returncode:
            raise RuntimeError(done.stderr[-1500:])
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        shutil.copy(run / "report.html", out / f"{name.replace(' ', '_')}.html")
    rows = [json.loads(line) for line in lines]
    rates = [row for row in rows if "data_wait" in row][1:] or rows[:1]  # the first has the compile
    return {
        "images/s": statistics.median(row["images_per_second"] for row in rates),
        "waiting": statistics.median(row["data_wait"] for row in rates),
        "mIoU": [row["eval/miou"] for row in rows if "eval/miou" in row][-1],
        "details": rows,
    }


def entries(out: Path, *, dry: bool) -> list[Entry]:
    if dry:
        sys.path.append(str(ROOT / "tests"))
        import synthetic

        data = out / "squares"
        synthetic.write_squares(data, {"train": 4, "val": 2})
        tiny = "--model.backbone=unet --model.head=unet --model.width=0.06 --data.crop_size=33x33"
        flags = f"{tiny} --train.steps=2 --train.batch_size=2 --machine.log_every=1".split()
        return [Entry("squares", "dry", partial(train, "squares", data, flags, out))]
    return [
        Entry(
            name,
            PREDICTED,
            partial(train, name, SHARED / "data" / data, [*flags.split(), *SHORT.split()], out),
        )
        for name, (data, flags) in RUNS.items()
    ]
