"""`deeplab export`: the folder that it writes, once what stands in it is proved."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from deeplab_jax.config import PAPER_CROP
from deeplab_jax.data.sizes import input_size
from deeplab_jax.errors import UserError
from deeplab_jax.export.prediction import KEY, Output, Prediction
from deeplab_jax.export.proof import (
    SAME_LABELS,
    Agreement,
    compare,
    first_difference,
    read_images,
)
from deeplab_jax.export.readme import MARK, write_readme
from deeplab_jax.export.web import for_page, write_page
from deeplab_jax.files import writable_folder, write_atomically
from deeplab_jax.inference.formats import new_file
from deeplab_jax.lowering.session import check_installed
from deeplab_jax.weights.files import Weights

Form = Literal["onnx", "litert", "stablehlo", "web"]
PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("tensorflow", "ai_edge_litert"),
    "stablehlo": ("flatbuffers",),
    "web": ("onnx", "onnxruntime"),
}
ENDINGS = {"onnx": "onnx", "litert": "tflite", "stablehlo": "stablehlo", "web": "onnx"}


class Request(NamedTuple):
    """What `deeplab export` is asked for."""

    form: Form
    out: Path
    output: Output = "labels"
    any_size: bool = False
    half: bool = False
    force: bool = False
    images: Path | None = None


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
    readme = writable_folder(request.out, "--out") / "README.md"
    ours = readme.exists() and MARK in readme.read_text(encoding="utf-8", errors="replace")
    for file in (readme, request.out / "index.html"):
        if file.exists() and not ours:
            raise UserError(f"{file} is there already, no export wrote it: choose another --out")


def export_weights(weights: Weights, request: Request) -> str:
    """Write OUT/model.FORM and OUT/README.md; returns what to say of them.

    Raises:
      UserError: what `check_request` raises; the file does not agree with our prediction, and is
        not there.
    """
    check_request(request)
    web, output = request.form == "web", request.output
    if web:
        weights, output = for_page(weights), "coarse"
    prediction = Prediction(weights, output, size_of(weights, request), request.half)
    images, words = read_images(prediction, request.images)
    file = request.out / f"model.{ENDINGS[request.form]}"
    with new_file(file) as staged:
        if request.form == "stablehlo":
            agreement = write_stablehlo(staged, prediction, images)
        elif request.form == "litert":
            agreement = write_litert(staged, prediction, images, request.force)
        else:
            agreement = write_onnx(staged, prediction, images, request.force)
    proof = f"{words}: {agreement}"
    if web:
        write_page(request.out, json.loads(prediction.metadata()[KEY]), proof)
        return f"{proof}\nwrote {request.out}: `deeplab serve {request.out}` shows it"
    if request.form != "onnx":  # which has a place for it
        write_atomically(request.out / "model.json", prediction.metadata()[KEY])
    write_atomically(request.out / "README.md", write_readme(prediction, file.name, proof))
    return f"{proof}\nwrote {file}, and README.md with an example"


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


def write_onnx(
    file: Path, prediction: Prediction, images: Sequence[np.ndarray], force: bool
) -> Agreement:
    """Write a file of ONNX, and compare it as onnxruntime runs it."""
    import onnx

    from deeplab_jax.export import onnx_file

    lowered = onnx_file.lower_prediction(prediction)
    onnx.save(lowered.model, file)
    model = onnx.load(file)
    run = onnx_file.run_with_logits(model, lowered.layers)
    agreement = compare(run, file, prediction, images)
    if prediction.half:
        check_half(agreement, force)
    elif not agreement.close:
        found = onnx_file.run_layers(model, lowered.layers, images[0])
        raise disagree(agreement, f": {first_difference(found, prediction, images[0])}")
    return agreement


def write_litert(
    file: Path, prediction: Prediction, images: Sequence[np.ndarray], force: bool
) -> Agreement:
    """Write a TFLite file, and compare it as LiteRT runs it."""
    from deeplab_jax.export import litert

    content = litert.write_tflite(prediction)
    file.write_bytes(content)
    run, logits_of = litert.run_output(content, prediction), litert.run_logits(prediction)
    agreement = compare(run, file, prediction, images, logits_of)
    if prediction.half:
        check_half(agreement, force)
    elif not agreement.close:
        found = litert.run_layers(prediction, images[0])
        raise disagree(agreement, f": {first_difference(found, prediction, images[0])}")
    return agreement


def write_stablehlo(file: Path, prediction: Prediction, images: Sequence[np.ndarray]) -> Agreement:
    """Write a file of StableHLO, and compare it as JAX runs it."""
    from deeplab_jax.export import stablehlo

    file.write_bytes(stablehlo.serialize(prediction))
    agreement = compare(stablehlo.run_file(file), file, prediction, images)
    if not agreement.close:
        raise disagree(agreement)
    return agreement


def check_half(agreement: Agreement, force: bool) -> None:
    """Raise UserError where float16 changes too many labels."""
    if not agreement.same >= SAME_LABELS and not force:
        raise UserError(
            f"float16 gives {100 * agreement.same:.2f} % of the labels, below"
            f" {100 * SAME_LABELS:g} %: leave --half out, or take it with --force"
        )


def disagree(agreement: Agreement, where: str = "") -> UserError:
    """What is said of a file that is not ours in other words; `where` it is not."""
    what = f"the file does not agree with our prediction ({agreement}){where}"
    return UserError(f"{what}. Nothing was written; please report it")
