"""The official weights by name: every row builds; what is fetched is converted without a flag."""

import contextlib
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch_cases
from official import SHARED
from safetensors.numpy import save_file

import deeplab_jax
from deeplab_jax import UserError
from deeplab_jax.config import TaskConfig
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.weights import zoo
from deeplab_jax.weights.convert import OFFICIAL
from deeplab_jax.weights.detect import detect_network
from deeplab_jax.weights.files import load_weights
from deeplab_jax.weights.tf_names import tf_slots
from deeplab_jax.weights.torch_detect import detect_torch_network
from deeplab_jax.weights.torch_names import torch_slots

ARCHIVE = "deeplabv3_mnv2_dm035_test_2026_11_26"
SEGMENTATION = [name for name, row in zoo.ROWS.items() if not row.backbone_only]
# Trainable parameters of networks that have no released checkpoint but these; facts of the source.
PARAMETERS = {
    "xception71_dpc_cityscapes": 41_608_523,
    "mobilenetv3_large_cityscapes": 1_507_198,
    "mobilenetv3_small_cityscapes": 468_830,
    "edgetpu_cityscapes": 3_603_283,
    "edgetpu_slim_cityscapes": 1_942_187,
}


def test_all_published_segmentation_checkpoints_have_a_row() -> None:
    assert len(SEGMENTATION) == 18 and len({row.url for row in zoo.ROWS.values()}) == len(zoo.ROWS)
    assert all(name in zoo.format_zoo() for name in zoo.ROWS)
    for test in re.findall(r"tests/\S+\.py", zoo.PROOF):  # which it names, are there
        assert (Path(__file__).parents[2] / test).is_file()


@pytest.mark.parametrize("name", zoo.ROWS)
def test_every_row_builds(name: str) -> None:
    row = zoo.ROWS[name]
    variables = abstract_variables(row.network)
    TaskConfig(eval_size=row.eval_size, resize=row.resize)
    # The file alone tells the network, for this is what the zoo says of what it leaves open.
    slots = torch_slots(row.network) if row.repository else tf_slots(row.network)
    detect = detect_torch_network if row.repository else detect_network
    shapes = {slot.name: slot.file_shape for slot in slots.values()}
    found, rates = detect(shapes, name, {}), row.network.rates
    wanted = replace(row.network, num_classes=row.network.classes, atrous_rates=found.atrous_rates)
    assert found == wanted and found.rates == rates
    if name in PARAMETERS:
        leaves = [leaf.size for leaf in _leaves(variables["params"])]
        assert sum(leaves) == PARAMETERS[name]


def test_every_segmentation_row_has_class_names() -> None:
    assert {zoo.ROWS[name].network.classes for name in SEGMENTATION} <= OFFICIAL.keys()


def _leaves(tree: object) -> Iterator[np.ndarray]:
    if isinstance(tree, dict):
        for part in tree.values():
            yield from _leaves(part)
    else:
        yield tree  # type: ignore[misc]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name whose archive a server on the loopback has; weights are kept in the test's folder."""
    folder = SHARED / "tf_checkpoints"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    handler = lambda *a: Quiet(*a, directory=str(folder))  # noqa: E731
    monkeypatch.setenv("DEEPLAB_WEIGHTS", str(tmp_path / "weights"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{ARCHIVE}.tar.gz"
        flags = zoo.MNV2 | {"depth_multiplier": 0.35, "aspp_convs_filters": 64, "num_classes": 21}
        row = zoo.Row(url, "VOC test", "", 3, flags, (129, 161))
        monkeypatch.setitem(zoo.ROWS, "test_voc", row)
        yield "test_voc"
        server.shutdown()


def test_a_name_is_fetched_converted_and_predicts_what_the_official_export_does(
    served: str, tmp_path: Path
) -> None:
    network = deeplab_jax.load(served)
    assert network.class_names[15] == "person"
    rng = np.random.Generator(np.random.PCG64(7))
    image = rng.integers(0, 256, size=(1, 101, 150, 3)).astype(np.uint8)[0]
    expected = np.load(SHARED / "tf_checkpoints" / f"{ARCHIVE}_expected.npz")
    found = network.predict(image, probabilities=True)[::5, ::5]
    np.testing.assert_allclose(found, expected["SemanticProbabilities_stride5"][0], atol=1e-5)
    files = sorted(p.name for p in (tmp_path / "weights").iterdir())
    assert "test_voc" in files and not any(name.startswith(".test_voc") for name in files)
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "weights" / "archives" / f"{ARCHIVE}.tar.gz").unlink()
    assert deeplab_jax.load(served).model == network.model  # converted once


@pytest.fixture
def on_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for huggingface_hub which has one file, that of the row test_timm."""
    model = torch_cases.CASES["timm_mobilenetv2"].model
    slots = torch_slots(model).values()
    file = tmp_path / "served.safetensors"
    save_file({s.name: torch_cases.weight(s.name, s.file_shape) for s in slots}, file)
    asked: list[str] = []

    def hf_hub_download(repository: str, name: str, *, local_dir: Path) -> str:
        asked.append(f"{repository}/{name}")
        local_dir.mkdir()
        return str(shutil.copy(file, local_dir / name))

    hub = SimpleNamespace(
        hf_hub_url=lambda repository, name: f"{repository}/{name}",
        get_hf_file_metadata=lambda url: SimpleNamespace(size=hub.size),
        hf_hub_download=hf_hub_download,
        asked=asked,
        size=file.stat().st_size,
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setenv("DEEPLAB_WEIGHTS", str(tmp_path / "weights"))
    row = zoo.Row(f"{zoo.HUB}timm/small/resolve/main/model.safetensors", "ImageNet", "", 1, {})
    monkeypatch.setitem(zoo.ROWS, "test_timm", row._replace(backbone_only=True))
    return hub


def test_a_backbone_of_timms_is_fetched_from_the_hub_once(
    on_hub: SimpleNamespace, tmp_path: Path
) -> None:
    folder = zoo.fetch("test_timm")
    weights = load_weights(folder, complete=False)
    assert weights.model.mobilenet_form == "torch" and list(weights.variables["params"]) == [
        "backbone"
    ]
    assert on_hub.asked == ["timm/small/model.safetensors"] and zoo.fetch("test_timm") == folder
    shutil.rmtree(folder)
    zoo.fetch("test_timm")
    archives = tmp_path / "weights" / "archives"
    kept = {p.name for p in archives.iterdir() if not p.name.endswith(".lock")}
    assert len(on_hub.asked) == 1 and kept == {"small.safetensors", "checksums.json"}
    shutil.rmtree(folder)
    (archives / "small.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match="its checksum is not the one"):
        zoo.fetch("test_timm")


def test_what_the_hub_does_not_give_is_one_message(
    on_hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = (
        r"download https://huggingface\.co/timm/small/resolve.* put it there: .*small\.safeten"
    )
    on_hub.size = 10**9
    with pytest.raises(UserError, match="1000 MB or more; expected are at most"):
        zoo.fetch("test_timm")
    on_hub.get_hf_file_metadata = lambda url: 1 / 0
    with pytest.raises(UserError, match=rf"division by zero; .*{by_hand}"):
        zoo.fetch("test_timm")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=rf"pip install huggingface_hub; .*{by_hand}"):
        zoo.fetch("test_timm")


def test_an_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(UserError, match="xception65_voc"):
        deeplab_jax.load("xception65_vok")
