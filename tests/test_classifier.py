"""A classifier: a label an image all the way, and its weights start a segmentation model."""

import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import TINY_MODEL
from official import shared
from PIL import Image

import deeplab_jax
from deeplab_jax import (
    Config,
    DataConfig,
    EvalConfig,
    MachineConfig,
    OptimConfig,
    TrainConfig,
    UserError,
)
from deeplab_jax.cli import convert, evaluate, predict
from deeplab_jax.data.batches import eval_batches, plan_evaluation, train_batches
from deeplab_jax.data.checks import check_data
from deeplab_jax.data.settle import open_split
from deeplab_jax.data.source import NO_CLASS
from deeplab_jax.inference.metrics import confusion_matrix
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.reporting.metrics_file import read_metrics
from deeplab_jax.training.loop import fit
from deeplab_jax.training.losses import pixel_losses
from deeplab_jax.training.start import initial_variables
from deeplab_jax.weights.files import load_weights

WORDNET_IDS = ("n01", "n02", "n03")
COLORS = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200)])


def noise_image(seed: int) -> tuple[np.ndarray, int]:
    """A noisy red, green or blue image of any size, and its class."""
    rng = np.random.default_rng(seed)
    size = rng.integers(30, 60, 2)
    image = COLORS[seed % 3] + rng.integers(-50, 50, (*size, 3))
    return image.astype(np.uint8), seed % 3


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS's data set in small: its features, of three classes."""

    VERSION = tfds.builder_cls("imagenet2012").VERSION
    code_path = None
    pkg_dir_path = Path(__file__).parent  # where TFDS looks for README.md and such

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=WORDNET_IDS),
            "file_name": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: object) -> dict[str, Any]:
        counts = {"train": 30, "validation": 11, "test": 1}
        return {split: self._generate_examples(split, n) for split, n in counts.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for seed in range(count):
            image, label = noise_image(seed)
            jpeg = io.BytesIO()
            Image.fromarray(image).save(jpeg, "JPEG")
            name = f"{WORDNET_IDS[label]}_{seed}.JPEG"
            label = -1 if split == "test" else label  # as TFDS does
            yield name, {"image": jpeg.getvalue(), "label": label, "file_name": name}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("imagenet")
    Imagenet2012(data_dir=str(root)).download_and_prepare(file_format="array_record")
    return Config(
        model=dataclasses.replace(
            TINY_MODEL, head="classifier", output_stride=32, batch_norm_decay=0.8
        ),
        data=DataConfig(source="imagenet2012", crop_size=(33, 33)),
        optim=OptimConfig(learning_rate=0.01, nesterov=True, schedule="step", decay_steps=20),
        train=TrainConfig(steps=40, batch_size=16),
        eval=EvalConfig(batch_size=8, images=2),
        machine=MachineConfig(
            workdir=str(root / "run"), root="nowhere", prepared_dir=str(root), eval_every=20
        ),
    )


@pytest.fixture(scope="module")
def run(config: Config) -> Path:
    """A whole run, on one device, which compiles faster than eight."""
    with pytest.MonkeyPatch.context() as patch:
        one = device_mesh(devices=jax.devices()[:1])
        patch.setattr("deeplab_jax.training.loop.device_mesh", lambda shape: one)
        fit(config)
    return Path(config.machine.workdir)


def test_a_classifier_learns(run: Path) -> None:
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "eval/miou" in row]
    assert rows[-1]["eval/pixel_accuracy"] >= 0.9
    assert len((run / "evaluation" / "per_class.txt").read_text().splitlines()) == 1 + 3 + 1
    with Image.open(run / "evaluation" / "predictions.png") as sheet:
        assert sheet.size[0] > 100


