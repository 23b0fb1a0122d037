"""The commands behind `python -m deeplab_jax`, each from its arguments to its output."""

import argparse
import dataclasses
import sys
from pathlib import Path

from deeplab_jax.config import (
    Config,
    MeshConfig,
    at_output_stride,
    load_config_file,
    one_of,
    override,
    parse,
    pop_config,
)
from deeplab_jax.errors import UserError
from deeplab_jax.files import writable_file, writable_folder

DEFAULT_CONFIG = "configs/scenes.py"
TO_NETWORK = ("resize", "eval_size")  # fields of `data` that belong to the weights


def parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser; `--section.field=value` is left to the configuration."""
    return argparse.ArgumentParser(
        prog=f"python -m deeplab_jax {command}",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
    )


def train(arguments: list[str]) -> None:
    """Train, evaluate and draw."""
    config = parse(arguments, DEFAULT_CONFIG)
    from deeplab_jax.distributed import join_cluster
    from deeplab_jax.loop import fit

    join_cluster(config.distributed)
    fit(config)


def check_data(arguments: list[str]) -> None:
    """Every picture and mask of a data set: what is in it, what is wrong."""
    p = parser(
        "check-data",
        "Read every picture and mask of both splits, and say what is in them, what is wrong and"
        " which settings would help. Exit code 1 if something is wrong.",
        "Other arguments name the data, as for training: --config=configs/folder.py"
        " --data.root=PATH --model.num_classes=5 ... [configs/scenes.py]",
    )
    p.add_argument(
        "--out",
        type=Path,
        default=Path("runs/check-data"),
        help="folder for problems.txt and samples.png [runs/check-data]",
    )
    args, rest = p.parse_known_args(arguments)
    config = parse(rest, DEFAULT_CONFIG)
    from deeplab_jax.data import checks

    text, sound = checks.check_data(config, args.out)
    print(text)
    if not sound:
        sys.exit(1)


def evaluate(arguments: list[str]) -> None:
    """mIoU, per-class IoU and pictures of a split."""
    p = parser(
        "evaluate",
        "Mean IoU, per-class IoU and pictures of a split, from saved weights.",
        "--config=FILE and --data.field=value name the data; by default those of the weights. How"
        " images are sized (data.resize, data.eval_size) is the weights' unless it is given here."
        " --eval.scales 0.5 0.75 1 1.25 1.5 1.75 and --eval.flip=True average the probabilities of"
        " several views, --eval.window 513 513 slides over pictures too large for memory,"
        " --eval.trimap_widths 1 2 4 8 and --eval.boundary=0.02 measure boundaries.",
    )
    p.add_argument("--weights", required=True, help="a run's folder or a converted one")
    p.add_argument(
        "--out", type=Path, help="folder for tables, pictures and the report [WEIGHTS/evaluation]"
    )
    p.add_argument("--output-stride", type=int, help="8, 16 or 32 [as trained]; rates follow")
    args, rest = p.parse_known_args(arguments)
    from deeplab_jax.data.pipeline import open_data
    from deeplab_jax.data.sources import check_source, match_classes
    from deeplab_jax.evaluate import Evaluator, write_evaluation
    from deeplab_jax.report import write_report
    from deeplab_jax.sharding import device_mesh, place
    from deeplab_jax.weights.files import load_weights

    weights = load_weights(args.weights)
    config = evaluation_config(rest, weights.config, args.output_stride)
    out = writable_folder(args.out or beside(Path(args.weights)) / "evaluation", "--out")
    mesh = device_mesh(config.mesh.shape)
    found = open_data(config.data, config.data.eval_split, config.model)
    source = match_classes(found, weights.class_names, weights.colors, args.weights)
    check_source(source, config.data.max_bad_records)
    result = Evaluator(config, source, mesh)(place(weights.variables, mesh))
    print(write_evaluation(result, source, out))
    print(f"\n{result.headline}, {len(source)} pictures in {result.seconds:.0f} s", end=" ")
    print(f"({result.seconds_per_picture:.2f} s each once compiled); report: {write_report(out)}")


def beside(weights: Path) -> Path:
    """The folder of weights, which may be named by the file in it."""
    return weights.parent if weights.is_file() else weights


def evaluation_config(arguments: list[str], trained: Config, output_stride: int | None) -> Config:
    """The data of --config (or of the weights), the network of the weights, and the changes.

    How an image is brought to the network is the weights' too: resize, size and white.
    """
    path, rest = pop_config(arguments)
    base = dataclasses.replace(trained, mesh=MeshConfig())  # the devices are those of here
    if path:
        chosen = parse([f"--config={path}"], path)
        # Other sources have no images of more than 8 bits.
        names = (*TO_NETWORK, "white") if chosen.data.source == "folder" else TO_NETWORK
        to_network = {name: getattr(trained.data, name) for name in names}
        data = dataclasses.replace(chosen.data, **to_network)
        base = dataclasses.replace(chosen, model=trained.model, train=trained.train, data=data)
    if output_stride is not None:
        base = at_output_stride(base, output_stride)
    config = override(base, rest)
    if dataclasses.replace(config.model, dtype=base.model.dtype) != base.model:
        raise UserError(
            "--model.*: only dtype, and by --output-stride the output stride, may differ from the"
            " weights'"
        )
    return config


def study(arguments: list[str]) -> None:
    """Train variants of one experiment and compare them."""
    p = parser(
        "study",
        "Train variants of one experiment and print their table beside the paper's. Run again, it"
        " trains only what is missing.",
        "Other arguments set the experiment, as for training: --config=configs/voc.py"
        " --data.root=PATH ... [configs/scenes.py]. A FILE has get_study() -> Study, with a"
        " configuration of its own.",
    )
    p.add_argument(
        "name",
        metavar="NAME_OR_FILE",
        help="decoder-width, decoder-convs, low-level, output-stride, aspp, trimap, or my_study.py",
    )
    p.add_argument("--out", type=Path, help="folder of the runs and tables [runs/study-NAME]")
    p.add_argument("--steps", type=int, help="training steps of each row [train.steps]")
    p.add_argument("--seeds", type=int, default=1, help="runs of each row [1]")
    args, rest = p.parse_known_args(arguments)
    from deeplab_jax.study import PAPER, load_study_file, run_study

    path, changes = pop_config(rest)
    own = load_study_file(args.name) if args.name.endswith(".py") else None
    if own is None:
        one_of("study", args.name, list(PAPER))
    if args.steps is not None:
        changes.append(f"--train.steps={args.steps}")
    base = own.base if own and path is None else load_config_file(path or DEFAULT_CONFIG)
    base = override(base, changes)
    chosen = dataclasses.replace(own, base=base) if own else PAPER[args.name](base)
    out = writable_folder(args.out or Path("runs") / f"study-{chosen.name}", "--out")
    print(f"{chosen.title}\n\n{run_study(chosen, out, args.seeds)}\n\ntables and runs in {out}")


def predict(arguments: list[str]) -> None:
    """Segment or classify pictures."""
    p = parser(
        "predict",
        "Segment or classify images: files, and all images of folders and of the folders in them."
        " Exit code 1 if some of them cannot be read.",
        "--eval.scales 0.5 1 1.5, --eval.flip=True and --eval.window 513 513 say how the network"
        " looks at an image, --data.eval_size and --data.resize how large; by default as trained."
        " --mesh.space=4: four devices share the height of each image. Name the images before such"
        " options. A file that predict did not write is never overwritten.",
    )
    p.add_argument("pictures", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    p.add_argument("--weights", required=True, help="a run's folder or a converted one")
    p.add_argument("--out", type=Path, help="folder for what is drawn; not for a classifier")
    p.add_argument("--output-stride", type=int, help="8, 16 or 32 [as trained]; rates follow")
    p.add_argument(
        "--format",
        choices=("index", "voc", "cityscapes"),
        default="index",
        help="index: class ids and overlays [default]; voc, cityscapes: files for their servers",
    )
    args, rest = p.parse_known_args(arguments)
    if rest and not rest[0].startswith("-"):
        raise UserError(f"{rest[0]}: name all images first, one after the other, then the options")
    from deeplab_jax.predict import Predictor
    from deeplab_jax.predict_files import classify_files, find_pictures, predict_files
    from deeplab_jax.weights.files import load_weights

    found = find_pictures(args.pictures)
    weights = load_weights(args.weights)
    config = evaluation_config(rest, weights.config, args.output_stride)
    classifies = config.model.head == "classifier"
    if classifies and (args.out is not None or args.format != "index"):
        raise UserError("--out, --format: a classifier draws nothing; leave them out")
    if not classifies and args.out is None:
        raise UserError("--out is missing: the folder for what is drawn")
    predictor = Predictor(weights._replace(config=config))
    if classifies:
        failed = classify_files(predictor, found)
    else:
        failed = predict_files(predictor, found, args.out, args.format)
        what = "class ids (NAME.png) and overlays (NAME_overlay.png)"
        print(f"wrote {what if args.format == 'index' else 'label files'} to {args.out}")
    if failed:
        sys.exit(1)


def convert(arguments: list[str]) -> None:
    """Official TensorFlow weights, or timm's, into a folder of ours."""
    p = parser(
        "convert",
        "Official TensorFlow weights, or timm's Xceptions, into config.json + model.safetensors.",
        "Other arguments set the configuration, as for training: --model.backbone=mobilenet_v2 ...",
    )
    p.add_argument(
        "source",
        help="TF1 checkpoint (prefix or .tar.gz), .npz of TF names, or timm's .safetensors",
    )
    p.add_argument("--out", required=True, type=Path, help="folder to write")
    p.add_argument("--classes", type=Path, help="file with one class name a line")
    p.add_argument("--fresh-logits", action="store_true", help="re-initialise the last layer")
    p.add_argument("--backbone-only", action="store_true", help="for ImageNet checkpoints")
    args, rest = p.parse_known_args(arguments)
    config = parse(rest, "")
    from deeplab_jax.weights.convert import convert_variables, read_arrays
    from deeplab_jax.weights.files import Weights, save_weights

    names, colors = class_list(args.classes, config.model.num_classes)
    arrays = read_arrays(args.source)
    out = writable_folder(args.out.resolve(), "--out")
    variables, report = convert_variables(
        arrays,
        config,
        timm=args.source.endswith(".safetensors"),
        backbone_only=args.backbone_only,
        fresh_logits=args.fresh_logits,
    )
    print(report)
    save_weights(out, Weights(config, variables, names, colors))
    print(f"wrote {args.out}")


