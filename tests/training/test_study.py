"""Studies: what they leave, that only what is missing is run, and that the paper's are possible."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deeplab_jax import Config, UserError
from deeplab_jax.cli import study as study_command
from deeplab_jax.config import load_config_file, save_json
from deeplab_jax.config.files import names_of
from deeplab_jax.config.presets import PRESETS
from deeplab_jax.models.summary import parameters
from deeplab_jax.training import study
from deeplab_jax.training.study import Row, Study, changed, load_study, summarise

PAPER = [name.replace("_", "-") for name in names_of("studies") if name != "recipe"]
MY_STUDY = """
from deeplab_jax.config import load_config_file
from deeplab_jax.training.study import Row, Study

def get_config():
    return load_config_file("BASE")

def get_study(base):
    larger = {"data.min_scale": 1.0}
    return Study(
        "scales", "Scales of training", "Are small ones of use?", base,
        (
            Row("all", paper={"Table 0": 50.0}),
            Row("large", larger),
            Row("large, seen twice", larger, {"eval.flip": True}),
        ),
        ("miou", "trimap_2", "parameters"),
    )
"""


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that `fit` is called for, while it works as ever."""
    runs, fit = [], study.fit

    def counted(config: Config) -> Any:
        runs.append("/".join(Path(config.machine.workdir).parts[-2:]))
        return fit(config)

    monkeypatch.setattr(study, "fit", counted)
    return runs


def test_a_study_of_ones_own_runs_only_what_is_missing(
    tiny_config: Config, tmp_path: Path, fitted: list[str], capsys: pytest.CaptureFixture
) -> None:
    from_data = {"model.num_classes": None, "data.crop_size": None}
    base = changed(tiny_config, {"eval.trimap_widths": (2, 4), **from_data})
    save_json(base, tmp_path / "base.json")
    file, out = tmp_path / "my_study.py", tmp_path / "out"
    file.write_text(MY_STUDY.replace("BASE", str(tmp_path / "base.json")))
    command = [str(file), f"--out={out}", "--steps=2", "--train.batch_size=8"]
    study_command(command)
    assert fitted == ["all/seed1", "large/seed1"]  # the third row looks at the second's weights
    printed = capsys.readouterr().out
    assert "| large, seen twice |" in printed and "pixel accuracy" not in printed
    summary = json.loads((out / "study.json").read_text())
    assert [(c["key"], c["paper"]) for c in summary["columns"]] == [
        ("miou", False),
        ("trimap_2", False),
        ("parameters", False),
        ("paper: Table 0", True),
    ]
    first, second, third = (row["values"] for row in summary["rows"])
    assert first["paper: Table 0"] == 50 and second["paper: Table 0"] is None
    own = json.loads((out / "all" / "seed1" / "evaluation" / "evaluation.json").read_text())
    assert first["miou"] == 100 * own["eval/miou"]
    assert first["trimap_2"] == 100 * own["trimaps"]["2"]["miou"]
    three_classes = parameters(tiny_config.model) / 1e6
    assert [r["parameters"] for r in (first, second, third)] == [three_classes] * 3
    assert [(c["label"], c["x"]) for c in summary["curves"]][1] == ("large", [2, 4])
    assert (out / "all" / "seed1" / "evaluation" / "predictions.png").exists()
    assert "| all " in (out / "table.md").read_text()

    fitted.clear()
    shutil.rmtree(out / "all" / "seed1" / "evaluation")
    study_command(command)
    assert fitted == ["all/seed1"]
    again = json.loads((out / "study.json").read_text())
    assert again["rows"] == summary["rows"] and again["seconds"] > summary["seconds"]

    fitted.clear()
    with pytest.raises(UserError, match=r"train.steps: there 2, now 3"):
        study_command([*command, "--steps=3"])
    with pytest.raises(UserError, match=r"train.class_weights: there \[\], now \[1.0, 1.0, 2.0\]"):
        study_command([*command, "--train.class_weights", "1", "1", "2"])
    assert fitted == []


