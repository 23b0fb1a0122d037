"""Prediction of files: no input is lost, no path claimed twice, nothing passed over silently."""

import dataclasses
import os
import resource
import signal
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from conftest import TINY_MODEL
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic import random_variables, square_image

from deeplab_jax import EvalConfig, ModelConfig, TaskConfig, UserError
from deeplab_jax.cli import predict
from deeplab_jax.data.datasets import cityscapes, voc
from deeplab_jax.data.decode import MAX_PIXELS
from deeplab_jax.inference.files import classify_files, predict_files
from deeplab_jax.inference.formats import FORMS, VOC_RESULTS, Form, Format
from deeplab_jax.inference.inputs import Input, Inputs, find_images
from deeplab_jax.inference.outputs import fold, overlay_of, plan_outputs
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.reporting import figures
from deeplab_jax.weights.files import Weights, save_weights

CLASSES = ("background", "red", "blue")
COLORS = ((0, 0, 0), (220, 60, 60), (60, 90, 220))


class Fake:
    """A predictor that computes nothing: red where an image is bright."""

    class_names, colors = CLASSES, COLORS
    classifies = False

    def __init__(self) -> None:
        self.task, self.protocol = TaskConfig(), EvalConfig()
        self.calls = 0

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def predict(self, image: np.ndarray, *, probabilities: bool = False) -> np.ndarray:
        self.calls += 1
        if probabilities:
            return np.array([[[0.2, 0.7, 0.1]]], np.float32)
        return (image[..., 0] > 100).astype(np.uint8)


@pytest.fixture
def fake() -> Any:
    return Fake()


def form(name: Format) -> Form:
    return FORMS[name](TaskConfig(), COLORS)


