"""Evaluation against a plain NumPy one, and the real weights against their known score."""

import dataclasses
import json
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import official
import pytest
from conftest import TINY_MODEL
from PIL import Image
from synthetic import random_variables, square_image

from deeplab_jax import Config, DataConfig, EvalConfig, MeshConfig, TaskConfig, UserError
from deeplab_jax.cli import convert, evaluate
from deeplab_jax.config import load_json, override, save_json
from deeplab_jax.data.batches import Row
from deeplab_jax.data.decode import decode_image
from deeplab_jax.data.settle import open_split
from deeplab_jax.inference.evaluate import Evaluator, average_seconds, choose_images
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.inference.results import on_data, write_evaluation
from deeplab_jax.parallel.mesh import device_mesh, place
from deeplab_jax.weights.files import Weights, load_weights, save_weights


@pytest.mark.parametrize("resize", ["keep", "fit"])
def test_counts_equal_a_plain_evaluation(tiny_config: Config, tmp_path: Path, resize: str) -> None:
    """Five images, batches of eight over eight devices: every pixel counted once, at its size."""
    task = TaskConfig(resize=resize, eval_size=(65, 65))
    config = dataclasses.replace(tiny_config, task=task)
    source = open_split(config, "val")
    variables = random_variables(config.model)
    mesh = device_mesh()
    result = Evaluator(config, source, mesh)(place(variables, mesh))

    predictor = Predictor(Weights(config.model, task, variables))
    slow = np.zeros((3, 3), int)
    for example in (source[i] for i in range(len(source))):
        prediction = predictor.predict(decode_image(example["image"], example["id"]))
        valid = example["label"] != 255
        np.add.at(slow, (example["label"][valid], prediction[valid]), 1)
    differing = np.abs(result.confusion - slow).sum()
    assert differing <= 0.002 * slow.sum()  # ties of float32 argmax between batch sizes
    assert result.confusion.sum() == slow.sum()

    table = write_evaluation(result, source, tmp_path)
    means = next(line for line in table.splitlines() if line.startswith("mean "))
    assert f"{100 * result.scores.miou:.2f}" in means
    assert (tmp_path / "predictions.png").stat().st_size > 1000


def test_an_evaluation_is_of_what_the_predictor_predicts(
    tiny_config: Config, tmp_path: Path
) -> None:
    """Images of several sizes, none set: the others of a split change nothing of one's score."""
    images = [square_image(i) for i in range(5)]
    crops = [(40, 56), (30, 20), (40, 40), (20, 20), (39, 55)]
    for kind in (0, 1):
        folder = tmp_path / ("images", "masks")[kind] / "val"
        folder.mkdir(parents=True)
        for i, (pair, (h, w)) in enumerate(zip(images, crops, strict=True)):
            Image.fromarray(pair[kind][:h, :w]).save(folder / f"{i}.png")
    config = dataclasses.replace(
        tiny_config,
        model=TINY_MODEL,
        eval=dataclasses.replace(tiny_config.eval, images=5),
        machine=dataclasses.replace(tiny_config.machine, root=str(tmp_path)),
    )
    source, variables = open_split(config, "val"), random_variables(TINY_MODEL)
    mesh = device_mesh(devices=jax.devices()[:1])
    result = Evaluator(config, source, mesh)(place(variables, mesh))
    network = Predictor(Weights(TINY_MODEL, config.task, variables))
    assert sorted(result.predictions) == [*range(5)]
    for i, prediction in result.predictions.items():
        (h, w), image = crops[i], images[i][0]
        alone = network.predict(image[:h, :w])
        assert prediction.shape == (h, w)
        assert (prediction != alone).mean() < 0.002  # ties of float32 between batch sizes
        valid = (label := images[i][1][:h, :w]) != 255
        assert result.images[i].tolist() == [(prediction == label)[valid].sum(), valid.sum()]


def scored(capsys: pytest.CaptureFixture[str], arguments: str) -> float:
    """The mIoU, in percent, that `evaluate` prints."""
    evaluate(arguments.split())
    return float(capsys.readouterr().out.strip().splitlines()[-1].split()[1])


