"""The official weights by name: every row builds; what is fetched is converted without a flag."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from official import SHARED

import deeplab_jax
from deeplab_jax import UserError
from deeplab_jax.config import TaskConfig
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.weights import zoo
from deeplab_jax.weights.convert import OFFICIAL
from deeplab_jax.weights.detect import detect_network
from deeplab_jax.weights.tf_names import tf_slots

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


@pytest.mark.parametrize("name", zoo.ROWS)
def test_every_row_builds(name: str) -> None:
    row = zoo.ROWS[name]
    variables = abstract_variables(row.network)
    TaskConfig(eval_size=row.eval_size, resize=row.resize)
    # The file alone tells the network, for this is what the zoo says of what it leaves open.
    shapes = {slot.name: slot.file_shape for slot in tf_slots(row.network).values()}
    found, rates = detect_network(shapes, name, {}), row.network.rates
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


def test_an_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(UserError, match="xception65_voc"):
        deeplab_jax.load("xception65_vok")
