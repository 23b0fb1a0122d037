"""README.md of an exported folder: what stands there, and a program that runs it without us."""

import json

from deeplab_jax.export.prediction import KEY, Prediction

MARK = "<!-- written by deeplab export -->"
LOAD = {
    "onnx": """\
import onnxruntime
model = onnxruntime.InferenceSession("model.onnx")
about = json.loads(model.get_modelmeta().custom_metadata_map["deeplab_jax"])""",
    "stablehlo": """\
from jax import export
with open("model.stablehlo", "rb") as file, open("model.json", encoding="utf-8") as text:
    model, about = export.deserialize(bytearray(file.read())), json.load(text)""",
}
OPEN = 'image = Image.open(sys.argv[1]).convert("RGB")'
FIXED = 'h, w = about["input"]["size"]'
ANY = """\
s = about["input"]["stride"]  # any size k * s + 1, k from 2
h, w = (max(2, -(-(n - 1) // s)) * s + 1 for n in (image.height, image.width))"""
FIT = """\
scale = min(h / image.height, w / image.width)
if scale < 1 or about["input"]["resize"] == "fit":
    image = image.resize([max(1, int(n * scale)) for n in image.size], Image.BILINEAR)"""
CENTRE = """\
fx, fy = image.width / round(w / 0.875), image.height / round(h / 0.875)  # the central 87.5 %
x, y = (round(w / 0.875) - w) // 2 * fx, (round(h / 0.875) - h) // 2 * fy
image = image.resize((w, h), Image.BILINEAR, box=(x, y, x + w * fx, y + h * fy))"""
ARRAY = """\
image = np.load(sys.argv[1])[:h, :w]  # {dtype}[h, w, {channels}]"""
PAD = """\
pixels = np.asarray(image)
batch = np.empty((1, h, w, pixels.shape[2]), about["input"]["dtype"])
batch[:] = about["input"]["fill"]
batch[0, : len(pixels), : pixels.shape[1]] = pixels"""
RUN = {
    "onnx": '(result,) = model.run(None, {"image": batch})',
    "stablehlo": "result = np.asarray(model.call(batch))",
}
SEGMENT = """\
labels = result[0, : len(pixels), : pixels.shape[1]]{argmax}
for i in np.unique(labels):
    print(about["classes"][i]["name"], f"{{100 * np.mean(labels == i):.1f}} %")
colors = np.array([c["color"] for c in about["classes"]], np.uint8)
Image.fromarray(colors[labels]).save("labels.png")"""
CLASSIFY = """\
print(about["classes"][int(result[0, 0, 0]{argmax})]["name"])"""
NEEDS = {"onnx": "numpy pillow onnxruntime", "stablehlo": "numpy pillow jax flatbuffers"}


def write_example(prediction: Prediction, form: str) -> str:
    """A program that predicts an image file by the exported file, and draws or names it."""
    classifies = prediction.weights.model.head == "classifier"
    rgb = prediction.dtype.name == "uint8" and prediction.shape[2] == 3
    size = ANY if prediction.size is None else FIXED
    if rgb:
        read = [OPEN, size, CENTRE if classifies else FIT]
    else:
        array = ARRAY.format(dtype=prediction.dtype.name, channels=prediction.shape[2])
        read = [
            size.replace("image.height, image.width", "*np.load(sys.argv[1]).shape[:2],"),
            array,
        ]
    argmax = "" if prediction.output == "labels" else ".argmax(-1)"
    result = (CLASSIFY if classifies else SEGMENT).format(argmax=argmax)
    imports = "import json, sys\nimport numpy as np\nfrom PIL import Image"
    return "\n".join([imports, LOAD[form], *read, PAD, RUN[form], result])


def write_readme(prediction: Prediction, form: str, proof: str) -> str:
    """The text of README.md."""
    about = json.loads(prediction.metadata()[KEY])
    source, names = about["input"], [row["name"] for row in about["classes"]]
    h, w = source["size"] or ("height", "width")
    sides = "" if source["size"] else f", both k * {source['stride']} + 1"
    low, high = source["range"]
    what = "class ids" if prediction.output == "labels" else "for each class"
    return f"""{MARK}
# {about["task"].capitalize()} by `model.{form}`

| | |
|---|---|
| `image` | {source["dtype"]}[batch, {h}, {w}, {source["channels"]}]{sides}, {low:g} to {high:g} |
| `{prediction.output}` | {what}, at the image's size |
| {len(names)} classes | {", ".join(names[:50])} |
| proof | {proof} |

Written by deeplab_jax {about["version"]}. `about`, below, is what a program must know of the file.
An image lies in the upper left of the input, and the rest is `fill`; a classifier sees the centre.

`pip install {NEEDS[form]}`, then `python example.py IMAGE`, with this as example.py:

```python
{write_example(prediction, form)}
```
"""
