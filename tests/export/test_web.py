"""The web page: what is written, what its archive may hold, and a browser that is shown images."""

import base64
import dataclasses
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from chromium import CHROMIUM, Page
from conftest import TINY_MODEL, TINY_UNET
from PIL import Image, ImageOps
from synthetic import random_variables

from deeplab_jax import UserError
from deeplab_jax.config import TaskConfig
from deeplab_jax.export import web
from deeplab_jax.export.serve import open_server
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.weights.files import Weights
from deeplab_jax.weights.zoo import weights_folder

CLASSES = ("background", "red <b>", "blue")
COLORS = ((0, 0, 0), (220, 60, 60), (60, 90, 220))
BOX = (65, 81)
NAME = web.RUNTIME.rpartition("/")[2]


def network(channels: int = 3, **task: Any) -> Weights:
    """Random weights of three classes: a DeepLab, or a U-Net of other channels than three."""
    model = dataclasses.replace(TINY_MODEL if channels == 3 else TINY_UNET, channels=channels)
    settings = TaskConfig(classes=CLASSES, colors=COLORS, **task)
    return Weights(model, settings, random_variables(model, 1))


# ---- the runtime


def write_archive(file: Path, *names: str) -> str:
    """A .tgz with files of these names, each with its name in it; its checksum as npm has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
        link = tarfile.TarInfo(f"package/dist/{web.RUNTIME_FILES[0]}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()


def test_of_the_archive_only_the_runtime_is_taken(tmp_path: Path) -> None:
    wanted = [f"package/dist/{name}" for name in web.RUNTIME_FILES]
    others = ["../../evil", "/evil", "package/dist/ort.node.min.mjs", "package/dist/../evil"]
    write_archive(tmp_path / NAME, *others, *wanted, *others)
    found = web.read_runtime(tmp_path / NAME)
    assert found == {name: f"package/dist/{name}".encode() for name in web.RUNTIME_FILES}
    write_archive(tmp_path / NAME, *others, *wanted[1:])
    with pytest.raises(UserError, match=f"holds no {web.RUNTIME_FILES[0]}"):
        web.read_runtime(tmp_path / NAME)


def test_another_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_WEIGHTS", str(tmp_path))
    checksum = write_archive(tmp_path / "archives" / NAME, "package/package.json")
    with pytest.raises(UserError, match="delete it"):
        web.fetch_runtime()
    monkeypatch.setattr(web, "SHA512", checksum)
    assert web.fetch_runtime() == tmp_path / "archives" / NAME


def test_without_a_network_it_is_said_where_the_archive_may_be_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPLAB_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(web, "RUNTIME", f"http://127.0.0.1:9/{NAME}")
    with pytest.raises(UserError, match=f"put it there: {tmp_path / 'archives' / NAME}"):
        web.fetch_runtime()


def test_what_a_page_cannot_show_is_refused_before_any_work() -> None:
    classifier = dataclasses.replace(TINY_MODEL, head="classifier")
    four = dataclasses.replace(TINY_MODEL, channels=4)
    for model, why in ((classifier, "classifier"), (four, "model.channels = 4")):
        with pytest.raises(UserError, match=why):
            web.for_page(Weights(model, TaskConfig(), {}))


# ---- in a browser


class Shown(NamedTuple):
    """A page of a network in a browser, at its address; and the network, also fitting images."""

    page: Page
    address: str
    folder: Path
    predictor: Predictor
    fitting: Predictor


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt install chromium")
    if not (weights_folder() / "archives" / NAME).is_file():
        pytest.skip("onnxruntime-web is not at hand: `deeplab export ... --to web` downloads it")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


RGB, GRAY, ANY_SIZE = (3, "keep", BOX), (1, "fit", BOX), (3, "keep", None)
on_one_network = pytest.mark.parametrize("shown", [RGB], indirect=True, ids=["rgb keep"])


@pytest.fixture(
    scope="module", params=[RGB, GRAY, ANY_SIZE], ids=["rgb keep", "gray fit", "any size"]
)
def shown(
    request: pytest.FixtureRequest, browser: Page, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shown]:
    from deeplab_jax.export.artefact import Request, export_weights

    folder = tmp_path_factory.mktemp("my page")
    channels, resize, size = request.param
    weights = network(channels, resize=resize, eval_size=size)
    # Made ones would be of 513 x 513, where random weights sum up rounding.
    image = None if size else write_images(tmp_path_factory.mktemp("images"))[0]
    export_weights(weights, Request("web", folder, images=image))
    with open_server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}/"
        browser.open(address)
        browser.wait("at('status').textContent === 'Ready.'")
        predictor = fitting = Predictor(weights)
        if resize == "keep" and size:
            task = dataclasses.replace(weights.task, resize="fit")
            fitting = Predictor(weights._replace(task=task))
        yield Shown(browser, address, folder, predictor, fitting)
        server.shutdown()


def show(page: Page, file: Path) -> str:
    """Drop a file on a page; what it says of it."""
    page.run("at('panel').hidden = true, fail()")
    page.drop(file)
    page.wait("!at('error').hidden || (result && !at('panel').hidden)")
    return str(page.run("at('error').textContent || at('status').textContent"))


def saved(page: Page, kind: str) -> Image.Image:
    """The PNG that a button saves."""
    blob = f"makers.{kind}(result.size[1], result.size[0])"
    url = page.run(
        f"{blob}.then((blob) => new Promise((done) => Object.assign(new FileReader(),"
        " {onload: (event) => done(event.target.result)}).readAsDataURL(blob)))"
    )
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def read(file: Path, predictor: Predictor) -> np.ndarray:
    """An image as a network takes it."""
    mode = "L" if predictor.model.image_channels == 1 else "RGB"
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB").convert(mode)
    return np.atleast_3d(np.asarray(image))


def write_images(folder: Path) -> list[Path]:
    """Images smaller and larger than BOX, of several kinds; one lies, by its EXIF tag."""
    rng = np.random.default_rng(0)
    files = []
    for size, name in [
        ((40, 56), "small.png"),
        ((65, 81), "exact.webp"),
        ((300, 211), "large.jpg"),
        ((97, 260), "wide.png"),
        ((61, 33), "turned.jpg"),
    ]:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
        image = coarse.resize(size[::-1], Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "turned.jpg" else 1
        image.save(folder / name, exif=exif, **({"lossless": True} if "webp" in name else {}))
        files.append(folder / name)
    Image.fromarray(rng.integers(0, 256, (30, 30), np.uint8)).save(folder / "gray.png")
    return [*files, folder / "gray.png"]


def test_a_dropped_image_has_the_labels_of_predict(shown: Shown, tmp_path: Path) -> None:
    page, seen = shown.page, set[int]()
    for file in write_images(tmp_path):
        said = show(page, file)
        pixels = read(file, shown.predictor)
        inside = all(n <= most for n, most in zip(pixels.shape[:2], BOX, strict=True))
        labels = (shown.predictor if inside else shown.fitting).predict(pixels)
        ids, colored = np.asarray(saved(page, "ids")), saved(page, "colors").convert("RGB")
        assert ids.shape == labels.shape
        # Where two logits nearly are the same, rounding decides.
        assert np.mean(ids != labels) <= 0.001, file.name
        np.testing.assert_array_equal(np.asarray(colored), np.array(COLORS, np.uint8)[ids])
        assert saved(page, "overlay").size == labels.shape[::-1]
        largest = np.bincount(labels.ravel()).argmax()
        assert said.startswith(f"{file.name}: {CLASSES[largest]} ")
        seen |= {*np.unique(labels)}
    assert len(seen) > 1  # else agreement says nothing


@on_one_network
def test_arrow_keys_tell_class_and_probability(shown: Shown, tmp_path: Path) -> None:
    page, file = shown.page, write_images(tmp_path)[0]
    show(page, file)
    p = shown.predictor.predict(read(file, shown.predictor), probabilities=True)
    p = p[p.shape[0] // 2, p.shape[1] // 2]
    page.run("overlay.focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowUp", code="ArrowUp")
    tip, said = page.run("[tip.textContent, at('status').textContent]")
    name, percent = tip.removesuffix(" %").rsplit(" ", 1)
    assert name == CLASSES[p.argmax()] and abs(int(percent) - 100 * p.max()) < 0.6
    assert said == f"{tip}, 50 % from the left, 50 % from the top."


@on_one_network
@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("notes.txt", b"hello", "is not an image"),
        ("broken.jpg", b"hello", "cannot read broken.jpg"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot read drawing.svg"),
        ("thin.png", (1, 9), "too small"),
        ("huge.png", (8200, 8200), "at most 64 megapixels"),
    ],
)
def test_bad_images_are_said(
    shown: Shown, tmp_path: Path, name: str, content: Any, why: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        Image.new("L", content).save(tmp_path / name)
    assert why in show(shown.page, tmp_path / name)


@on_one_network
def test_transparent_parts_are_said(shown: Shown, tmp_path: Path) -> None:
    Image.new("RGBA", (30, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    show(shown.page, tmp_path / "clear.png")
    assert "transparent parts" in shown.page.run("at('note').textContent")


@on_one_network
def test_the_page_is_alone_and_may_use_threads(shown: Shown) -> None:
    page = shown.page
    assert page.run("crossOriginIsolated")
    assert page.run("fetch('https://example.com').then(() => false, () => true)")
    assert not page.errors


@on_one_network
def test_class_names_are_text(shown: Shown, tmp_path: Path) -> None:
    show(shown.page, write_images(tmp_path)[0])
    assert shown.page.run("document.querySelectorAll('#classes b').length") == 0


@on_one_network
def test_a_folder_that_was_not_copied_whole_is_said(shown: Shown) -> None:
    page, address, folder, *_ = shown
    for name in ("model.onnx", "ort/ort-wasm-simd-threaded.wasm"):
        file = folder / name
        content = file.read_bytes()
        for change, why in ((file.unlink, "is missing here (404)"), (None, "is not the file that")):
            if change:
                change()
            else:
                file.write_bytes(content[:1000])
            page.open(address)
            page.wait("!at('error').hidden")
            said = page.run("at('error').textContent")
            assert said.startswith(name) and why in said
        file.write_bytes(content)
    page.open(folder.joinpath("index.html").as_uri())
    assert "deeplab serve" in page.run("at('error').textContent")


@on_one_network
def test_what_is_told_of_the_network(shown: Shown) -> None:
    about = json.loads((shown.folder / "model.json").read_text(encoding="utf-8"))
    assert about["name"] == shown.folder.name
    assert [row["name"] for row in about["classes"]] == [*CLASSES]
    sizes = {name: (shown.folder / name).stat().st_size for name in about["files"]}
    assert about["files"] == sizes and len(sizes) == 1 + len(web.RUNTIME_FILES)


def test_the_command_writes_no_page_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deeplab_jax.export.artefact import Request, check_request

    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    (tmp_path / "index.html").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is there already"):
        check_request(Request("web", tmp_path))
