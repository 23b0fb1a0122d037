"""Model cards: what they say of a run, of weights alone, and that what somebody wrote goes on."""

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deeplab_jax import Config, DataConfig, MachineConfig, ModelConfig, TrainConfig, UserError
from deeplab_jax.config import TaskConfig, save_json
from deeplab_jax.reporting.card import model_card, read_card

NAMES = ("sky", "<b>|x", "tree\n# no heading")
TASK = TaskConfig(classes=NAMES, colors=((0, 0, 0), (255, 0, 16), (4, 5, 6)), eval_size=(65, 97))
MODEL = ModelConfig(num_classes=3)


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """The best weights of a run, which a card needs only the age of."""
    run = tmp_path / "run"
    for folder in ("best", "evaluation"):
        (run / folder).mkdir(parents=True)
    machine = MachineConfig(root=str(tmp_path / "secret" / "my_data"))
    config = Config(
        MODEL,
        TASK,
        DataConfig(source="folder", eval_split="val"),
        train=TrainConfig(steps=4000, pretrained="/home/me/.cache/mobilenetv2_imagenet"),
        machine=machine,
    )
    save_json(config, run / "config.json")
    save_json(config, run / "evaluation" / "config.json")
    (run / "metrics.jsonl").touch()
    (run / "best" / "model.safetensors").touch()
    result = {
        "classes": list(NAMES),
        "confusion": [[9, 1, 0], [0, 5, 5], [0, 0, 0]],
        "eval/miou": 0.61235,
        "eval/pixel_accuracy": 0.7,
        "eval/mean_accuracy": None,
        "images": 1234,
        "protocol": {"output_stride": 16, "scales": [0.5, 1.0], "flip": True},
    }
    (run / "evaluation" / "evaluation.json").write_text(json.dumps(result))
    return run / "best"


def card(
    folder: Path | None = None,
    name: str = "alice/leaves",
    model: ModelConfig = MODEL,
    licence: str | None = None,
    note: Any = {"step": 3500, "value": 0.6},  # noqa: B006
) -> str:
    return model_card(name, model, TASK, folder, note=note, licence=licence)


def front(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_a_run_s_report_is_in_its_card(best: Path, tmp_path: Path) -> None:
    text = card(best)
    assert "| data | my_data, train |" in text and "| started from | mobilenetv2_imagenet |" in text
    assert "| steps | 4,000 of 16 images" in text and "| of step 3,500, the best" in text
    assert "1,234 images of my_data, val: mIoU 61.23 %, pixel accuracy 70.00 %, mean" in text
    assert "scales 0.5 1.0, with the mirror image" in text
    assert "| 0 | sky | `#000000` | 90.00 | 90.00 | 100.00 |" in text
    assert "| 2 | tree # no heading | `#040506` | – |" in text  # the truth has none
    assert r"| 1 | &lt;b&gt;\|x | `#ff0010` |" in text
    assert str(tmp_path) not in text and "/home" not in text
    [result] = front(text)["model-index"][0]["results"]
    assert result["dataset"] == {"name": "my_data", "type": "my_data", "split": "val"}
    scores = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert scores == {"mean_iou": 0.6123, "accuracy": 0.7}


def test_scores_of_weights_before_are_left_out(best: Path) -> None:
    os.utime(best / "model.safetensors", (2**32, 2**32))
    text = card(best)
    assert "61.23" not in text and "model-index" not in text
    assert "60.00 % mIoU when it was trained" in text and "my_data, train" in text


def test_a_card_says_how_to_load(best: Path) -> None:
    """In code that is code, for every kind of image and folder."""
    for channels in (1, 3, 4):
        for name in ("alice/leaves", 'a "folder" of mine'):
            text = card(name=name, model=ModelConfig(num_classes=3, channels=channels))
            code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
            assert code is not None
            calls = [n for n in ast.walk(ast.parse(code[1])) if isinstance(n, ast.Call)]
            loads = [c for c in calls if ast.unparse(c.func) == "deeplab_jax.from_pretrained"]
            assert [ast.literal_eval(c.args[0]) for c in loads] == [name]
            assert f"u8[h, w, {channels}]" in code[1]
    assert "--weights alice/leaves\n" in card() and "pip install" in card()


@pytest.mark.parametrize("note", [{}, {"step": "x", "value": ["y"]}, {"value": None}])
def test_weights_alone_have_a_card(note: Any) -> None:
    text = card(note=note)
    assert front(text) == {
        "library_name": "deeplab_jax",
        "pipeline_tag": "image-segmentation",
        "license": "unknown",
        "tags": ["jax", "flax", "deeplabv3plus", "xception_65"],
    }
    assert "say it with --licence" in text and "Not known here." in text
    assert "padded to 65 x 97 pixels" in text and "## Training" not in text


def test_a_classifier_s_card(best: Path) -> None:
    text = card(best, model=ModelConfig(head="classifier", num_classes=3))
    metrics = front(text)["model-index"][0]["results"][0]["metrics"]
    assert front(text)["pipeline_tag"] == "image-classification"
    assert metrics == [{"type": "accuracy", "name": "accuracy", "value": 0.7}]
    assert "mIoU" not in text and "predict(image)[0, 0]" in text


def test_what_somebody_wrote_goes_on_under_another_name(best: Path, tmp_path: Path) -> None:
    folder = tmp_path / "leaves"
    folder.mkdir()
    own = "## Limits\n\nOnly leaves, of trees. The name leaves stays here.\n"
    (folder / "README.md").write_text(card(best, name="leaves") + own, encoding="utf-8")
    text = card(folder, name="bob/trees", licence="cc0-1.0")
    assert text == card(best, name="bob/trees", licence="cc0-1.0") + own
    assert front(card(folder, name="bob/trees"))["license"] == "unknown"
    (folder / "README.md").write_text("---\nlibrary_name: deeplab_jax\n---\n")
    with pytest.raises(UserError, match="no line `license:` for it"):
        card(folder, licence="mit")


def test_a_readme_of_something_else_is_none(tmp_path: Path) -> None:
    for content in (b"# My project\n", b"\xff\xfe", b"library_name: deeplab_jax"):
        (tmp_path / "README.md").write_bytes(content)
        assert read_card(tmp_path) == ""
    assert card(tmp_path) == card()


@pytest.mark.parametrize("licence", ["", "CC BY 4.0", "mit\nx: y"])
def test_a_licence_is_written_as_the_hub_does(licence: str) -> None:
    with pytest.raises(UserError, match=r"licence = .*: write one of the Hub's identifiers"):
        card(licence=licence)