def plan(arguments: list[str]) -> None:
    """Whether a training run fits accelerators that are not here."""
    p = parser(
        "plan",
        "Compile the training step for TPUs or GPUs that need not be here, and print what each chip"
        " would hold, compute and exchange, and what bounds a step.",
        "Other arguments are those of training: --config=configs/voc.py --train.batch_size=256"
        " --model.dtype=bfloat16 --model.remat=units --mesh.space=2 ... [configs/scenes.py]."
        " Compiling takes minutes. Exit code 2: it does not fit, or cannot be split so.",
    )
    p.add_argument("--topology", required=True, help="chips: v5e:4x4, v4:2x2x4, v6e:8x8, h100:8")
    p.add_argument("--fit", action="store_true", help="search remat, parts of the batch and mesh")
    p.add_argument("--parts", action="store_true", help="bytes by part of the network too (TPU)")
    p.add_argument("--hlo", type=Path, metavar="FILE", help="write the compiled program there")
    args, rest = p.parse_known_args(arguments)
    config = parse(rest, DEFAULT_CONFIG)
    from deeplab_jax.plan import planner
    from deeplab_jax.plan.compilers import compiler_of, installed, parse_topology

    if args.hlo:
        writable_file(args.hlo, "--hlo")
    topology = parse_topology(args.topology)
    compiler = compiler_of(topology)
    if args.parts and topology.is_gpu:
        raise UserError(f"--parts reads a TPU's program; {topology.text} are GPUs")
    if (args.hlo or args.parts) and not installed(compiler):
        option = "--hlo" if args.hlo else "--parts"
        raise UserError(f"{option}: no program without {compiler.package}; {compiler.install}")
    made = (planner.fit if args.fit else planner.make_plan)(config, topology)
    print(planner.format_plan(made))
    if args.parts:
        print(f"\n{planner.parts_section(made)}")
    if args.hlo and made.compiled:
        args.hlo.write_text(made.compiled.hlo, encoding="utf-8")


