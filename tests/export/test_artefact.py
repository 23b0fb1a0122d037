"""Exported folders: what their README's program draws, what is proved, what is refused."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_UNET
from PIL import Image
from synthetic import random_variables, square_image, write_squares

from deeplab_jax import ModelConfig, UserError, load
from deeplab_jax.cli import export
from deeplab_jax.config import TaskConfig
from deeplab_jax.data.pixels import to_bytes
from deeplab_jax.export.artefact import PACKAGES, Form
from deeplab_jax.export.prediction import from_pixels, to_pixels
from deeplab_jax.weights.files import Weights, save_weights

CLASSES = ("grey", "red", "blue")
COLORS = ((40, 40, 40), (220, 60, 60), (60, 90, 220))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, of images up to 49 x 65."""
    folder = tmp_path_factory.mktemp("weights")
    task = TaskConfig(classes=CLASSES, colors=COLORS, eval_size=(49, 65))
    save_weights(folder, Weights(TINY_UNET, task, random_variables(TINY_UNET)))
    return folder


def needs(*forms: Form) -> None:
    for package in {package for form in forms for package in PACKAGES[form]}:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"pip install {package}")


def run_example(folder: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of a folder's README, in that folder."""
    text = (folder / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "deeplab_jax import" not in program and "import deeplab_jax" not in program
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["example.py", str(image)])
    exec(compile(program, "example.py", "exec"), {})


@pytest.mark.parametrize("form", ["onnx", "litert", "openvino", "stablehlo"])
def test_the_program_of_the_readme_draws_what_predict_draws(
    form: Form, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(form)
    if form == "openvino":
        sys.modules.setdefault("openvino_telemetry", None)  # which a fork of its own would report
    image, _ = square_image(0)
    Image.fromarray(image).save(tmp_path / "a.png")
    out = tmp_path / form
    export(f"{saved} --to {form} --out {out} --images {tmp_path / 'a.png'}".split())
    run_example(out, tmp_path / "a.png", monkeypatch)
    want = np.array(COLORS)[load(saved).predict(image)]
    with Image.open(out / "labels.png") as drawn:
        assert np.mean(np.all(np.asarray(drawn) == want, axis=-1)) > 0.999


def about(folder: Path) -> dict[str, Any]:
    """The metadata of an ONNX file."""
    import onnx

    (entry,) = onnx.load(folder / "model.onnx").metadata_props
    assert entry.key == "deeplab_jax"
    return json.loads(entry.value)


def test_the_file_says_what_a_program_must_know(saved: Path, tmp_path: Path) -> None:
    needs("onnx")
    export(f"{saved} --to onnx --out {tmp_path} --output probabilities".split())
    found = about(tmp_path)
    assert found["classes"][1] == {"name": "red", "color": [220, 60, 60]}
    assert found["input"] == {
        "size": [49, 65],
        "stride": 16,
        "channels": 3,
        "dtype": "uint8",
        "range": [0, 255],
        "resize": "keep",
        "fill": [127, 127, 127],
    }
    assert found["output"] == "probabilities" and found["task"] == "segmentation"
    assert list(tmp_path.iterdir()) != [] and not list(tmp_path.glob("*tmp*"))


def test_a_broken_file_is_found_and_the_layer_named(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("onnx")
    from onnx import numpy_helper

    from deeplab_jax.export import onnx_file

    lower = onnx_file.lower_prediction

    def lower_wrongly(prediction: Any) -> Any:
        lowered = lower(prediction)
        for array in lowered.model.graph.initializer:
            if array.name.startswith("Network/backbone/down4/conv1/kernel"):
                wrong = numpy_helper.to_array(array) * np.float32(1.01)
                array.CopyFrom(numpy_helper.from_array(wrong, array.name))
        return lowered

    monkeypatch.setattr(onnx_file, "lower_prediction", lower_wrongly)
    with pytest.raises(UserError, match="Network/backbone/down4/conv1 is the first layer that"):
        export(f"{saved} --to onnx --out {tmp_path}".split())
    assert list(tmp_path.iterdir()) == []


def test_fewer_bits_are_smaller_and_measured(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """And scored: random weights have some mIoU, ours and int8 about the same."""
    needs("onnx")
    data, out, sizes = tmp_path / "data", tmp_path / "out", []
    write_squares(data, {"train": 1, "val": 3})
    for bits in ("", "--half", f"--int8 {data / 'images'} --data {data} --force"):
        export(f"{saved} --to onnx --out {out} --images {data / 'images'} {bits}".split())
        sizes.append((out / "model.onnx").stat().st_size)
    assert sizes[1] < 0.7 * sizes[0] and sizes[2] < 0.5 * sizes[0]
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    assert float(cells["onnx, float16"][0].split()[0]) > 99.5
    ours, int8 = (float(cells[name][-1]) for name in ("ours, float32", "onnx, int8"))
    assert ours > 0 and abs(ours - int8) < 10
    assert about(out)["classes"][1]["name"] == "red"  # as in float32
    assert "onnx, int8: " in (out / "README.md").read_text()


def test_int8_that_changes_labels_wants_force(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("onnx")
    from deeplab_jax.export import precision

    monkeypatch.setitem(precision.LEAST, "int8", (1.01, 0.9))
    image = tmp_path / "a.png"
    Image.fromarray(square_image(0)[0]).save(image)
    with pytest.raises(UserError, match=r"onnx, int8 has our label in .* --force"):
        export(f"{saved} --to onnx --int8 {image} --out {tmp_path / 'out'}".split())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_classifier_names_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    needs("onnx")
    model = ModelConfig(backbone="resnet_v1_18", head="classifier", num_classes=3, width=0.1)
    task = TaskConfig(classes=CLASSES, eval_size=(49, 33))
    save_weights(tmp_path / "weights", Weights(model, task, random_variables(model)))
    image, _ = square_image(0)
    Image.fromarray(image).save(tmp_path / "a.png")
    export(f"{tmp_path / 'weights'} --to onnx --out {tmp_path / 'out'}".split())
    capsys.readouterr()
    run_example(tmp_path / "out", tmp_path / "a.png", monkeypatch)
    label = load(tmp_path / "weights").predict(image).item()
    assert capsys.readouterr().out.strip() == CLASSES[label]


@pytest.mark.parametrize("white", [(0, 65535), (0, 4095), (100, 163), (-1.0, 2.5)])
def test_values_of_more_than_8_bits_become_the_bytes_that_training_saw(
    white: tuple[float, float],
) -> None:
    values = np.arange(65536, dtype=np.uint16)
    if white == (-1.0, 2.5):
        values = np.linspace(-2, 3, 65536, dtype=np.float32)
        assert np.mean(to_pixels(values, white) != to_bytes(values, white)) < 1e-3
    else:
        np.testing.assert_array_equal(to_pixels(values, white), to_bytes(values, white))
    pixels = np.arange(256, dtype=np.uint8)
    if white[1] - white[0] > 255 or values.dtype == np.float32:
        back = to_bytes(from_pixels(pixels, white, values.dtype), white)
        np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--to onnx --eval.flip=True", "an exported file looks at an image once"),
        ("--to stablehlo --any-size", "JAX exports one size"),
        ("--to litert --any-size", "a TFLite file has one size"),
        ("--to onnx --any-size", "depends on the image's size"),
        ("--to onnx --task.eval_size 50 50", "task.eval_size = "),
        ("--to stablehlo --int8 photos", "--int8: not in a file for stablehlo"),
        ("--to onnx --int8 photos --half", "a file has one of them"),
        ("--to onnx --data folder", "float32 scores as ours does"),
        ("--to web --half", "a page takes sizes as `predict`"),
        ("--to pdf", "invalid choice: 'pdf'"),
    ],
)
def test_what_cannot_be_had_is_refused(
    options: str, message: str, saved: Path, tmp_path: Path
) -> None:
    needs("litert" if "litert" in options else "onnx", "stablehlo")
    with pytest.raises(UserError, match=message):
        export(f"{saved} --out {tmp_path} {options}".split())


def test_another_readme_is_left_alone(saved: Path, tmp_path: Path) -> None:
    needs("onnx")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="no export wrote it"):
        export(f"{saved} --to onnx --out {tmp_path}".split())


def test_a_package_that_is_missing_is_named(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="onnx and onnxruntime are not installed: pip install"):
        export(f"{saved} --to onnx --out {tmp_path}".split())
    with pytest.raises(UserError, match="pip install tensorflow ai_edge_litert"):
        export(f"{saved} --to litert --out {tmp_path}".split())
    with pytest.raises(UserError, match="onnx and onnxruntime are not installed"):
        load(saved, runtime="onnxruntime")
