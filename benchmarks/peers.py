"""This network's speed on a CPU beside its peers', as ratios within one interleaved run.

    python -m benchmarks.peers --network xception_65 --mode inference
    python -m benchmarks.peers --network resnet_v1_50_os32 --mode train --contenders ours keras_hub

Each contender is a process of its own; a peer's environment is made under --environments on first
use, and one that cannot be made is skipped and named. They take turns; the table has medians, the
spread, and the ratio to ours. All at 512 x 512 with random weights: `onnxruntime` and `openvino`
are our own network's inference there, as `--runtime onnxruntime` and `export` have it; `smp` is
segmentation_models.pytorch in channels_last; `keras_hub` KerasHub on JAX, whose network
`resnet_v1_50_os32` repeats (no separable convolution, one 1x1 in the decoder); `lax` our own
network with lax.conv throughout, as flax.linen.Conv calls it; `products` the time that the
network's multiply-adds take as large float32 matrix products, which is the machine's limit.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.accelerator.peers import ENCODERS, make_torch
from benchmarks.accelerator.steps import Setting, make_run
from benchmarks.turns import Contender, make_environment, print_table, serve, take_turns

if TYPE_CHECKING:
    from deeplab_jax import ModelConfig

SIZE, CLASSES = 512, 21
NETWORKS = ("xception_65", "resnet_v1_50", "resnet_v1_50_os32")
CONTENDERS = ("ours", "onnxruntime", "openvino", "lax", "smp", "keras_hub", "products")
RUNTIMES = ("onnxruntime", "openvino")
PEERS = {
    "smp": ("torch", "segmentation_models_pytorch", "timm"),
    "keras_hub": ("keras-hub", "keras", "jax"),
}


# ------------------------------------------------------------------------------ what is timed


def model_config(network: str) -> "ModelConfig":
    """Our form of one of NETWORKS."""
    from deeplab_jax import ModelConfig

    if network == "resnet_v1_50_os32":
        return ModelConfig(
            backbone="resnet_v1_50",
            num_classes=CLASSES,
            output_stride=32,
            atrous_rates=(6, 12, 18),
            aspp_separable=False,
            decoder_separable=False,
            decoder_convs=1,
            decoder_kernel=1,
        )
    return ModelConfig(backbone=network, num_classes=CLASSES)  # type: ignore[arg-type]


def ours(network: str, mode: str, batch: int, *, lax: bool = False) -> Callable[[], object]:
    """Our network; `lax`: by `lax_convolutions`."""
    import jax

    if lax:
        lax_convolutions().start()
    run, _ = make_run(setting(network, mode, batch), model_config(network))
    return lambda: jax.block_until_ready(run())


def lax_convolutions() -> Any:
    """Our network's convolutions replaced by those that flax.linen.Conv would call: a patch."""
    from deeplab_jax.models import layers
    from deeplab_jax.ops.conv import conv

    def depthwise(x: Any, *rest: Any) -> Any:
        return conv(x, *rest, groups=x.shape[-1])

    return patch.multiple(layers, depthwise_conv=depthwise, pointwise_conv=conv)


def setting(network: str, mode: str, batch: int) -> Setting:
    return Setting(network, batch, SIZE, mode, dtype="float32")


