"""`deeplab export`: the folder that it writes, once what stands in it is proved."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from deeplab_jax.config import PAPER_CROP, Config
from deeplab_jax.data.sizes import input_size
from deeplab_jax.errors import UserError
from deeplab_jax.export import precision
from deeplab_jax.export.precision import Candidate
from deeplab_jax.export.prediction import KEY, Output, Prediction
from deeplab_jax.export.proof import Agreement, compare, first_difference, read_images
from deeplab_jax.export.readme import MARK, write_readme
from deeplab_jax.export.web import for_page, write_page
from deeplab_jax.files import writable_folder, write_atomically
from deeplab_jax.inference.formats import unwritable
from deeplab_jax.lowering.session import check_installed
from deeplab_jax.weights.files import Weights

Form = Literal["onnx", "litert", "openvino", "stablehlo", "web"]
PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("tensorflow", "ai_edge_litert"),
    "openvino": ("onnx", "onnxruntime", "openvino"),
    "stablehlo": ("flatbuffers",),
    "web": ("onnx", "onnxruntime"),
}
ENDINGS = {"litert": "tflite", "openvino": "xml", "stablehlo": "stablehlo"}  # others: onnx


class Request(NamedTuple):
    """What `deeplab export` is asked for."""

    form: Form
    out: Path
    output: Output = "labels"
    any_size: bool = False
    half: bool = False
    int8: Path | None = None
    """Images to find the range of each feature map on."""
    force: bool = False
    images: Path | None = None
    labelled: Path | None = None

    @property
    def bits(self) -> precision.Bits:
        """How numbers are kept in the file."""
        return "int8" if self.int8 else "float16" if self.half else "float32"


def check_request(request: Request) -> None:
    """Raise UserError for what cannot be had, before any work."""
    check_installed(*PACKAGES[request.form])
    if request.form == "stablehlo" and (request.any_size or request.half):
        raise UserError("--any-size, --half: JAX exports one size, in float32; leave them out")
    if request.form == "litert" and request.any_size:
        raise UserError("--any-size: a TFLite file has one size; leave it out")
    if request.form == "web" and (request.any_size or request.half or request.output != "labels"):
        what = "a page takes sizes as `predict`, in float32, and finds labels and probabilities"
        raise UserError(f"--any-size, --half, --output: {what}; leave them out")
    if request.int8 and request.form not in ("onnx", "litert"):
        raise UserError(f"--int8: not in a file for {request.form}; --to onnx and litert have it")
    if request.int8 and request.half:
        raise UserError("--half, --int8: a file has one of them; leave one out")
    if request.labelled and request.bits == "float32":
        raise UserError("--data: float32 scores as ours does; it goes with --half or --int8")
    readme = writable_folder(request.out, "--out") / "README.md"
    ours = readme.exists() and MARK in readme.read_text(encoding="utf-8", errors="replace")
    for file in (readme, request.out / "index.html"):
        if file.exists() and not ours:
            raise UserError(f"{file} is there already, no export wrote it: choose another --out")


def export_weights(weights: Weights, request: Request, labelled: Config | None = None) -> str:
    """Write OUT/model.FORM and OUT/README.md; returns what to say of them.

    `labelled`: the evaluation of these weights by which files of fewer bits are scored.

    Raises:
      UserError: what `check_request` raises; the file does not agree with our prediction, and is
        not there.
    """
    check_request(request)
    web, output = request.form == "web", request.output
    if web:
        weights, output = for_page(weights), "coarse"
    prediction = Prediction(weights, output, size_of(weights, request), request.half)
    images, words = read_images(prediction, request.images or request.int8)
    file = request.out / f"model.{ENDINGS.get(request.form, 'onnx')}"
    with new_files(request.out) as folder:
        staged = folder / file.name
        if request.bits == "float32":
            report = proof = f"{words}: {WRITERS[request.form](staged, prediction, images)}"
        else:
            candidates = shrink(staged, prediction, request)
            rows = precision.measure(candidates, prediction, images, labelled)
            precision.check(rows[-1], request.bits, request.force)
            proof = f"{words}: {rows[-1]}"
            report = f"{words}:\n{precision.format_rows(rows)}"
    if web:
        write_page(request.out, json.loads(prediction.metadata()[KEY]), proof)
        return f"{proof}\nwrote {request.out}: `deeplab serve {request.out}` shows it"
    if request.form != "onnx":  # which has a place for it
        write_atomically(request.out / "model.json", prediction.metadata()[KEY])
    write_atomically(request.out / "README.md", write_readme(prediction, file.name, proof))
    return f"{report}\nwrote {file}, and README.md with an example"


def size_of(weights: Weights, request: Request) -> tuple[int, int] | None:
    """Height and width of the file's input; None: any.

    As at evaluation; where each image has its own, the paper's, but any on a page.
    """
    anything = request.any_size or (request.form == "web" and weights.task.eval_size is None)
    if not anything:
        return input_size(weights.task.eval_size or PAPER_CROP, weights.model, weights.task)
    if weights.model.head == "classifier" or weights.task.resize == "fit":
        raise UserError("--any-size: images are brought to this network in one size; leave it out")
    return None


def write_onnx(file: Path, prediction: Prediction, images: Sequence[np.ndarray]) -> Agreement:
    """Write a file of ONNX, and compare it as onnxruntime runs it."""
    import onnx

    from deeplab_jax.export import onnx_file

    lowered = onnx_file.lower_prediction(prediction)
    onnx.save(lowered.model, file)
    model = onnx.load(file)
    run = onnx_file.run_with_logits(model, lowered.layers)
    agreement = compare(run, file, prediction, images)
    if not agreement.close:
        found = onnx_file.run_layers(model, lowered.layers, images[0])
        raise disagree(agreement, f": {first_difference(found, prediction, images[0])}")
    return agreement


def write_litert(file: Path, prediction: Prediction, images: Sequence[np.ndarray]) -> Agreement:
    """Write a TFLite file, and compare it as LiteRT runs it."""
    from deeplab_jax.export import litert

    content = litert.write_tflite(prediction)
    file.write_bytes(content)
    run, logits_of = litert.run_output(content, prediction), litert.run_logits(prediction)
    agreement = compare(run, file, prediction, images, logits_of)
    if not agreement.close:
        found = litert.run_layers(prediction, images[0])
        raise disagree(agreement, f": {first_difference(found, prediction, images[0])}")
    return agreement


def write_openvino(file: Path, prediction: Prediction, images: Sequence[np.ndarray]) -> Agreement:
    """Write the two files of OpenVINO, and compare them as it runs them."""
    from deeplab_jax.export import openvino_file

    logits = openvino_file.write_files(file, prediction)
    agreement = compare(openvino_file.run_files(file, logits), file, prediction, images)
    agreement = agreement._replace(megabytes=openvino_file.megabytes(file))
    if not agreement.close:
        raise disagree(agreement)
    return agreement


def write_stablehlo(file: Path, prediction: Prediction, images: Sequence[np.ndarray]) -> Agreement:
    """Write a file of StableHLO, and compare it as JAX runs it."""
    from deeplab_jax.export import stablehlo

    file.write_bytes(stablehlo.serialize(prediction))
    agreement = compare(stablehlo.run_file(file), file, prediction, images)
    if not agreement.close:
        raise disagree(agreement)
    return agreement


def disagree(agreement: Agreement, where: str = "") -> UserError:
    """What is said of a file that is not ours in other words; `where` it is not."""
    what = f"the file does not agree with our prediction ({agreement}){where}"
    return UserError(f"{what}. Nothing was written; please report it")


WRITERS = {
    "onnx": write_onnx,
    "web": write_onnx,
    "litert": write_litert,
    "openvino": write_openvino,
    "stablehlo": write_stablehlo,
}


def shrink(file: Path, prediction: Prediction, request: Request) -> list[Candidate]:
    """Write a file of fewer bits; returns what runs one of float32, and what runs it."""
    name, whole = f"{request.form}, {request.bits}", prediction._replace(half=False)
    usual = f"{request.form}, float32"
    if request.form == "openvino":
        from deeplab_jax.export import openvino_file

        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder) / file.name
            openvino_file.write_files(other, whole)
            first = openvino_file.candidate(usual, other)
        openvino_file.write_files(file, prediction)
        return [first, openvino_file.candidate(name, file)]
    examples = read_images(whole, request.int8)[0] if request.int8 else []
    if request.form == "litert":
        from deeplab_jax.export import litert

        small = litert.write_int8(whole, examples) if examples else litert.write_tflite(prediction)
        file.write_bytes(small)
        contents = {usual: litert.write_tflite(whole), name: small}
        return [litert.candidate(key, content, whole) for key, content in contents.items()]
    import onnx

    from deeplab_jax.export import int8, onnx_file

    model = onnx_file.lower_prediction(whole).model
    if examples:
        quantised = int8.quantise(model, examples)
    else:
        quantised = onnx_file.lower_prediction(prediction).model
    onnx.save(quantised, file)
    return [onnx_file.candidate(usual, model), onnx_file.candidate(name, onnx.load(file))]


@contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """A folder inside, whose files take their places at the end, or are gone where that fails."""
    try:
        with tempfile.TemporaryDirectory(prefix=".new", dir=folder) as staging:
            yield Path(staging)
            for file in Path(staging).iterdir():
                os.replace(file, folder / file.name)
    except OSError as error:
        raise unwritable(folder, error) from error
