"""The weights that a run starts from, and the network that follows from them."""

import dataclasses
from pathlib import Path

import pytest
from conftest import TINY_MODEL, TINY_UNET
from flax.traverse_util import flatten_dict
from synthetic import random_variables

from deeplab_jax import Config, ModelConfig, TaskConfig, UserError
from deeplab_jax.arguments import Parser, read_recipe
from deeplab_jax.data.settle import open_split
from deeplab_jax.training import start
from deeplab_jax.training.start import initial_variables
from deeplab_jax.weights.files import Weights, save_weights

CLASSES = TaskConfig(classes=("a", "b", "c"), colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def save(folder: Path, model: ModelConfig) -> str:
    task = TaskConfig(classes=tuple(f"class {i}" for i in range(model.classes)))
    save_weights(folder, Weights(model, task, random_variables(model)))
    return str(folder)


def read(root: str, *flags: str) -> Config:
    parser = Parser("train", "")
    parser.add_data()
    parser.add_preset()
    args, changes = parser.read([root, *flags])
    return read_recipe(args, changes, trains=True)


def test_the_network_follows_from_the_weights(tiny_config: Config, tmp_path: Path) -> None:
    theirs = dataclasses.replace(TINY_MODEL, dtype="bfloat16", batch_norm_decay=0.5)
    weights, root = save(tmp_path / "w", theirs), tiny_config.machine.root
    config = read(root, f"--pretrained={weights}", "--model.output_stride=8")
    assert config.train.pretrained == weights
    assert config.model == dataclasses.replace(
        TINY_MODEL,
        num_classes=None,
        output_stride=8,  # a flag has the last word
        batch_norm_decay=0.95,
        dtype="auto",
    )
    named = read(root, "--config=folder", f"--pretrained={weights}")
    assert named.model.width == 1.0  # of a configuration, the network is named
    assert read(root, "--preset=paper").model == named.model
    with pytest.raises(UserError, match=r"nowhere: no model\.safetensors"):
        read(root, "--pretrained", "nowhere")


def test_a_classifier_gets_a_head(tiny_config: Config, tmp_path: Path) -> None:
    classifier = ModelConfig(
        backbone="mobilenet_v2", head="classifier", width=0.1, num_classes=1001, output_stride=32
    )
    weights = save(tmp_path / "w", classifier)
    model = read(tiny_config.machine.root, f"--pretrained={weights}").model
    assert (model.head, model.width, model.output_stride) == ("deeplabv3plus", 0.1, 16)
    assert model.mobilenet_endpoints == "official" and model.head_init == "official"


def test_weights_at_hand_are_taken_unless_refused(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = tiny_config.machine.root
    assert read(root).train.pretrained == ""
    at_hand = save(tmp_path / "deeplab_jax" / "weights" / "mobilenetv2_imagenet", TINY_MODEL)
    assert read(root).train.pretrained == at_hand and read(root).model.width == TINY_MODEL.width
    assert read(root, "--pretrained=").train.pretrained == ""


def test_a_start_from_nothing_is_said(
    tiny_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    initial_variables(tiny_config, open_split(tiny_config, "train"))
    assert "random weights" in capsys.readouterr().err


def test_folded_batch_norm_is_measured_unless_refused(
    tiny_config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start, "reestimate_batch_norm", lambda *_: "measured")
    folded, real = (random_variables(TINY_UNET) for _ in range(2))
    next(iter(flatten_dict(real["batch_stats"]["backbone"]).values()))[:] += 0.1
    source = open_split(tiny_config, "train")
    for variables, asked, measured in (
        (folded, None, True),
        (folded, False, False),
        (real, None, False),
        (real, True, True),
    ):
        save_weights(tmp_path / "w", Weights(TINY_UNET, CLASSES, variables))
        train = {"pretrained": str(tmp_path / "w"), "reestimate_batch_norm": asked}
        config = dataclasses.replace(
            tiny_config, train=dataclasses.replace(tiny_config.train, **train)
        )
        assert (initial_variables(config, source) == "measured") == measured
        told = "BatchNorm is folded" in capsys.readouterr().err
        assert told == (variables is folded and asked is None)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (ModelConfig(backbone="resnet_50"), ModelConfig(backbone="resnet_v1_50")),
        (TINY_MODEL, dataclasses.replace(TINY_MODEL, mobilenet_form="torch")),
    ],
)
def test_weights_of_another_form_are_refused_though_they_fit(
    theirs: ModelConfig, ours: ModelConfig
) -> None:
    start.check_form(theirs, theirs, "w")
    with pytest.raises(UserError, match=f"'w' has another form .* = {theirs.backbone}, "):
        start.check_form(theirs, ours, "w")