def summary(arguments: list[str]) -> None:
    """The network on one page."""
    p = parser(
        "summary",
        "Every layer of a network: output size, stride, rate, receptive field, parameters and"
        " multiply-adds. Nothing is computed and no data is needed.",
        "Other arguments set the configuration, as for training: --config=configs/voc.py"
        " --model.output_stride=8 ... [configs/scenes.py]",
    )
    p.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="height and width of the image [the configuration's data.crop_size]",
    )
    args, rest = p.parse_known_args(arguments)
    config = parse(rest, DEFAULT_CONFIG)
    from deeplab_jax.models.summary import format_summary, summarise

    height, width = args.size or config.data.crop_size
    rows = summarise(config.model, (height, width))
    print(format_summary(config.model, (height, width), rows))


def export_tf(arguments: list[str]) -> None:
    """A folder of weights as official TensorFlow variables."""
    p = parser(
        "export-tf",
        "Our weights under the official TensorFlow variable names: a TF1 checkpoint or an .npz.",
        "A checkpoint is written by TensorFlow (pip install tensorflow-cpu); an .npz without it.",
    )
    p.add_argument("weights", metavar="WEIGHTS", help="a run's folder or a converted one")
    p.add_argument("--out", required=True, help="prefix of the checkpoint, or FILE.npz")
    args = p.parse_args(arguments)
    writable_file(Path(args.out), "--out")
    from deeplab_jax.weights import to_tf_variables
    from deeplab_jax.weights.convert import write_tf_arrays
    from deeplab_jax.weights.files import load_weights

    weights = load_weights(args.weights, complete=False)
    arrays = to_tf_variables(weights.variables, weights.config.model)
    write_tf_arrays(args.out, arrays)
    print(f"wrote {len(arrays)} variables to {args.out}")


def class_list(
    file: Path | None, num_classes: int
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Class names and colours of a file; without one, VOC's for 21 classes, else numbers."""
    from deeplab_jax.data import voc
    from deeplab_jax.data.colors import voc_colormap
    from deeplab_jax.data.sources import read_classes

    if file is None and num_classes == len(voc.CLASS_NAMES):
        return voc.CLASS_NAMES, voc.COLORS
    if file is None:
        return tuple(f"class {i}" for i in range(num_classes)), voc_colormap(num_classes)
    names, colors = read_classes(file)
    if len(names) != num_classes:
        raise UserError(
            f"--classes={file}: {len(names)} names, but model.num_classes is {num_classes}"
        )
    return names, colors