@pytest.fixture
def run(tiny_config: Config, tmp_path: Path) -> Path:
    """A run whose images have 12 bits and are scaled to fit; and data.json, which says neither."""
    model = dataclasses.replace(tiny_config.model, head_init="he")
    root = tmp_path / "data"
    shutil.copytree(tiny_config.machine.root, root)
    for file in (root / "images").rglob("*.png"):
        with Image.open(file) as image:
            deep = np.asarray(image.convert("L")).astype(np.uint16) * 16
        Image.fromarray(deep).save(file)
    machine = dataclasses.replace(tiny_config.machine, root=str(root))
    config = dataclasses.replace(tiny_config, model=model, machine=machine)
    save_json(config, tmp_path / "data.json")
    names, colors = ("grey", "red", "blue"), ((0, 0, 0), (220, 60, 60), (60, 90, 220))
    task = TaskConfig(names, colors, eval_size=(33, 33), resize="fit", range=(0, 4095))
    save_weights(tmp_path / "run" / "best", Weights(model, task, random_variables(model, 3)))
    save_json(dataclasses.replace(config, task=task), tmp_path / "run" / "config.json")
    return tmp_path / "run"


def test_how_images_come_to_the_network_is_the_weights_own(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"--weights {run} --out {run / 'out'}"
    own, data = scored(capsys, base), run.parent / "data.json"
    for other in ("", "--task.resize=keep --task.eval_size 65 65", "--task.range 0 65535"):
        config = override(load_json(data), other.split())
        save_json(config, data)
        assert scored(capsys, f"{base} --config={data}") == own
        assert load_json(run / "out" / "config.json").task == load_weights(run).task
    told = f"{base} --config={data} --task.resize=keep --task.eval_size 65 65"
    assert scored(capsys, told) != own
    assert load_json(run / "out" / "config.json").task.eval_size == (65, 65)
    assert scored(capsys, f"{base} --task.range 0 255") != own


def test_only_the_images_are_of_another_configuration(tiny_config: Config) -> None:
    """Not even its crop need suit the network, which only training cuts."""
    model = dataclasses.replace(TINY_MODEL, output_stride=32, decoder_strides=(8,))
    task = TaskConfig(("a", "b", "c"), eval_size=(97, 65), range=(0, 4095))
    weights, protocol, mesh = Weights(model, task, {}), EvalConfig(flip=True), MeshConfig(space=2)
    data, machine = tiny_config.data, tiny_config.machine
    config = on_data(weights, data=data, machine=machine, eval=protocol, mesh=mesh)
    assert (config.model, config.task, config.eval, config.mesh) == (model, task, protocol, mesh)
    assert config.data == dataclasses.replace(data, crop_size=None) and config.machine == machine

    voc = DataConfig(source="voc2012")
    config = on_data(weights, data=voc, machine=machine, eval=protocol, mesh=mesh)
    assert config.task == dataclasses.replace(task, range=None)


def test_the_same_classes_in_another_order_are_mapped(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.parent
    base = f"--weights {run} --out {folder / 'out'} --eval.boundary=0.1"
    want = scored(capsys, base)
    shutil.copytree(folder / "data", folder / "d")
    (folder / "d" / "classes.txt").write_text("blue\ngrey\nred\n")
    for mask in (folder / "d" / "masks").rglob("*.png"):
        with Image.open(mask) as image:
            ids = np.asarray(image)
        order = np.array([1, 2, 0, *range(3, 256)], np.uint8)
        Image.fromarray(order[ids]).save(mask)
    got = scored(capsys, f"{base} --machine.root={folder / 'd'}")
    assert got == want
    (folder / "d" / "classes.txt").write_text("grass\ngrey\nred\n")
    evaluate(f"{base} --machine.root={folder / 'd'}".split())
    assert "0: 'grey' / 'grass', 1: 'red' / 'grey'" in capsys.readouterr().err
    (folder / "d" / "classes.txt").write_text("grass\ngrey\nred\nblue\n")
    with pytest.raises(
        UserError, match=r"predicts 3 classes \(grey.* has 4 \(grass.*choose weights"
    ):
        evaluate(f"{base} --machine.root={folder / 'd'}".split())


def test_one_and_eight_devices_agree_exactly(tiny_config: Config, tmp_path: Path) -> None:
    """Every measure of five images through two views, in batches of eight (the last one uneven),
    and what is written of them."""
    protocol = dataclasses.replace(
        tiny_config.eval, scales=(0.5, 1.0), flip=True, trimap_widths=(1, 4), boundary=0.05
    )
    config = dataclasses.replace(tiny_config, eval=protocol)
    source = open_split(config, "val")
    results = []
    for devices in (1, 8):
        mesh = device_mesh(devices=jax.devices()[:devices])
        variables = place(random_variables(config.model), mesh)
        results.append(Evaluator(config, source, mesh)(variables))
    one, eight = results
    for field in ("confusion", "trimaps", "boundary", "images", "predictions"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one, field), getattr(eight, field))
    assert one.trimaps[1].sum() < one.trimaps[4].sum() < one.confusion.sum()
    labels = [source[i]["label"] for i in range(5)]
    counted = [(label != 255).sum() for label in labels]
    np.testing.assert_array_equal(one.images[:, 1], counted)
    assert one.images[:, 0].sum() == one.confusion.trace()
    for i, prediction in one.predictions.items():
        assert one.images[i, 0] == (prediction == labels[i])[labels[i] != 255].sum()

    text = write_evaluation(one, source, tmp_path)
    assert "boundary IoU" in text and "(1 px)" in text and "(4 px)" in text
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["protocol"]["scales"] == [0.5, 1.0] and written["protocol"]["flip"] is True
    assert written["trimaps"]["4"]["confusion"] == one.trimaps[4].tolist()
    assert written["eval/trimap_4_miou"] == one.trimap_miou[4]
    assert len(written["boundary"]["union"]) == 3 and len(written["image_accuracy"]) == 5
    assert one.boundary_iou is not None
    np.testing.assert_array_equal(
        [np.nan if x is None else x for x in written["boundary"]["iou"].values()], one.boundary_iou
    )


def test_seconds_leave_out_what_compiles() -> None:
    """By hand; and in time that is linear in batches, where the square would be minutes."""
    small, large = (33, 33), (65, 65)
    plan = [[Row(i, size, size)] * 2 for i, size in enumerate((small, large, small, large))]
    plan[3][1] = plan[3][1]._replace(record=9)  # fills the batch up
    assert average_seconds(plan, np.array([100.0, 50.0, 1.0, 2.0]), 4) == 3 / 3
    assert average_seconds(plan[:2], np.array([100.0, 50.0]), 4) == 150 / 4
    start = time.monotonic()
    average_seconds([[Row(i, (i, i), (i, i))] for i in range(50_000)], np.ones(50_000), 50_000)
    assert time.monotonic() - start < 5


def test_images_are_shown_from_the_best_to_the_worst() -> None:
    accuracy = np.array([0.9, 0.1, np.nan, 0.5, 0.3])
    assert choose_images(accuracy, 3) == [0, 4, 1]
    assert choose_images(accuracy, 9) == [0, 3, 4, 1]
    assert choose_images(accuracy[2:3], 9) == []


def test_the_known_score_of_real_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MobileNetV2 DeepLab v3 on the first 48 of 231 VOC images; the README has all of them."""
    source = official.shared("weights", "deeplabv3_mnv2_dm10_os16_voc_dequant.npz")
    devkit = official.shared("data", "VOCdevkit")
    convert(
        f"{source} --out {tmp_path / 'w'} --model.backbone=mobilenet_v2 --model.head=deeplabv3"
        " --model.atrous_rates --task.resize=fit --task.eval_size 513 513".split()
    )
    evaluate(
        f"--weights {tmp_path / 'w'} --config=configs/voc.py --machine.root={devkit}"
        f" --machine.prepared_dir={tmp_path / 'tfds'}"
        " --data.eval_split=val[:48]".split()
    )
    line = capsys.readouterr().out.strip().splitlines()[-1]
    miou, accuracy = float(line.split()[1]), float(line.split()[5])
    assert miou == pytest.approx(71.01, abs=0.3) and accuracy == pytest.approx(95.77, abs=0.1)
