"""Which form of an operation is fastest, at the very shapes that a network calls it with.

The passes of a convolution are timed apart: forward, and its gradients `dx` and `dw`. TB/s counts
each array of a pass once, so that every form compares with a copy.
"""

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.accelerator import kernels
from benchmarks.accelerator.measure import Entry, Figures, measure_ceilings, seconds
from deeplab_jax import ModelConfig, build_model
from deeplab_jax.models import layers
from deeplab_jax.ops import cpu, resize
from deeplab_jax.ops.conv import NO_PADS, Pads, conv
from deeplab_jax.ops.norm import batch_norm
from deeplab_jax.training.losses import mean_loss, pixel_losses

PASSES = ("forward", "dx", "dw")
BATCH, SIZE = 32, 513
APART = 0.02  # two right forms in bfloat16 are 0.005 apart
Passes = dict[str, Callable[[Array, Array, Array], Array]]  # of (x, kernel, dy)


class Call(NamedTuple):
    """A convolution as a network calls it for one image, of a map [h, w, c]."""

    kind: str
    map: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    rate: int
    pads: Pads

    @property
    def result(self) -> tuple[int, ...]:
        reach, sides = (self.kernel[0] - 1) * self.rate, zip(self.map, self.pads, strict=False)
        h, w = ((n + sum(pad) - reach - 1) // self.stride + 1 for n, pad in sides)
        return (h, w, self.map[2] if self.kind == "depthwise" else self.kernel[3])

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.map))
        return f"{sizes} to {self.result[2]}, stride {self.stride}, rate {self.rate}"


def record_calls(model: ModelConfig, size: int) -> Counter[Call]:
    """How often a network calls which convolution; what moves most in all comes first."""
    found: Counter[Call] = Counter()

    def record(kind: str, function: Any) -> Any:
        def call(x: Any, kernel: Any, stride: int, *rest: Any) -> Any:
            rate, pads = rest or (1, NO_PADS)
            found[Call(kind, x.shape[1:], kernel.shape, stride, rate, pads)] += 1
            return function(x, kernel, stride, *rest)

        return patch.object(layers, function.__name__, call)

    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    depthwise, pointwise = layers.depthwise_conv, layers.pointwise_conv
    with record("depthwise", depthwise), record("1x1", pointwise), record("dense", layers.conv):
        jax.eval_shape(partial(build_model(model).init, train=False), jax.random.key(0), image)
    moved = {call: n * (prod(call.map) + prod(call.result)) for call, n in found.items()}
    return Counter({call: found[call] for call in sorted(found, key=lambda call: -moved[call])})


# ----------------------------------------------------------------------------------- the forms


def differentiate(form: Callable[[Array, Array], Array]) -> Passes:
    """The passes of a form by autodiff, or by its own rule."""
    return {
        "forward": lambda x, kernel, dy: form(x, kernel),
        "dx": lambda x, kernel, dy: jax.vjp(lambda x: form(x, kernel), x)[1](dy)[0],
        "dw": lambda x, kernel, dy: jax.vjp(lambda k: form(x, k), kernel)[1](dy)[0],
    }


