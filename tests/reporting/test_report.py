"""Reports of hand-made folders: what stands in them; their looks were checked by eye."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deeplab_jax import Config, TrainConfig
from deeplab_jax.config import save_json
from deeplab_jax.reporting.metrics_file import read_metrics
from deeplab_jax.reporting.report import write_report, write_study

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS += ["--enable-logging=stderr"]
NAMES = ["sky", "<b>", 'a "quoted" & name']


class Page(HTMLParser):
    """The elements of a page, its text, and that every tag is closed."""

    VOID = ("meta", "img", "circle", "path", "polyline", "br")

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def count(self, tag: str, kind: str = "") -> int:
        return sum(t == tag and kind in (a.get("class") or "") for t, a in self.elements)

    def fetched(self) -> list[str]:
        values = [a.get(name) for _, a in self.elements for name in ("src", "href", "srcset")]
        return [v for v in values if v and not v.startswith("data:")]


def evaluation(folder: Path, classes: list[str], shown: list[int]) -> None:
    """What `write_evaluation` leaves, with numbers of our choice."""
    (folder / "images").mkdir(parents=True)
    count = len(classes)
    confusion = 7 * np.eye(count, dtype=int)
    confusion[0, 1] = 3
    result: dict[str, Any] = {
        "classes": classes,
        "colors": [[k % 256, 80, 90] for k in range(count)],
        "environment": {"jax": "1.2.3", "host cores": "2"},
        "eval/miou": 0.5,
        "eval/pixel_accuracy": 0.75,
        "eval/mean_accuracy": 0.625,
        "eval/frequency_weighted_iou": None,
        "eval/boundary_iou": 0.25,
        "protocol": {"output_stride": 8, "scales": [0.5, 1.0], "flip": True},
        "boundary": {"iou": dict.fromkeys(classes, 0.125) | {classes[-1]: None}},
        "trimaps": {"4": {"miou": 0.4321}, "1": {"miou": 0.3}},
        "confusion": confusion.tolist(),
        "image_accuracy": [0.9, None, 0.5, 0.7],
        "images": 4,
        "seconds": 3.0,
        "seconds_per_image": 0.5,
        "shown": [],
    }
    for index in shown:
        files = {w: f"{index}_{w}.png" for w in ("image", "truth", "prediction", "errors")}
        for file in files.values():
            Image.new("RGB", (24, 16), (90, 120, 60)).save(folder / "images" / file)
        result["shown"].append({"index": index, "id": f"<i>{index}", "caption": "", "files": files})
    (folder / "evaluation.json").write_text(json.dumps(result))
    save_json(Config(), folder / "config.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    evaluation(folder / "evaluation", NAMES, [0, 3, 2])
    save_json(
        Config(
            train=TrainConfig(pretrained="weights/<x>"),
        ),
        folder / "config.json",
    )
    rows: list[dict[str, float]] = [
        {"step": k, "loss": 2.0 / k, "learning_rate": 0.01, "images_per_second": 3, "data_wait": 0}
        for k in range(1, 50)
    ]
    rows.append({"step": 49, "eval/miou": 0.5, "eval/pixel_accuracy": float("nan")})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"ste')
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    values = [("8 <wide>", 91.25, 77.61), ("48", 93.5, None)]
    numbers = {
        "name": "width",
        "title": "Decoder & width",
        "about": "Table 1.",
        "columns": [
            {"key": "note", "label": "note", "paper": False},
            {"key": "paper", "label": "paper: mIoU", "paper": True},
            {"key": "miou", "label": "mIoU, %", "paper": False},
        ],
        "rows": [
            {"name": name, "values": {"note": "one", "miou": ours, "paper": theirs}}
            for name, ours, theirs in values
        ],
        "curves": [],
        "seconds": 120,
    }
    (folder / "study.json").write_text(json.dumps(numbers))
    return folder


def test_the_report_of_a_run(run: Path) -> None:
    page = Page(write_report(run))
    text = "".join(page.text)
    assert page.fetched() == [] and "url(" not in (run / "report.html").read_text()
    assert page.count("b") == 3 + 3 and "<b>" in text  # three bars, three captions
    assert page.count("img") == 12 and page.count("svg") == 3 + 1 + 2
    assert page.count("td", "bar") == 3 and page.count("table", "matrix") == 1
    for expected in ("50.00 %", "43.21", "Best", "Median", "Worst", "weights/<x>", "1.2.3"):
        assert expected in text
    assert "3.0 images a second" in text and "scales 0.5 1.0" in text
    cells = [a["title"] for tag, a in page.elements if tag == "td" and "title" in a]
    shares = ("70.00", "30.00", "0.00")
    assert cells[:3] == [f"sky taken for {n}: {s} %" for n, s in zip(NAMES, shares, strict=True)]
    assert text.index("pretrained") < text.index("workdir")  # what was changed comes first
    assert any(a.get("name") == "viewport" for _, a in page.elements)


def test_the_report_of_an_evaluation_with_very_many_classes(tmp_path: Path) -> None:
    """The matrix becomes a list of confusions; there are no curves."""
    evaluation(tmp_path / "out", [f"class {k}" for k in range(150)], [])
    page = Page(write_report(tmp_path / "out"))
    assert page.count("table", "matrix") == 0 and page.count("table", "confusions") == 1
    assert "Training" not in "".join(page.text) and page.count("svg") == 1


def test_the_report_of_a_study(study: Path) -> None:
    page = Page(write_study(study))
    text = "".join(page.text)
    assert page.fetched() == [] and "Decoder & width" in text and "8 <wide>" in text
    assert "Computed in 2 min 0 s." in text
    assert page.count("td", "paper") == 2 and "paper: mIoU" in text
    widths = [a["style"] for tag, a in page.elements if tag == "i"]
    assert widths == [f"width:{100 * 91.25 / 93.5:.2f}%", "width:100.00%"]  # of our mIoU
    numbers = json.loads((study / "study.json").read_text())
    curve = {"label": "v3 & co", "x": [1, 2, 4], "y": [0.5, None, 0.75]}
    (study / "study.json").write_text(json.dumps(numbers | {"curves": [curve, curve]}))
    page = Page(write_study(study))
    assert page.count("polyline") == 2 and page.count("circle") == 4
    assert "".join(page.text).count("v3 & co") == 2 and page.count("td", "bar") == 0


def test_whatever_a_log_holds_can_be_drawn(run: Path) -> None:
    """Nothing; one row; a step written twice, of which the later counts; a loss that exploded."""
    log = run / "metrics.jsonl"
    for rows in (
        [{"step": 1, "eval/miou": 0.0}],
        [{"step": 2, "loss": 5.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 4.0}],
        [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": float("inf")}],
    ):
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert read_metrics(log)[0]["step"] in (1, 2)
        page = Page(write_report(run))
        titles = [text for text in page.text if text.startswith("2: ")]
        assert titles == (["2: 4"] if len(rows) == 3 else [])


@pytest.mark.skipif(CHROMIUM is None, reason="needs headless Chromium (apt install chromium)")
@pytest.mark.parametrize("size", ["1200,900", "390,800"])
def test_a_browser_shows_it_without_complaint(run: Path, tmp_path: Path, size: str) -> None:
    assert CHROMIUM is not None
    image = tmp_path / "shot.png"
    where = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size}"]
    command = [CHROMIUM, *FLAGS, *where, f"--screenshot={image}", write_report(run).as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    with Image.open(image) as shot:
        assert np.asarray(shot.convert("L")).std() > 5


def test_names_that_are_no_text_are_written_with_escapes(study: Path) -> None:
    numbers = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(numbers | {"title": "caf\u00e9 \udce9.jpg"}))
    assert "<h1>caf\u00e9 \\udce9.jpg</h1>" in write_study(study).read_text(encoding="utf-8")
