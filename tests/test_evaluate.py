"""Evaluation against a plain NumPy one, and the real weights against their known score."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import official
import pytest
from synthetic import random_variables

from deeplab_jax import Config
from deeplab_jax.commands import convert, evaluate
from deeplab_jax.data.pipeline import open_split
from deeplab_jax.evaluate import Evaluator, write_evaluation
from deeplab_jax.predict import Predictor
from deeplab_jax.sharding import data_mesh, replicated
from deeplab_jax.weights.files import Weights


@pytest.mark.parametrize("resize", ["keep", "fit"])
def test_counts_equal_a_plain_evaluation(tiny_config: Config, tmp_path: Path, resize: str) -> None:
    """Five pictures, batches of eight over eight devices: every pixel counted once, at its size."""
    data = dataclasses.replace(tiny_config.data, resize=resize, eval_size=(65, 65))
    config = dataclasses.replace(tiny_config, data=data)
    source = open_split(data, "val", config.model)
    variables = random_variables(config.model)
    mesh = data_mesh()
    result = Evaluator(config, source, mesh)(jax.device_put(variables, replicated(mesh)))

    predictor = Predictor(Weights(config, variables, source.class_names, source.colors))
    slow = np.zeros((3, 3), int)
    from deeplab_jax.data.decode import decode_image

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


def test_the_known_score_of_real_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MobileNetV2 DeepLab v3 on 231 VOC pictures: the 8-bit original scores 65.2 mIoU / 94.7 %."""
    source = official.shared("weights", "deeplabv3_mnv2_dm10_os16_voc_dequant.npz")
    devkit = official.shared("data", "VOCdevkit")
    convert(
        f"{source} --out {tmp_path / 'w'} --model.backbone=mobilenet_v2 --model.head=deeplabv3"
        " --model.atrous_rates --data.resize=fit --data.eval_size 513 513".split()
    )
    evaluate(
        f"--weights {tmp_path / 'w'} --config=configs/voc.py --data.root={devkit}"
        f" --data.resize=fit --data.prepared_dir={tmp_path / 'tfds'}".split()
    )
    line = capsys.readouterr().out.strip().splitlines()[-1]
    miou, accuracy = float(line.split()[1]), float(line.split()[5])
    assert miou >= 64.5 and accuracy >= 94.3