def test_evaluate_and_predict(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(["--weights", str(run), "--out", str(tmp_path)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("accuracy ") and "11 images" in printed[-1]
    image, class_id = noise_image(1000)
    assert deeplab_jax.load(run).predict(image).tolist() == [[class_id]]
    Image.fromarray(image).save(tmp_path / "a.png")
    predict([str(tmp_path / "a.png"), "--weights", str(run)])
    line = capsys.readouterr().out
    assert line.startswith(f"a.png: {WORDNET_IDS[class_id]} ") and line.count("%") == 3


def test_its_backbone_starts_a_segmentation_model(
    run: Path, tiny_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though both have three classes: the last layers have other inputs and another meaning."""
    start = dataclasses.replace(tiny_config.train, pretrained=str(run))
    config = dataclasses.replace(tiny_config, model=TINY_MODEL, train=start)
    source = open_split(config, "train")
    variables = initial_variables(config, source)
    theirs = load_weights(run).variables
    for collection in ("params", "batch_stats"):
        taken = {k: v for k, v in theirs[collection]["backbone"].items() if k != "Conv_1"}
        jax.tree.map(np.testing.assert_array_equal, variables[collection]["backbone"], taken)
    assert variables["params"]["logits"]["kernel"].shape == (1, 1, 8, 3)
    assert "backbone; left out: logits" in capsys.readouterr().err


def test_one_class_more_is_a_background(config: Config) -> None:
    """The official networks have 1001 classes, 0 for none of the 1000."""
    model = dataclasses.replace(config.model, num_classes=4)
    more = dataclasses.replace(config, model=model)
    ours, official = (open_split(c, "train") for c in (config, more))
    assert official.class_names == ("background", *WORDNET_IDS) == ("background", *ours.class_names)
    assert [official[i]["label"] - ours[i]["label"] for i in range(3)] == [[[1]]] * 3
    for source, example in ((ours, ours[0]), (official, official[0])):
        assert source.class_names[example["label"].item()] == example["id"][:3]


def test_batches_have_one_label_a_image(config: Config) -> None:
    source = open_split(config, "validation")
    task = dataclasses.replace(config.task, eval_size=(33, 33))
    plan = plan_evaluation(source, config.model, task, batch_size=8)
    first, last = eval_batches(source, task, plan)
    assert first["image"].shape == (8, 33, 33, 3) and first["label"].dtype == np.uint16
    assert last["label"].shape == (8, 1, 1) and last["label"].dtype == np.uint16
    assert last["label"].ravel().tolist()[3:] == [NO_CLASS] * 5
    batch, again = (next(train_batches(source, config, start_step=3)) for _ in range(2))
    assert batch["label"].shape == (16, 1, 1) and batch["label"].dtype == np.uint16
    np.testing.assert_array_equal(batch["image"], again["image"])


def test_class_255_is_learned_and_counted() -> None:
    """255 is the ignored label of masks; a thousand classes need it."""
    label = jnp.array([[[255]], [[NO_CLASS]], [[999]]])
    losses, valid = pixel_losses(jnp.zeros((3, 1, 1, 1000)), label, NO_CLASS)
    assert valid.ravel().tolist() == [True, False, True]
    np.testing.assert_allclose(losses.ravel(), np.log([1000, 1, 1000]), rtol=1e-6)
    counts = confusion_matrix(label, jnp.full((3, 1, 1), 255), 1000, NO_CLASS)
    assert counts.sum() == 2 and counts[255, 255] == counts[999, 255] == 1


def test_a_split_without_labels(config: Config) -> None:
    with pytest.raises(UserError, match=r"n01_0.JPEG: the split 'test' has no labels"):
        open_split(config, "test")[0]


def test_head_and_source_must_agree(config: Config) -> None:
    with pytest.raises(UserError, match=r"'deeplabv3plus' does not fit .* 'imagenet2012'"):
        open_split(dataclasses.replace(config, model=TINY_MODEL), "train")
    with pytest.raises(UserError, match=r"'classifier' does not fit .* 'scenes'"):
        open_split(Config(model=config.model), "train")


def test_its_data_can_be_checked(config: Config, tmp_path: Path) -> None:
    text, sound = check_data(config, tmp_path)
    assert sound and "train: 30 images, 30 of them sound" in text
    assert re.search(r"^n02 +33\.333 +10 +36\.364 +4$", text, re.MULTILINE)
    assert "JPEG RGB (30)" in text and "suggestions: none" in text
    assert {path.name for path in tmp_path.iterdir()} == {"problems.txt", "data.json"}


def test_imagenet_that_is_not_prepared(config: Config, tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_img_val.tar").touch()
    here = str(tmp_path)
    machine = dataclasses.replace(config.machine, root=here, prepared_dir=here)
    with pytest.raises(UserError, match=r"lacks ILSVRC2012_img_train.tar: register at https://"):
        open_split(dataclasses.replace(config, machine=machine), "train")


def test_an_official_classifier_knows_the_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1001 classes; tabby 281, Egyptian cat 285, macaw 88, Boston bull 195, plus the background."""
    source = shared("weights", "mobilenet_v2_1.0_224_imagenet_ptq_dequant.npz")
    convert(
        f"{source} --out {tmp_path} --model.backbone=mobilenet_v2 --model.head=classifier"
        " --model.num_classes=1001 --model.output_stride=32 --task.eval_size 224 224".split()
    )
    capsys.readouterr()
    predict([str(shared("photos")), "--weights", str(tmp_path)])
    out = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in out if "%" in line]
    best = {name: int(number) - 1 for name, _, number, *_ in lines}
    assert best["cat_720p.jpg:"] in (281, 285)
    assert best["parrot.jpg:"] == 88 and best["pets.jpg:"] == 195