def exported(network: str, mode: str, batch: int, *, runtime: str) -> Callable[[], object]:
    """Our inference, from u8 images to u8 labels, as a file in another runtime on the CPU."""
    import jax
    import numpy as np

    from deeplab_jax import TaskConfig
    from deeplab_jax.export.prediction import Prediction
    from deeplab_jax.models.build import init_variables
    from deeplab_jax.weights.files import Weights

    if mode != "inference":
        raise SystemExit(f"{runtime} does not train")
    model = model_config(network)
    variables = jax.device_get(jax.jit(init_variables, static_argnums=0)(model, jax.random.key(0)))
    prediction = Prediction(Weights(model, TaskConfig(), variables), "labels", (SIZE, SIZE))
    if runtime == "openvino":
        from deeplab_jax.export import openvino_file

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.xml"
            openvino_file.write_files(file, prediction)
            run = openvino_file.run_files(file)
    else:
        from deeplab_jax.export import onnx_file

        run = onnx_file.candidate(runtime, onnx_file.lower_prediction(prediction).model).run
    shape = (batch, SIZE, SIZE, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return lambda: run(image)


def smp(network: str, mode: str, batch: int) -> Callable[[], object]:
    """segmentation_models.pytorch's DeepLabV3Plus, SGD, channels_last."""
    if network not in ENCODERS:
        raise SystemExit("segmentation_models.pytorch has no such network")
    return make_torch(setting(network, mode, batch), "eager")[0]


def keras_hub(network: str, mode: str, batch: int) -> Callable[[], object]:
    """KerasHub's DeepLabV3Plus with ResNet-50, as its presets have it, on JAX, with SGD."""
    if network != "resnet_v1_50_os32":
        raise SystemExit("KerasHub has no such network")
    os.environ["KERAS_BACKEND"] = "jax"
    import keras  # type: ignore[import-not-found]
    import numpy as np
    from keras_hub import models  # type: ignore[import-not-found]

    shape = (SIZE, SIZE, 3)
    encoder = models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        image_shape=shape,
    )
    backbone = models.DeepLabV3Backbone(
        image_encoder=encoder,
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        projection_filters=48,
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
        image_shape=shape,
    )
    model = models.DeepLabV3ImageSegmenter(backbone, CLASSES)
    rng = np.random.default_rng(0)
    image = rng.random((batch, *shape), np.float32)
    if mode == "inference":
        return lambda: model.predict_on_batch(image)  # without argmax
    label = rng.integers(0, CLASSES, (batch, SIZE, SIZE, 1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile(keras.optimizers.SGD(0.007, momentum=0.9), loss=loss)
    return lambda: model.train_on_batch(image, label)


def products(network: str, mode: str, batch: int) -> Callable[[], object]:
    """As many multiply-adds as the network has (training: three times those), in large products."""
    import jax
    import jax.numpy as jnp

    from deeplab_jax.models.summary import multiply_adds

    macs = multiply_adds(model_config(network), (SIZE, SIZE))
    total = macs * batch * (3 if mode == "train" else 1)
    n = 2048
    count = max(1, round(total / n**3))
    a = jnp.ones((n, n))
    multiply = jax.jit(lambda a: jax.lax.fori_loop(0, count, lambda _, x: (x @ a) * (1 / n), a))
    return lambda: jax.block_until_ready(multiply(a))


# --------------------------------------------------------------------------------- taking turns

MAKE: dict[str, Callable[[str, str, int], Callable[[], object]]] = {
    "ours": ours,
    "onnxruntime": partial(exported, runtime="onnxruntime"),
    "openvino": partial(exported, runtime="openvino"),
    "lax": partial(ours, lax=True),
    "smp": smp,
    "keras_hub": keras_hub,
    "products": products,
}


def seconds(name: str, network: str, mode: str, batch: int) -> Callable[[], float]:
    """Measures one run of a contender, after one that is not: others ran before it."""
    run = MAKE[name](network, mode, batch)

    def measure() -> float:
        run()  # brings back what the pause took: caches, and pages that a host had reclaimed
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return measure


def start(name: str, args: argparse.Namespace) -> Contender | None:
    """A contender, warmed up; None, with a message, where it does not run."""
    options = ["--network", args.network, "--mode", args.mode, "--batch", str(args.batch)]
    try:
        python = sys.executable
        if name in PEERS:
            python = make_environment(args.environments / name, PEERS[name])
        return Contender(python, "benchmarks.peers", ["--worker", name, *options])
    except RuntimeError as error:
        print(f"{name}: skipped: {error}", file=sys.stderr)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--network", default="xception_65", choices=NETWORKS)
    add("--mode", default="inference", choices=("inference", "train"))
    add("--batch", type=int, default=2)
    add("--rounds", type=int, default=5)
    add("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    add("--environments", type=Path, default=Path("runs/peers"), help="for the peers' own packages")
    add("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        make = partial(seconds, args.worker, args.network, args.mode, args.batch)
        serve(make, PEERS.get(args.worker, (args.worker if args.worker in RUNTIMES else "jax",)))
        return
    started = {name: start(name, args) for name in args.contenders}
    contenders = {name: contender for name, contender in started.items() if contender}
    found = take_turns(contenders, args.rounds)
    print(f"{args.network}, {args.mode}, {args.batch} x {SIZE} x {SIZE}, {args.rounds} rounds\n")
    print_table(found, contenders, "seconds", args.contenders[0])


if __name__ == "__main__":
    if "--worker" in sys.argv and not PEERS.keys() & set(sys.argv):
        from deeplab_jax.process import restart_with_huge_pages

        restart_with_huge_pages()
    main()
