"""Prediction of files: no input is lost, no path claimed twice, nothing passed over silently."""

import dataclasses
import json
import os
import resource
import signal
import threading
import weakref
from collections.abc import Iterator
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
from deeplab_jax.data.decode import MAX_PIXELS, Unreadable
from deeplab_jax.inference.bands import Raster
from deeplab_jax.inference.files import classify_files, for_each_image, predict_files
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
        self.model, self.task, self.protocol = ModelConfig(), TaskConfig(), EvalConfig()
        self.calls = 0

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def predict(self, image: np.ndarray, *, probabilities: bool = False) -> np.ndarray:
        self.calls += 1
        if probabilities:
            return np.array([[[0.2, 0.7, 0.1]]], np.float32)
        return (image[..., 0] > 100).astype(np.uint8)

    def predict_bands(self, raster: Raster) -> Iterator[np.ndarray]:
        """As an image too large for memory is predicted."""
        h, w = raster.size
        for top in range(0, h, 7):
            yield (raster.read(top, 0, min(7, h - top), w)[..., 0] > 100).astype(np.uint8)


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


@pytest.mark.parametrize("name", ["index", "color", "coco", "geotiff"])
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
    given: list[str], out: str, name: Format, fake: Any, tmp_path: Path
) -> None:
    if name != "index" and (
        out in ("masks", "claimed", "hard", "broken") or name + out == "coconew"
    ):
        pytest.skip("nothing there has the name of what this format writes")
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
        predict_files(fake, find_images([tmp_path / p for p in given]), tmp_path / out, name)
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