def test_several_seeds_are_averaged_and_their_spread_shown(tiny_config: Config) -> None:
    chosen = Study("s", "S", "", tiny_config, (Row("a"), Row("b")), ("miou", "parameters"))
    results = {"a": [{"miou": x, "parameters": 2.0} for x in (25.0, 50.0)], "b": []}
    summary = summarise(chosen, results, seeds=2, seconds=1)
    a, b = (row["values"] for row in summary["rows"])
    assert a["miou"] == 37.5 and a["miou_spread"] == "25.00 to 50.00 (2)"
    assert set(b.values()) == {None} and set(b) == {"miou", "miou_spread", "parameters"}
    assert summary["curves"] == []
    seeds = [chosen.run_config(chosen.rows[0], Path("out"), seed) for seed in (0, 1)]
    assert [c.machine.workdir for c in seeds] == ["out/a/seed1", "out/a/seed2"]
    assert seeds[1] == dataclasses.replace(
        seeds[0],
        machine=seeds[1].machine,
        train=dataclasses.replace(seeds[0].train, seed=2),
    )


def test_the_paper_s_studies_ship_and_vary_scenes_by_default() -> None:
    names = {"aspp", "decoder-convs", "decoder-width", "low-level", "output-stride", "trimap"}
    assert set(PAPER) == names
    base = changed(load_config_file("scenes"), {"train.steps": 7})
    assert load_study("aspp", None, ["--train.steps=7"]).base == base


@pytest.mark.parametrize("config", ["scenes", "voc"])
@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_studies_are_possible(name: str, config: str) -> None:
    """Each row is a valid experiment, and no two train the same; the paper is quoted for most."""
    chosen = load_study(name, config, [])
    assert chosen.name == name
    assert load_study(name.replace("-", "_"), config, []) == chosen
    trained = [chosen.run_config(row, Path("out")) for row in chosen.rows]
    networks = {c.machine.workdir: c.model for c in trained}
    assert len(set(networks.values())) == len(networks)
    assert any(row.paper for row in chosen.rows)


def test_each_part_of_the_preset_is_left_out_once() -> None:
    paper, small, *others = load_study("recipe", None, []).rows
    assert set(paper.changes) == set(small.changes) == set(PRESETS["small"].fields)
    for name in small.changes:
        assert small.changes[name] != paper.changes[name]
        assert sum(row.changes[name] == paper.changes[name] for row in others) == 1


def test_the_paper_s_multiply_adds_of_several_views() -> None:
    """Table 5: 54.17 B once, 928.81 B with six scales and flip at output stride 16."""
    chosen = load_study("output-stride", "voc", [])
    row = next(r for r in chosen.rows if r.name == "v3+ 16/16 MS flip")
    config = changed(chosen.run_config(row), row.evaluation)
    padded = study.measure("padded_multiply_adds", {}, config)
    assert padded == pytest.approx(928.81, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decoder-widht"], "did you mean 'decoder-width'"),
        (["nowhere.py"], "nowhere.py: no such Python file"),
        (["trimap", "--seeds=0"], "--seeds = 0"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        study_command([*arguments, f"--out={tmp_path}"])


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([Row("a", {"model.widht": 2})], ["miou"], "row 'a': model.widht.*did you mean 'width'"),
        ([Row("a", {"modle.width": 2})], ["miou"], "did you mean 'model'"),
        ([Row("a", {"workdir.x": 2})], ["miou"], "workdir: there is no such field"),
        ([Row("a", {"machine.workdir.x": 2})], ["miou"], "did you mean 'workdir'"),
        ([Row("a", {"model": 2})], ["miou"], "row 'a': model"),
        ([Row("a", {"model.output_stride": 7})], ["miou"], "output_stride = 7"),
        ([Row("a", {}, {"model.width": 2.0})], ["miou"], "'model.width' is not possible"),
        ([Row("a"), Row("A")], ["miou"], "a name, and so a folder, of its own"),
        ([], ["miou"], "one Row or more"),
        ([Row("a")], ["mious"], "did you mean 'miou'"),
        ([Row("a")], ["trimap_3"], "study.columns = 'trimap_3'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(
    tiny_config: Config, rows: list[Row], columns: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Study("s", "S", "", tiny_config, tuple(rows), tuple(columns))
