"""A network as a web page: model.onnx, the page of page/, and the runtime that browsers run it by.

The page fetches nothing from elsewhere: any static web server serves the folder.
"""

import base64
import dataclasses
import gzip
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from deeplab_jax.errors import UserError
from deeplab_jax.export.readme import MARK
from deeplab_jax.files import json_text, write_atomically
from deeplab_jax.weights.download import download
from deeplab_jax.weights.files import Weights
from deeplab_jax.weights.readers import read_tar
from deeplab_jax.weights.zoo import MB, weights_folder

PAGE = ("index.html", "style.css", "app.js", "network.js")
# onnxruntime-web of npm's registry, with the checksum that is published there (`dist.integrity`).
RUNTIME = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
RUNTIME_BYTES = 33_106_585
RUNTIME_FILES = (  # of package/dist: with WebGPU and, half as large, without
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
)
MOST_BYTES = 256 * MB  # of the whole archive, unpacked: 130 MB
README = """\
{mark}
# Segmentation in the browser

`deeplab serve .` in this folder, then open the address that it prints. Or copy the folder to any
static web server, by https: nothing else is needed, and images never leave the browser. It is
faster where the server sends these two headers, as `deeplab serve` does, for threads:

    Cross-Origin-Opener-Policy: same-origin
    Cross-Origin-Embedder-Policy: require-corp

Compared: {proof}
"""


def for_page(weights: Weights) -> Weights:
    """The weights as a page has them: a browser gives it 8 bits, whatever range they were of.

    Raises:
      UserError: a page cannot show such a network; the runtime cannot be had.
    """
    model, task = weights.model, weights.task
    if model.head == "classifier":
        raise UserError("--to web: a page shows maps of classes, which a classifier has none of")
    if model.image_channels not in (1, 3):
        raise UserError(
            f"--to web: model.channels = {model.image_channels}, but a browser reads images as"
            " RGB: allowed are 3, and 1, their brightness"
        )
    fetch_runtime()  # before the work
    return weights._replace(task=dataclasses.replace(task, range=None))


def fetch_runtime() -> Path:
    """The archive of the runtime, downloaded once and kept beside the weights.

    Raises:
      UserError: it cannot be had, with where to put it; or it is not the one that is meant.
    """
    archive = download(RUNTIME, weights_folder() / "archives", RUNTIME_BYTES)
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha512").digest()
    if base64.b64encode(found).decode() != SHA512:
        raise UserError(f"{archive}: not the file of {RUNTIME}: delete it, to download it again")
    return archive


def read_runtime(archive: Path) -> dict[str, bytes]:
    """The files of the runtime by their names; of the archive's others nothing is kept.

    Raises:
      UserError: it lacks one.
    """
    with gzip.open(archive) as stream:
        files = {n: data for n, data in read_tar(stream, MOST_BYTES) if n in RUNTIME_FILES}
    if missing := sorted({*RUNTIME_FILES} - {*files}):
        raise UserError(f"{archive}: holds no {', '.join(missing)}")
    return files


def write_page(folder: Path, about: Mapping[str, Any], proof: str) -> None:
    """Write what makes a page of the folder's model.onnx; `about` is what its metadata say.

    The page is called as the folder is.

    Raises:
      UserError: the runtime cannot be had.
      OSError: something cannot be written.
    """
    runtime = folder / "ort"
    runtime.mkdir(exist_ok=True)
    sizes = {"model.onnx": (folder / "model.onnx").stat().st_size}
    for name, content in read_runtime(fetch_runtime()).items():
        write_atomically(runtime / name, content)
        sizes[f"ort/{name}"] = len(content)
    page = resources.files("deeplab_jax.export") / "page"
    for name in PAGE:
        write_atomically(folder / name, (page / name).read_bytes())
    write_atomically(folder / "README.md", README.format(mark=MARK, proof=proof))
    # The sizes are what progress is measured by, and how a cut copy is found out.
    told = {"name": folder.resolve().name, **about, "files": sizes}
    write_atomically(folder / "model.json", json_text(told, indent=1) + "\n")
