"""Labels of an official 8-bit .tflite network, beside those of ours with its weights as floats.

    pip install ai-edge-litert
    python -m benchmarks.tflite FILE.tflite IMAGE ... [--out WEIGHTS.npz]

Its kernels and biases are dequantised and brought under their TF names, from which the network is
read as `convert` reads it; the output stride is the one of the file's logits. Each image is scaled
to fit and padded with gray; pixels of the padding are not counted. Files are those of
github.com/google-coral/test_data, deeplab*_quant.tflite.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from deeplab_jax import build_model
from deeplab_jax.models import mean_pixel
from deeplab_jax.ops.resize import resize_bilinear
from deeplab_jax.weights import from_tf_variables
from deeplab_jax.weights.detect import detect_network

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
FOLDED = "/weights_quant"  # behind the scope, in the name of a quantised kernel


def read_tflite(interpreter: Any) -> tuple[dict[str, np.ndarray], int]:
    """Kernels and biases under TF names, BatchNorm folded in; and the height of the logits."""
    arrays: dict[str, np.ndarray] = {}
    for op in interpreter._get_ops_details():  # no public method names what an operation reads
        if op["op_name"] not in CONVOLUTIONS:
            continue
        _, kernel, bias = (int(index) for index in op["inputs"])
        names = interpreter._get_tensor_details(kernel, 0)["name"].split(";")
        scope = next(name for name in names[::-1] if FOLDED in name).partition(FOLDED)[0]
        depthwise = op["op_name"] == "DEPTHWISE_CONV_2D"
        # [out, h, w, in], and [1, h, w, c]
        leaf = "depthwise_weights" if depthwise else "weights"
        arrays[f"{scope}/{leaf}"] = dequantise(interpreter, kernel).transpose(1, 2, 3, 0)
        arrays[f"{scope}/biases"] = dequantise(interpreter, bias)
        output = interpreter._get_tensor_details(int(op["outputs"][0]), 0)
    return arrays, int(output["shape"][1])


def dequantise(interpreter: Any, index: int) -> np.ndarray:
    """A tensor of integers as the floats that they stand for."""
    how = interpreter._get_tensor_details(index, 0)["quantization_parameters"]
    values = interpreter.get_tensor(index).astype(np.float64)
    return ((values - how["zero_points"]) * how["scales"]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--out", help="write the dequantised arrays there, as convert reads them")
    args = parser.parse_args()
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(args.file, num_threads=1)
    interpreter.allocate_tensors()
    arrays, rows = read_tflite(interpreter)
    if args.out:
        np.savez(args.out, **arrays)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    size = tuple(int(n) for n in source["shape"][1:3])
    shapes = {name: array.shape for name, array in arrays.items()}
    stride = {"output_stride": round((size[0] - 1) / (rows - 1))}
    config = detect_network(shapes, args.file, stride)
    model, variables = build_model(config), from_tf_variables(arrays, config)
    predict = jax.jit(
        lambda image: resize_bilinear(model.apply(variables, image, train=False), size).argmax(-1)
    )
    equal = count = 0
    for file in args.images:
        image = Image.open(file).convert("RGB")
        image.thumbnail(size[::-1])
        padded = np.full((1, *size, 3), mean_pixel(config), np.uint8)
        padded[0, : image.height, : image.width] = np.asarray(image)
        interpreter.set_tensor(source["index"], padded)
        interpreter.invoke()
        theirs = interpreter.get_tensor(target["index"]).reshape(size)
        same = np.asarray(predict(padded.astype(np.float32)))[0] == theirs
        same = same[: image.height, : image.width]
        equal, count = equal + same.sum(), count + same.size
        print(f"{file.name}: {100 * same.mean():.2f} % of {same.size} labels are equal")
    print(f"all: {100 * equal / count:.2f} % of {count}, by {config.backbone} {config.width}")


if __name__ == "__main__":
    main()
