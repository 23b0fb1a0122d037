"""The commands behind `python -m deeplab_jax`, each from its arguments to its output."""

import argparse
from pathlib import Path

from deeplab_jax.config import parse
from deeplab_jax.errors import UserError

DEFAULT_CONFIG = "configs/scenes.py"
DEFAULTS = ""  # the dataclasses' own


def train(arguments: list[str]) -> None:
    """train.py"""
    config = parse(arguments, DEFAULT_CONFIG)
    from deeplab_jax.loop import fit

    fit(config)


def evaluate(arguments: list[str]) -> None:
    raise NotImplementedError


predict = evaluate


def convert(arguments: list[str]) -> None:
    """Official TensorFlow weights into a folder of ours."""
    parser = argparse.ArgumentParser(
        prog="python -m deeplab_jax convert",
        description="Official TensorFlow weights into config.json + model.safetensors.",
        epilog="Other arguments set the configuration, as for training: --model.backbone=...",
    )
    parser.add_argument("source", help="TF1 checkpoint (prefix or .tar.gz) or .npz of TF names")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--classes", type=Path, help="file with one class name a line")
    parser.add_argument("--fresh-logits", action="store_true", help="re-initialise the last layer")
    parser.add_argument("--backbone-only", action="store_true", help="an ImageNet checkpoint, say")
    args, rest = parser.parse_known_args(arguments)
    config = parse(rest, DEFAULTS)
    from deeplab_jax.data.colors import voc_colormap
    from deeplab_jax.data.sources import read_classes
    from deeplab_jax.weights.convert import convert_variables, read_tf_arrays
    from deeplab_jax.weights.files import Weights, save_weights

    classes = config.model.num_classes
    names, colors = tuple(f"class {i}" for i in range(classes)), voc_colormap(classes)
    if args.classes:
        names, colors = read_classes(args.classes)
    if len(names) != classes:
        raise UserError(f"--classes={args.classes}: {len(names)} names for {classes} classes")
    variables, report = convert_variables(
        read_tf_arrays(args.source),
        config,
        backbone_only=args.backbone_only,
        fresh_logits=args.fresh_logits,
    )
    print(report)
    save_weights(args.out, Weights(config, variables, names, colors))
    print(f"wrote {args.out}")
