"""Our input pipeline beside tf.data doing the same, in images a second on one core.

    python -m benchmarks.pipeline --root PATH/VOCdevkit

Both read records of JPEG and PNG, decode them, scale by a random factor of 0.5, 0.75, ... 2, cut
513x513 at random, pad with the mean pixel and the ignored label, and batch 16; each in a process
held to one core (Linux), taking turns. tf.data runs in an environment under --environments, made on
first use. The last line bounds the number of such cores that feed one TPU v5e chip: no such rate
was measured, so it assumes that the chip reaches 40 % of its published peak.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.turns import Contender, make_environment, print_table, serve, take_turns

CROP, BATCH = 513, 16
PACKAGES = {
    "ours": ("grain", "pillow", "numpy"),
    "tf_data": ("tensorflow-cpu", "pillow"),
}
V5E_FLOPS = 197e12  # bf16, cloud.google.com/tpu/docs/v5e
UTILISATION = 0.4


def ours(root: str) -> Callable[[], Any]:
    """The training pipeline of configs/voc.py, without the step."""
    from deeplab_jax import Config, DataConfig, MachineConfig, TrainConfig
    from deeplab_jax.data.batches import train_batches
    from deeplab_jax.data.settle import open_split

    config = Config(
        data=DataConfig(source="voc2012", crop_size=(CROP, CROP)),
        train=TrainConfig(batch_size=BATCH),
        machine=MachineConfig(root=root),
    )
    batches = train_batches(open_split(config, "train"), config)
    return lambda: next(batches)


def tf_data(root: str) -> Callable[[], Any]:
    """The official order of operations (`input_preprocess.py`), but only the crop is padded."""
    import tensorflow as tf  # type: ignore[import-not-found]

    keys = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "label")}

    def example(record: Any) -> tuple[Any, Any]:
        encoded = tf.io.parse_single_example(record, keys)
        # As PIL decodes; tf.data's own default is a faster, coarser inverse DCT.
        image = tf.io.decode_jpeg(encoded["image"], 3, dct_method="INTEGER_ACCURATE")
        label = tf.io.decode_png(encoded["label"], 1)
        scale = 0.5 + 0.25 * tf.cast(tf.random.uniform([], 0, 7, tf.int32), tf.float32)
        size = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * scale, tf.int32)
        room = tf.maximum(size - CROP, 0)
        y = tf.random.uniform([], 0, room[0] + 1, tf.int32)
        x = tf.random.uniform([], 0, room[1] + 1, tf.int32)
        image = tf.image.resize(image, size)[y : y + CROP, x : x + CROP]
        label = tf.image.resize(label, size, method="nearest")[y : y + CROP, x : x + CROP]
        edges = [[0, n] for n in tf.unstack(CROP - tf.shape(image)[:2])] + [[0, 0]]
        image = tf.pad(tf.cast(image, tf.uint8), edges, constant_values=127)
        label = tf.pad(label, edges, constant_values=255)
        return tf.ensure_shape(image, [CROP, CROP, 3]), tf.ensure_shape(label, [CROP, CROP, 1])

    records = write_tf_records(Path(root) / "VOC2012")
    data = tf.data.TFRecordDataset(records).shuffle(1000).repeat()
    data = data.map(example, num_parallel_calls=1).batch(BATCH).prefetch(2)
    batches = iter(data)
    return lambda: next(batches)


def write_tf_records(folder: Path) -> str:
    """The devkit's training images as encoded, their palette masks as PNGs of ids."""
    import io
    import tempfile

    import numpy as np
    import tensorflow as tf  # type: ignore[import-not-found]
    from PIL import Image

    file = Path(tempfile.mkdtemp()) / "train.tfrecord"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for name in (
            (folder / "ImageSets/Segmentation/train.txt").read_text(encoding="utf-8").split()
        ):
            (mask,) = folder.glob(f"SegmentationClass*/{name}.png")
            png = io.BytesIO()
            Image.fromarray(np.asarray(Image.open(mask))).save(png, format="PNG")
            image = (folder / f"JPEGImages/{name}.jpg").read_bytes()
            encoded = {"image": image, "label": png.getvalue()}
            feature = {
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for key, value in encoded.items()
            }
            record = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(record.SerializeToString())
    return str(file)


CONTENDERS = {"ours": ours, "tf_data": tf_data}


def images_per_second(name: str, root: str) -> Callable[[], float]:
    """Measures some batches of a contender, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    batch = CONTENDERS[name](root)

    def measure() -> float:
        time.sleep(1)  # until the others, whose turn is over, have filled their buffers
        for _ in range(4):  # what was prefetched meanwhile
            batch()
        start = time.perf_counter()
        for _ in range(16):
            batch()
        return 16 * BATCH / (time.perf_counter() - start)

    return measure


def v5e_bound() -> float:
    """Images a second of an Xception-65 training step at UTILISATION of a chip's peak."""
    from deeplab_jax import ModelConfig
    from deeplab_jax.models.summary import multiply_adds

    forward = multiply_adds(ModelConfig(backbone="xception_65", num_classes=21), (CROP, CROP))
    return UTILISATION * V5E_FLOPS / (3 * 2 * forward)  # backward: twice the forward pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--root", required=True, type=Path, help="VOCdevkit")
    add("--rounds", type=int, default=5)
    add("--environments", type=Path, default=Path("runs/peers"), help="for tf.data's packages")
    add("--worker", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    root = str(args.root.absolute())
    if args.worker:
        serve(partial(images_per_second, args.worker, root), PACKAGES[args.worker])
        return
    python = {
        "ours": sys.executable,
        "tf_data": make_environment(args.environments / "tf", PACKAGES["tf_data"]),
    }
    contenders = {
        name: Contender(python[name], "benchmarks.pipeline", ["--worker", name, "--root", root])
        for name in CONTENDERS
    }
    found = take_turns(contenders, args.rounds)
    print_table(found, contenders, "images/s", "tf_data")
    rate, mine = v5e_bound(), statistics.median(found["ours"])
    print(
        f"\nA v5e chip at {UTILISATION:.0%} of {V5E_FLOPS / 1e12:g} TFLOP/s (assumed, not measured)"
        f" trains {rate:.0f} Xception-65 images a second: {rate / mine:.1f} cores"
    )


if __name__ == "__main__":
    if "--worker" in sys.argv and "ours" in sys.argv:
        from deeplab_jax.process import restart_with_huge_pages

        restart_with_huge_pages()  # as train.py does
    main()