def depthwise_forms(call: Call) -> dict[str, Passes]:
    """Forms of a depthwise convolution by name, each with the passes that it can do."""
    stride, rate, pads = how = (call.stride, call.rate, call.pads)

    def sum_taps(x: Array, kernel: Array, dy: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        sums = cpu.kernel_gradient(padded, dy, kernel.shape[:2], stride, rate)
        return sums.reshape(kernel.shape)

    found = {
        "lax": differentiate(lambda x, k: conv(x, k, *how, groups=x.shape[-1])),
        "shifted": differentiate(lambda x, k: cpu.shifted_conv(x, k, *how)) | {"dw": sum_taps},
    }
    if rate > 1 and call.kernel[0] == 3 and pads == ((rate, rate),) * 2:
        found["space-to-batch"] = differentiate(partial(space_to_batch, rate=rate))
    if jax.default_backend() == "gpu" and call.kernel[0] == 3:
        found["pallas"] = {
            "forward": lambda x, kernel, dy: kernels.forward(x, kernel, *how),
            "dw": lambda x, kernel, dy: kernels.kernel_gradient(x, dy, *how),
        }
        if stride == 1:
            backward = kernels.input_gradient
            found["pallas"]["dx"] = lambda x, kernel, dy: backward(dy, kernel, rate, pads)
    return found


def space_to_batch(x: Array, kernel: Array, rate: int) -> Array:
    """A dilated 3x3 as a dense one on rate^2 maps, each of every rate-th pixel."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % rate), (0, -w % rate), (0, 0)))
    rows, columns = x.shape[1] // rate, x.shape[2] // rate
    x = x.reshape(b, rows, rate, columns, rate, c).transpose(0, 2, 4, 1, 3, 5)
    x = conv(x.reshape(-1, rows, columns, c), kernel, 1, 1, ((1, 1), (1, 1)), groups=c)
    x = x.reshape(b, rate, rate, rows, columns, c).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(b, rows * rate, columns * rate, c)[:, :h, :w]


def pointwise_forms(call: Call) -> dict[str, Passes]:
    """A 1x1 as a convolution, and as a product where it does not stride (`ops/dispatch.py`)."""
    found = {"convolution": differentiate(partial(conv, stride=call.stride))}
    product = differentiate(partial(cpu.pointwise_product, stride=1))
    return found | ({"product": product} if call.stride == 1 else {})


def depthwise_by(choose: Callable[[Call, str], str]) -> Callable[..., Array]:
    """`layers.depthwise_conv` whose every pass has the form of that name, `lax` where it cannot."""

    def run(name: str, x: Array, kernel: Array, dy: Array, *how: Any) -> Array:
        call = Call("depthwise", x.shape[1:], kernel.shape, *how)
        forms = depthwise_forms(call)
        form = forms["lax"] | forms.get(choose(call, name), {})
        return form[name](x, kernel.astype(x.dtype), dy)

    @partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
    def depthwise(x: Array, kernel: Array, stride: int, rate: int, pads: Pads) -> Array:
        return run("forward", x, kernel, x, stride, rate, pads)

    def backward(stride: int, rate: int, pads: Pads, kept: Any, dy: Array) -> tuple[Array, Array]:
        dx, dw = (run(name, *kept, dy, stride, rate, pads) for name in ("dx", "dw"))
        return dx, dw.astype(kept[1].dtype)

    depthwise.defvjp(lambda x, k, *how: (depthwise(x, k, *how), (x, k)), backward)
    return depthwise


def read_winners(file: Path) -> Callable[[Call, str], str]:
    """The choice of form that an earlier run of the part `depthwise` found."""
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    best = {r["shape"]: r["best"] for r in results if "best" in r}
    return lambda call, name: best.get(str(call), {}).get(name, "lax")


# ----------------------------------------------------------------------------- what is measured


def time_call(call: Call, forms: dict[str, Passes], batch: int, dtype: Any, left: float) -> Figures:
    """TB/s by pass and form, the fastest of each pass, and who is far from the first form."""
    shapes = ((batch, *call.map), call.kernel, (batch, *call.result))
    keys = jax.random.split(jax.random.key(0), (3, 3))
    draw = partial(jax.random.normal, dtype=dtype)
    sets = [tuple(map(draw, row, shapes)) for row in keys]
    bytes_ = jnp.dtype(dtype).itemsize * batch * (prod(call.map) + prod(call.result))
    found: Figures = {"shape": str(call), "best": {}, "details": {}}
    for name in PASSES:
        rates, want = {}, None
        for form, passes in forms.items():
            if name not in passes:
                continue
            y = jnp.float32(jax.jit(passes[name])(*sets[0]))
            want = y if want is None else want
            error = float(jnp.linalg.norm(y - want) / jnp.linalg.norm(want))
            time = seconds(passes[name], sets)
            rates[form] = bytes_ / time / 1e12
            found["details"][f"{name} {form}"] = {"ms": 1e3 * time, "error": error}
            if not error < APART:
                found["wrong"] = f"{name} {form}: {error:.2g} from the first form"
        found["best"][name] = max(rates, key=lambda form: rates[form])
        found[f"{name} TB/s"] = rates
    return found


def convolution_entries(network: str, kind: str, dry: bool) -> list[Entry]:
    """Every shape of one kind of convolution in a network."""
    model = ModelConfig(backbone=network, num_classes=21, width=0.1 if dry else 1.0)  # type: ignore[arg-type]
    batch, size, dtype = (1, 33, jnp.float32) if dry else (BATCH, SIZE, jnp.bfloat16)
    forms, predicted = pointwise_forms, "within 0.15 ms an image of each other in all"
    if kind == "depthwise":
        forms, predicted = depthwise_forms, "TB/s: lax 0.3-1.0, shifted 0.8-1.3, pallas 2.0-2.5"
    calls = [(call, n) for call, n in record_calls(model, size).items() if call.kind == kind]
    return [
        Entry(
            f"{network} {n} x {kind}",
            predicted,
            partial(time_call, call, forms(call), batch, dtype),
        )
        for call, n in (calls[-1:] if dry else calls)
    ]


def time_norm(shape: tuple[int, ...], dtype: Any, left: float) -> Figures:
    """BatchNorm and ReLU, TB/s of the passes that nothing saves: 3 forward, 8 both ways."""

    def forward(x: Array, scale: Array) -> Array:
        return jax.nn.relu(batch_norm(x, scale, scale, 1e-3)[0])

    def both(x: Array, scale: Array) -> Any:
        return jax.vjp(forward, x, scale)[1](x)

    draw, scale = partial(jax.random.normal, shape=shape, dtype=dtype), jnp.ones(shape[-1])
    sets = [(draw(key), scale) for key in jax.random.split(jax.random.key(0), 3)]
    tb, forms = sets[0][0].nbytes / 1e12, {"forward": (3, forward), "both ways": (8, both)}
    return {f"{name} TB/s": n * tb / seconds(f, sets) for name, (n, f) in forms.items()}


def time_loss(batch: int, size: int, left: float) -> Figures:
    """The upsampled loss with its gradient: blocks of so many rows, other forms of resizing."""

    def take_two(x: Array, rows: Array, columns: Array) -> Array:
        for matrix, axis in ((rows, 1), (columns, 2)):
            first = jnp.argmax(matrix > 0, axis=1)
            t = 1 - jnp.take_along_axis(matrix, first[:, None], axis=1)
            t = t[:, None] if axis == 1 else t
            second = jnp.minimum(first + 1, matrix.shape[1] - 1)
            x = jnp.take(x, first, axis) * (1 - t) + jnp.take(x, second, axis) * t
        return x

    def multiply(x: Array, rows: Array, columns: Array) -> Array:
        product = partial(jnp.einsum, precision=lax.DotAlgorithmPreset.TF32_TF32_F32_X3)
        return product("mw,bhwc->bhmc", columns, product("nh,bhwc->bnwc", rows, x))

    forms = {f"{n} rows": ("ROW_COUNTS", (n,)) for n in (64, 128, 257, size)}
    forms["two taps"] = ("apply_matrices", take_two)
    if jax.default_backend() == "gpu":
        forms["TF32 x 3"] = ("apply_matrices", multiply)
    low = (size - 1) // 4 + 1
    logits = jax.random.normal(jax.random.key(0), (batch, low, low, 21))
    label = jax.random.randint(jax.random.key(1), (batch, size, size), 0, 21)
    found: Figures = {"us an image": {}, "distance": {}}
    want = None
    for name, form in forms.items():
        with patch.object(resize, *form):
            gradient = jax.grad(lambda z, label: mean_loss(*pixel_losses(z, label, 255)))
            y = jax.jit(gradient)(logits, label)
            found["us an image"][name] = 1e6 * seconds(gradient, [(logits, label)]) / batch
        want = y if want is None else want
        found["distance"][name] = float(jnp.abs(y - want).max() / jnp.abs(want).max())
    return found


def entries(part: str, *, dry: bool) -> list[Entry]:
    """The experiments of `depthwise` or `layers`; dry: tiny."""
    side, size, batch, dtype = (
        (128, 33, 1, jnp.float32) if dry else (8192, SIZE, BATCH, jnp.bfloat16)
    )
    ceilings = Entry("ceilings", "3.0 TB/s, 800 TFLOP/s", lambda left: measure_ceilings(side))
    networks = ("mobilenet_v2",) if dry else ("xception_65", "mobilenet_v2")
    if part == "depthwise":
        shapes = [e for n in networks for e in convolution_entries(n, "depthwise", dry)]
        return [ceilings, *shapes]
    maps = [(9, 9, 16)] if dry else [(33, 33, 728), (129, 129, 256), (257, 257, 128)]
    loss = "130 us; two taps or TF32 x 3 100 less, 1e-5 apart"
    return [
        ceilings,
        *[
            Entry(f"BatchNorm, ReLU {m}", "2.5-3 TB/s", partial(time_norm, (batch, *m), dtype))
            for m in maps
        ],
        Entry("loss", loss, partial(time_loss, batch, size)),
        *convolution_entries(networks[0], "1x1", dry),
    ]