@pytest.mark.parametrize(
    "name, written",
    [
        ("color", {"a.png", "a_2.png", "nested/c.png"}),
        ("ids", {"a.png", "a_2.png", "nested/c.png"}),
        ("geotiff", {"a.tif", "a_2.tif", "nested/c.tif"}),
        ("coco", {"predictions.json"}),
    ],
)
def test_other_formats_are_written_again_and_never_read(
    name: Format, written: set[str], fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "photos" / "predicted"
    draw(photos, "a.jpg", "a.png", "nested/c.jpg")
    for _ in range(2):
        assert predict_files(fake, find_images([photos]), out, name) == 0
        assert set(contents(out)) == written
    assert fake.calls == 6 and len(find_images([photos]).images) == 3
    assert capsys.readouterr().err.count("has no georeference") == 2 * (name == "geotiff")
    another = {path: b"another's" for path in written}
    for path in written:
        (out / path).write_bytes(another[path])
    with pytest.raises(UserError, match="is there already"):
        predict_files(fake, find_images([photos / "a.jpg"]), out, name)
    assert contents(out) == another


def test_images_of_one_name_are_told_apart_in_coco_s_json(fake: Any, tmp_path: Path) -> None:
    draw(tmp_path, "day1/a.png", "day2/a.png", "day2/b.png")
    inputs = find_images([tmp_path / "day1", tmp_path / "day2"])
    predict_files(fake, inputs, tmp_path / "out", "coco")
    images = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    names = [image["file_name"] for image in images]
    assert names[2] == "b.png" and len(set(names)) == 3


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images above 2**18 pixels are large, and overlays of these have a long side of 64."""
    for module in ("files", "inputs", "outputs"):
        monkeypatch.setattr(f"deeplab_jax.inference.{module}.MAX_PIXELS", 2**18)
    monkeypatch.setattr("deeplab_jax.inference.files.SHOWN", 64)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("index", "tif"),
        ("index", "png"),
        *((f, "tif") for f in ("color", "ids", "coco", "geotiff")),
    ],
)
def test_large_images_have_a_tiff(
    name: Format, kind: str, fake: Any, tmp_path: Path, small_is_large: None
) -> None:
    """A TIFF is read by windows, another image decoded first; an overlay is small."""
    fake.task = TaskConfig(classes=CLASSES, values=(5, 600, 0))
    image, out = np.tile(square_image(1)[0], (11, 11, 1)), tmp_path / "out"
    draw(tmp_path, "in/small.png")
    Image.fromarray(image).save(tmp_path / "in" / f"large.{kind}")
    predict_files(fake, find_images([tmp_path / "in"]), out, name)
    label = (image[..., 0] > 100).astype(np.uint8)
    assert fake.calls == 1  # of the small one
    if name == "coco":
        assert {*contents(out)} == {"predictions.json"}
        read = json.loads((out / "predictions.json").read_text())
        areas = {a["category_id"]: a["area"] for a in read["annotations"] if a["image_id"] == 1}
        assert areas == {0: (label == 0).sum(), 1: (label == 1).sum()}
        return
    with Image.open(out / "large.tif") as written:
        values = {"ids": np.array((5, 600))[label], "color": np.array(COLORS)[label]}
        np.testing.assert_array_equal(np.asarray(written), values.get(name, label))
    others = {"small.tif" if name == "geotiff" else "small.png"}
    if name == "index":
        others |= {"small_overlay.png", "large_overlay.png", "contact_sheet.png"}
        with Image.open(out / "large_overlay.png") as overlay:
            assert overlay.width == 64
    assert {*contents(out)} == {"large.tif", *others}


def test_a_window_spares_the_network_what_fits_into_memory(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With eval.window, larger images go to the network by bands, and nothing else is otherwise."""
    draw(tmp_path, "a.png", "b.png")
    inputs = find_images([tmp_path])
    predict_files(fake, inputs, tmp_path / "whole")
    monkeypatch.setattr("deeplab_jax.inference.files.WALKED_PIXELS", 1000)
    predict_files(fake, inputs, tmp_path / "whole2")
    fake.protocol, fake.predict = EvalConfig(window=(33, 33)), None
    predict_files(fake, inputs, tmp_path / "bands")
    files = [contents(tmp_path / out) for out in ("whole", "whole2", "bands")]
    assert files[0] == files[1] == files[2]


def test_a_turned_tiff_is_turned_though_it_is_large(
    fake: Any, tmp_path: Path, small_is_large: None
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (600, 500)).save(tmp_path / "a.tif", exif=turned)
    for name, size in (("index", (500, 600)), ("geotiff", (600, 500))):
        predict_files(fake, find_images([tmp_path / "a.tif"]), tmp_path / name, name)
        with Image.open(tmp_path / name / "a.tif") as label:
            assert label.size == size


def test_a_tiff_that_cannot_be_read_by_windows_is_one_failure(
    tmp_path: Path, fake: Any, small_is_large: None, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path, "in/a.png")
    Image.new("RGB", (600, 600)).save(tmp_path / "in" / "cut.tif")
    content = (tmp_path / "in" / "cut.tif").read_bytes()
    (tmp_path / "in" / "cut.tif").write_bytes(content[:-3000])
    Image.new("RGB", (20, 20)).save(tmp_path / "in" / "b.png")
    assert predict_files(fake, find_images([tmp_path / "in"]), tmp_path / "out") == 1
    assert "cut.tif" in capsys.readouterr().err
    assert not [p for p in contents(tmp_path / "out") if "cut" in p or ".tmp" in p]


def test_no_server_has_large_images(fake: Any, tmp_path: Path, small_is_large: None) -> None:
    Image.new("RGB", (600, 600)).save(tmp_path / "a.png")
    fake.class_names = voc.CLASS_NAMES
    with pytest.raises(UserError, match=r"a\.png: above .* megapixels, which no server"):
        predict_files(fake, find_images([tmp_path / "a.png"]), tmp_path / "out", "voc")


def test_the_next_image_is_decoded_meanwhile_and_never_a_third(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images are counted while anything holds them; the order is as if there were no thread."""

    class Counted(np.ndarray):
        pass

    alive: list[weakref.ref[Counted]] = []
    began = [threading.Event() for _ in range(7)]

    def read(image: Input) -> tuple[np.ndarray, str]:
        i = int(image.name.stem)
        began[i].set()
        if i == 3:
            raise Unreadable("3 is broken")
        pixels = np.zeros((2, 2, 3), np.uint8).view(Counted)
        alive.append(weakref.ref(pixels))
        assert sum(x() is not None for x in alive) <= 2
        return pixels, ""

    def act(i: int, content: Any, _: Any) -> str:
        assert i == 5 or began[i + 1].wait(10)
        return f" is {i}"

    images = [Input(Path(f"{i}.png"), PurePath(f"{i}.png")) for i in range(6)]
    assert for_each_image(Inputs(images), read, act) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"{i}.png is {i}" for i in (0, 1, 2, 4, 5)]
    assert "error: 3 is broken" in printed.err and len(alive) == 5


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
        "deeplab_jax.inference.predict.Predictor", lambda weights, protocol, space, runtime: fake
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
        np.testing.assert_array_equal(np.vectorize(dict(cityscapes.VALUES).get)(ids), label)


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
    assert "deep.png" in warnings[0] and "--task.range 0 4095" in warnings[0]
    assert warnings[1:] == ["warning: 2 images use as little of their range"]
    fake.task = TaskConfig(range=(0, 4095))
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
