"""Our input pipeline beside tf.data doing the same, in pictures a second on one core.

    python -m benchmarks.pipeline --root PATH/VOCdevkit

Both decode JPEG and PNG, scale by a random factor of 0.5, 0.75, ... 2, pad with the mean pixel and
the ignored label, cut 513x513 at random and batch 16; each in a process held to one core (Linux),
taking turns. tf.data runs in an environment under --environments, made on first use. The last line
says how many such cores feed a device that trains --rate pictures a second.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

CROP, BATCH = 513, 16


def ours(root: str) -> Callable[[], Any]:
    """The training pipeline of configs/voc.py, without the step."""
    from deeplab_jax.config import DataConfig
    from deeplab_jax.data.pipeline import open_split, train_batches
    from deeplab_jax.models.build import ModelConfig

    data = DataConfig(source="voc2012", root=root, eval_split="val", crop_size=(CROP, CROP))
    source = open_split(data, "train", ModelConfig())
    batches = train_batches(source, data, batch_size=BATCH, seed=0)
    return lambda: next(batches)


def tf_data(root: str) -> Callable[[], Any]:
    """The official order of operations (`input_preprocess.py`) in tf.data."""
    import tensorflow as tf  # type: ignore[import-not-found]

    folder = Path(root) / "VOC2012"
    names = (folder / "ImageSets/Segmentation/train.txt").read_text().split()

    def example(name: Any) -> tuple[Any, Any]:
        image = tf.io.read_file(str(folder / "JPEGImages") + "/" + name + ".jpg")
        label = tf.io.read_file(str(folder / "SegmentationClass") + "/" + name + ".png")
        image = tf.cast(tf.io.decode_jpeg(image, 3), tf.float32)
        label = tf.io.decode_png(label, 1)
        scale = 0.5 + 0.25 * tf.cast(tf.random.uniform([], 0, 7, tf.int32), tf.float32)
        size = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * scale, tf.int32)
        image = tf.image.resize(image, size)
        label = tf.image.resize(label, size, method="nearest")
        height, width = tf.maximum(size[0], CROP), tf.maximum(size[1], CROP)
        image = tf.image.pad_to_bounding_box(image - 127.5, 0, 0, height, width) + 127.5
        label = tf.image.pad_to_bounding_box(tf.cast(label, tf.int32) - 255, 0, 0, height, width)
        y = tf.random.uniform([], 0, height - CROP + 1, tf.int32)
        x = tf.random.uniform([], 0, width - CROP + 1, tf.int32)
        image = tf.cast(image[y : y + CROP, x : x + CROP], tf.uint8)
        return image, tf.cast(label[y : y + CROP, x : x + CROP] + 255, tf.uint8)

    data = tf.data.Dataset.from_tensor_slices(names).shuffle(len(names)).repeat()
    data = data.map(example, num_parallel_calls=1).batch(BATCH).prefetch(2)
    batches = iter(data)
    return lambda: next(batches)


CONTENDERS = {"ours": ours, "tf_data": tf_data}


def worker(name: str, root: str) -> None:
    """For each line of input, the pictures a second over a few batches."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    run = CONTENDERS[name](root)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        for _ in range(3):  # what was prefetched while the others ran
            run()
        start = time.perf_counter()
        for _ in range(4):
            run()
        print(4 * BATCH / (time.perf_counter() - start), flush=True)


def start(name: str, args: argparse.Namespace) -> subprocess.Popen[str]:
    """A contender's process."""
    python = sys.executable
    if name == "tf_data":
        folder = args.environments / "tf"
        python = str(folder / "bin" / "python")
        if not Path(python).exists():
            venv.create(folder, with_pip=True)
            command = [python, "-m", "pip", "install", "-q", "tensorflow-cpu"]
            subprocess.run(command, check=True)
    command = [python, __file__, "--worker", name, "--root", args.root]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout
    if process.stdout.readline() != "ready\n":
        sys.exit(f"{name} does not run here")
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--root", required=True, help="VOCdevkit")
    add("--rounds", type=int, default=5)
    add("--rate", type=float, help="pictures a second that a device trains")
    add("--environments", type=Path, default=Path("runs/peers"), help="for tf.data's packages")
    add("--worker", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.root)
        return
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(args.rounds):
        for name, found in rates.items():
            process = start(name, args)  # anew: nothing is prefetched while the other runs
            assert process.stdin and process.stdout
            process.stdin.write("run\n")
            process.stdin.flush()
            found.append(float(process.stdout.readline()))
            process.kill()
    print("| | pictures/s on one core | from | to |\n|---|---|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):.1f} | {min(found):.1f} | {max(found):.1f} |")
    ours_rate = statistics.median(rates["ours"])
    print(f"\nours / tf.data: {ours_rate / statistics.median(rates['tf_data']):.2f}")
    if args.rate:
        print(f"cores for {args.rate:g} pictures a second: {args.rate / ours_rate:.1f}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