def draw(root: Path, *names: str) -> None:
    """The same small image under each of the names."""
    image = Image.fromarray(square_image(0)[0])
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name, format="PNG" if name.endswith(".png") else "JPEG")


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    files = [p for p in root.rglob("*") if p.is_file()]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def test_files(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two images of one name, one turned by EXIF, one broken, and a note."""
    image = Image.fromarray(square_image(0)[0])
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source, "a.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # rotate by 90 degrees
    image.save(source / "a.jpg", exif=turned)
    (source / "broken.png").write_bytes(b"nothing")
    (source / "note.txt").write_text("not an image")
    assert predict_files(fake, find_images([source]), out) == 1
    printed = capsys.readouterr()
    first, second, passed_over = printed.out.splitlines()
    assert first.startswith("a.jpg: background ") and first.endswith("ms with compiling")
    assert second.startswith("a.png (as a_2.png): background ")
    assert passed_over == "1 file passed over (1 .txt)"
    assert "broken.png: not a readable" in printed.err
    assert "1 of 3 images could not be read" in printed.err
    names = ["a.png", "a_2.png", "a_2_overlay.png", "a_overlay.png", "contact_sheet.png"]
    assert sorted(contents(out)) == names
    with Image.open(out / "a.png") as upright, Image.open(out / "a_2.png") as index:
        assert upright.size == (40, 56)  # a.jpg
        np.testing.assert_array_equal(np.asarray(index), fake.predict(np.asarray(image)))


def test_nothing_to_predict(fake: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no such file or folder$"):
        find_images([tmp_path / "none"])
    with pytest.raises(UserError, match=r"513: no such file .* before options of several values"):
        find_images([Path("513")])
    (tmp_path / "a.HEIC").touch()
    with pytest.raises(UserError, match=r"holds no images .*; 1 file passed over \(1 \.heic\)"):
        find_images([tmp_path])
    (tmp_path / "a.png").touch()
    inputs = find_images([tmp_path])
    for act in (
        lambda: predict_files(fake, inputs, tmp_path / "out"),
        lambda: classify_files(fake, inputs),
    ):
        with pytest.raises(UserError, match="none of the images could be read"):
            act()


def test_an_image_given_twice_is_predicted_once(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg", "nested/b.jpg", ".hidden/c.jpg")
    inputs = find_images([tmp_path, tmp_path / "nested", tmp_path / "a.jpg"])
    assert [i.name.as_posix() for i in inputs.images] == ["a.jpg", "nested/b.jpg"]


NAME = st.sampled_from(
    ["a", "A", "a_2", "a_overlay", "a_2_overlay", "contact_sheet", "Contact_Sheet", "b", "a.png",
     "\u00e9", "e\u0301", "stra\u00dfe", "STRASSE"]
)  # fmt: skip
FILE = st.builds("{}{}".format, NAME, st.sampled_from([".png", ".jpg", ".JPG", ".webp"]))
PATHS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["0/", "1/"]),
    st.sampled_from(["", "a.png/", "B/", "b/"]),
    FILE,
)


@settings(deadline=None, max_examples=300)
@given(st.lists(PATHS, unique=True, min_size=1, max_size=12))
def test_no_path_is_claimed_twice_on_any_file_system(paths: list[str]) -> None:
    """As files of two folders, with sub-folders: no two outputs equal, none a folder of another."""
    sources = [Input(Path(path), PurePath(path[2:])) for path in paths]
    out = Path("out")
    plan = plan_outputs(sources, out, form("index"))
    claimed = [fold(out / "contact_sheet.png")]
    claimed += [fold(file) for label in plan for file in (label, overlay_of(label))]
    assert len(set(claimed)) == 1 + 2 * len(paths)
    folders = {fold(folder) for label in plan for folder in label.parents}
    assert not folders & set(claimed)
    for source, label in zip(sources, plan, strict=True):
        assert label.parent == out / source.name.parent  # sub-folders are kept
    assert plan == plan_outputs(sources, out, form("index"))


@pytest.mark.parametrize(
    "given, out",
    [
        (["photos"], "photos"),
        (["photos"], "photos/../photos"),
        (["photos"], "linked"),  # -> photos
        (["photos/a.png", "other/b.png"], "other"),
        (["photos"], "photos/nested"),
        (["photos/nested"], "photos/nested/deep/.."),
        (["photos"], "new"),  # new/nested -> photos/nested
        (["photos"], "masks"),  # of the same names, by hand
        (["photos"], "claimed"),  # a folder, a hard and a broken link under names to be written
        (["photos"], "hard"),
        (["photos"], "broken"),
    ],
)
def test_what_predict_did_not_write_is_never_overwritten(
    given: list[str], out: str, fake: Any, tmp_path: Path
) -> None:
    draw(tmp_path, "photos/a.png", "photos/nested/c.png", "photos/nested/deep/a.png")
    draw(tmp_path, "other/b.png", "masks/a.png")
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    (tmp_path / "claimed" / "a_overlay.png").mkdir(parents=True)
    for folder in ("new", "hard", "broken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "new" / "nested").symlink_to(tmp_path / "photos" / "nested")
    os.link(tmp_path / "photos" / "a.png", tmp_path / "hard" / "contact_sheet.png")
    (tmp_path / "broken" / "a.png").symlink_to(tmp_path / "nowhere.png")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="choose another"):
        predict_files(fake, find_images([tmp_path / p for p in given]), tmp_path / out)
    assert contents(tmp_path) == before and fake.calls == 0


def test_the_same_command_again_writes_the_same_files(fake: Any, tmp_path: Path) -> None:
    """Also below the folder of the images, and into another one there: no drawing is predicted."""
    photos = tmp_path / "photos"
    draw(photos, "a.jpg", "a.png", "nested/c.jpg")
    for _ in range(2):
        predict_files(fake, find_images([photos]), photos / "predicted")
        first = contents(tmp_path)
        assert len(first) == 3 + 3 * 2 + 1 and fake.calls in (3, 6)
        predict_files(fake, find_images([photos]), photos / "predicted")
        assert contents(tmp_path) == first
        fake.calls = 0
    inputs = find_images([photos])
    assert inputs.passed_over == "7 files passed over (7 written by deeplab_jax predict)"
    predict_files(fake, inputs, tmp_path / "photos" / "other")
    assert fake.calls == 3


def test_a_name_that_a_server_fixes_is_not_numbered(tmp_path: Path) -> None:
    sources = [Input(Path(p), PurePath(p)) for p in ("day1/a.png", "day2/A.jpg")]
    for name in ("voc", "cityscapes"):
        with pytest.raises(UserError, match=r"day1/a\.png and day2/A\.jpg would both be out"):
            plan_outputs(sources, Path("out"), form(name))  # type: ignore[arg-type]


def test_a_file_that_cannot_be_written_is_named(
    fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk after the first image, by a limit on the size of files; nothing half is left."""
    draw(tmp_path / "in", "a.png")
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "b.png")
    inputs, limits = find_images([tmp_path / "in"]), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"b(_overlay)?\.png: cannot be written \(File too"):
            predict_files(fake, inputs, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert capsys.readouterr().out.startswith("a.png: ")
    assert {"a.png", "a_overlay.png"} <= set(contents(tmp_path / "out"))
    assert not [name for name in contents(tmp_path / "out") if name.endswith(".tmp")]


def test_where_nothing_can_be_written_nothing_is_predicted(fake: Any, tmp_path: Path) -> None:
    draw(tmp_path / "in", "a.png", "x" * 245 + ".png")
    (tmp_path / "file").touch()
    inputs = find_images([tmp_path / "in"])
    with pytest.raises(UserError, match=r"--out = .*file: that is a file"):
        predict_files(fake, inputs, tmp_path / "file")
    with pytest.raises(UserError, match=r"x_overlay\.png: cannot be written \(File name too long"):
        predict_files(fake, inputs, tmp_path / "out")
    assert fake.calls == 0 and contents(tmp_path / "out") == {}


def test_only_thumbnails_of_some_images_are_kept(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 images, each predicted once, 48 are on the sheet, from the first to the last."""
    draw(tmp_path / "in", *(f"{i:02}.jpg" for i in range(100)))
    drawn: dict[str, Any] = {}

    def sheet(images: list[Image.Image], titles: list[str], heading: str) -> Image.Image:
        drawn.update(images=images, titles=titles, heading=heading)
        return images[0]

    monkeypatch.setattr(figures, "contact_sheet", sheet)
    predict_files(fake, find_images([tmp_path / "in"]), tmp_path / "out")
    assert fake.calls == 100
    assert len(drawn["images"]) == 48 and drawn["heading"] == "48 of 100 images"
    assert max(max(image.size) for image in drawn["images"]) <= figures.CELL
    numbers = [int(title) for title in drawn["titles"]]
    assert numbers[0] == 0 and numbers[-1] == 99 and set(np.diff(numbers)) == {2, 3}


def test_a_classifier_refuses_what_is_too_large_for_it(fake: Any, tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 8
    Image.new("L", (side, side), 200).save(tmp_path / "large.png")
    with pytest.raises(UserError, match="none of the images"):
        classify_files(fake, find_images([tmp_path]))


def test_the_command_takes_several_paths_and_shows_a_partial_failure(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = TaskConfig(classes=CLASSES, colors=COLORS)
    save_weights(Path("weights"), Weights(TINY_MODEL, task, random_variables(TINY_MODEL)))
    monkeypatch.setattr(
        "deeplab_jax.inference.predict.Predictor", lambda weights, protocol, space: fake
    )
    draw(tmp_path, "a 0.jpg", "b.jpg", "folder/c.jfif")
    options = ["--weights", "weights", "--out", "out", "--eval.window", "65", "65"]
    predict(["a 0.jpg", "b.jpg", "folder", *options])
    assert {"a 0.png", "b.png", "c.png"} < set(contents(tmp_path / "out"))
    (tmp_path / "folder" / "d.jpg").touch()
    with pytest.raises(SystemExit) as leaving:
        predict(["folder", *options])
    assert leaving.value.code == 1
    with pytest.raises(UserError, match=r"b\.jpg: name all images first"):
        predict(["a 0.jpg", "--out", "out", "b.jpg", "--weights", "weights"])
    with pytest.raises(UserError, match=r"513: no such file .* name the images before"):
        predict(["--eval.window", "513", "513", "--weights", "weights", "--out", "out", "b.jpg"])


@pytest.mark.parametrize("form", ["voc", "cityscapes"])
def test_files_for_the_servers(form: str, tmp_path: Path) -> None:
    """VOC: ids in VOC's palette, in the archive's folders. Cityscapes: the ids of its masks."""
    data = {"voc": voc, "cityscapes": cityscapes}[form]
    names, colors = data.CLASS_NAMES, data.COLORS
    model: ModelConfig = dataclasses.replace(TINY_MODEL, num_classes=len(names))
    task = TaskConfig(classes=names, colors=colors, eval_size=(65, 65))
    network = Predictor(Weights(model, task, random_variables(model)))
    image, _ = square_image(0)
    Image.fromarray(image).save(tmp_path / "berlin_000000_000019_leftImg8bit.png")
    predict_files(network, find_images([tmp_path]), tmp_path / "out", form)  # type: ignore[arg-type]
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    folder = tmp_path / "out" / (VOC_RESULTS if form == "voc" else "")
    assert written == [folder / "berlin_000000_000019_leftImg8bit.png"]
    label = network.predict(image)
    with Image.open(written[0]) as drawn:
        ids = np.asarray(drawn)
        assert drawn.mode == ("P" if form == "voc" else "L")
    if form == "voc":
        np.testing.assert_array_equal(ids, label)
    else:
        np.testing.assert_array_equal(np.array(cityscapes.ID_TO_TRAIN_ID)[ids], label)


def test_twelve_bits_in_sixteen_are_warned_of(
    fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = np.linspace(0, 4095, 40 * 56).reshape(40, 56).astype(np.uint16)
    (tmp_path / "in").mkdir()
    for name in ("deep", "deep2"):
        Image.fromarray(deep).save(tmp_path / "in" / f"{name}.png")
    draw(tmp_path, "in/a.png")
    predict_files(fake, find_images([tmp_path / "in"]), tmp_path / "out")
    warnings = [w for w in capsys.readouterr().err.splitlines() if "warning" in w]
    assert "deep.png" in warnings[0] and "--task.white=4095" in warnings[0]
    assert warnings[1:] == ["warning: 2 images use as little of their range"]
    fake.task = TaskConfig(white=4095)
    predict_files(fake, find_images([tmp_path / "in"]), tmp_path / "out")
    assert "warning" not in capsys.readouterr().err
    with Image.open(tmp_path / "out" / "deep.png") as label:
        assert np.asarray(label).any()  # bright enough at last


def test_a_server_s_classes_in_another_order_are_refused(
    fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path, "in/a.png")
    inputs = find_images([tmp_path / "in"])
    names = voc.CLASS_NAMES
    fake.class_names, fake.colors = names[::-1], voc.COLORS
    with pytest.raises(UserError, match=r"--format=voc: .*another order \(0: 'tvmonitor'"):
        predict_files(fake, inputs, tmp_path / "out", "voc")
    fake.class_names = ("nothing", *names[1:])
    assert predict_files(fake, inputs, tmp_path / "out", "voc") == 0
    assert "other names for these classes" in capsys.readouterr().err


def test_a_server_of_other_classes_is_refused(fake: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--format=voc is for 21 classes; these weights have 3"):
        predict_files(fake, Inputs([]), tmp_path, "voc")
