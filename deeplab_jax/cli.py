"""The commands of `deeplab COMMAND`. Each parses, calls one function and prints.

Nothing is imported before it is needed: `deeplab --help` answers at once, without JAX.
"""

import sys
from pathlib import Path

from deeplab_jax.arguments import (
    COMMON,
    Parser,
    evaluation_of,
    load_at,
    read_config,
    read_recipe,
)
from deeplab_jax.errors import UserError

USAGE = """\
usage: deeplab COMMAND [--help]

your own data
  check-data  what is in a folder of images and masks, what is wrong, what would help
  train       train a network, evaluate it and draw its predictions
  predict     segment images: class ids, overlays, a contact sheet; or classify them
  evaluate    mIoU, IoU of each class and images of a split

weights
  zoo         the official weights by name, such as xception65_voc
  convert     TensorFlow checkpoints, .npz files or PyTorch's .safetensors into a folder of weights
  export      a network for onnxruntime, LiteRT and others: the whole prediction in a file, proved
  export-tf   a folder of weights as an official TensorFlow checkpoint or .npz
  serve       the web page of `export --to web`, on this machine
  push        a trained network to the Hugging Face Hub, with a model card of its report

experiments
  study       variants of one experiment in a table, the paper's or your own
  summary     a network's layers, receptive fields, parameters and multiply-adds
  plan        whether a run fits TPUs or GPUs that are not here, and what bounds it

example: deeplab train my_data && deeplab predict photos --weights runs/my_data
"""


def train(arguments: list[str]) -> None:
    """Train a network, evaluate it and draw its predictions: on DATA, or on a configuration's."""
    p = Parser("train", train.__doc__ or "", COMMON)
    p.add_data()
    p.add_preset()
    args, rest = p.read(arguments)
    config = read_recipe(args, rest, trains=True)
    from deeplab_jax.parallel.processes import join_cluster
    from deeplab_jax.training.loop import fit

    join_cluster(config.machine.distributed)
    fit(config)


def check_data(arguments: list[str]) -> None:
    """Read every image and mask, and say what is in them, what is wrong, what would help.

    Exit code 1 if something is wrong.
    """
    p = Parser("check-data", check_data.__doc__ or "")
    p.add_data()
    p.add_preset()
    out = Path("runs/check-data")
    p.add_argument("--out", type=Path, default=out, help=f"folder for what it writes [{out}]")
    what = "write what is understood there, as masks of class ids"
    p.add_argument("--write-masks", type=Path, metavar="DIR", help=what)
    what = "draw sixteen training samples as they are augmented [OUT/augmented.png]"
    p.add_argument("--augmented", nargs="?", const="", metavar="FILE.png", help=what)
    args, rest = p.read(arguments)
    config = read_recipe(args, rest, trains=False)
    from deeplab_jax.data import checks

    text, sound = checks.check_data(config, args.out)
    print(text)
    if args.augmented is not None:
        print(checks.write_augmented(config, Path(args.augmented or args.out / "augmented.png")))
    if args.write_masks:
        print(checks.write_masks(config, args.write_masks))
    if not sound:
        sys.exit(1)


def evaluate(arguments: list[str]) -> None:
    """Mean IoU, IoU of each class and images of a split, from saved weights.

    DATA or --config names the data; by default those that the run was trained on.
    --eval.scales 0.5 0.75 1 1.25 1.5 1.75 --eval.flip=True  test-time augmentation
    --eval.window 513 513  a window that slides over images too large for memory
    --eval.trimap_widths 1 2 4 8 --eval.boundary=0.02  how good boundaries are
    """
    p = Parser("evaluate", evaluate.__doc__ or "")
    p.add_data()
    p.add_weights()
    p.add_runtime()
    what = "folder for what it writes [WEIGHTS/evaluation; of a name, runs/evaluation-NAME]"
    p.add_argument("--out", type=Path, help=what)
    args, rest = p.read(arguments)
    from deeplab_jax.inference.results import evaluate_weights

    folder, name = Path(args.weights), args.config
    folder = folder.parent if folder.is_file() else folder
    if name is None and args.data is None and (folder / "config.json").is_file():
        name = str(folder / "config.json")
    weights, found = load_at(args, rest, read_config(name, [], args.data))
    config = evaluation_of(weights, found)
    # Not in the folder that a name would be: it would then be taken for the weights.
    usual = folder / "evaluation" if folder.is_dir() else Path(f"runs/evaluation-{folder.name}")
    print(evaluate_weights(weights, config, args.out or usual, args.weights, args.runtime))


def study(arguments: list[str]) -> None:
    """Train variants of one experiment and print their table beside the paper's.

    Run again, it trains only what is missing. A FILE has get_config() -> Config, the experiment,
    and get_study(base: Config) -> Study.
    """
    p = Parser("study", study.__doc__ or "")
    p.add_argument("name", metavar="NAME_OR_FILE", help="one that ships, or my_study.py")
    p.add_config()
    p.add_argument("--out", type=Path, help="folder of the runs and tables [runs/study-NAME]")
    p.add_argument("--seeds", type=int, default=1, help="runs of each row [1]")
    args, rest = p.read(arguments)
    from deeplab_jax.files import writable_folder
    from deeplab_jax.training.study import load_study, run_study

    chosen = load_study(args.name, args.config, rest)
    out = writable_folder(args.out or Path("runs") / f"study-{chosen.name}", "--out")
    print(f"{chosen.title}\n\n{run_study(chosen, out, args.seeds)}\n\ntables and runs in {out}")


def predict(arguments: list[str]) -> None:
    """Segment or classify images: files, and all images of folders and of the folders in them.

    Videos take PyAV. What predict did not write it never overwrites. Exit code 1: some unreadable.
    --eval.scales 0.5 1 1.5 --eval.flip=True  test-time augmentation
    --eval.window 513 513  a window that slides over images too large for memory
    --mesh.space=4  four devices share the height of each image
    """
    p = Parser("predict", predict.__doc__ or "")
    p.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    p.add_weights()
    p.add_runtime()
    p.add_argument("--out", type=Path, help="folder for what is drawn [predicted]")
    p.add_argument(
        "--format",
        choices=("index", "color", "ids", "coco", "geotiff", "voc", "cityscapes"),
        default="index",
        help="index: class ids and overlays [default]; ids: values as in the training masks; coco:"
        " one JSON with run lengths; voc, cityscapes: files for their servers",
    )
    args, rest = p.read(arguments)
    if rest and not rest[0].startswith("-"):
        raise UserError(f"{rest[0]}: name all images first, one after the other, then the options")
    from deeplab_jax.inference import files, inputs
    from deeplab_jax.inference.predict import Predictor

    found = inputs.find_images(args.images, videos=args.format == "index")
    weights, sections = load_at(args, rest)
    if weights.model.head == "classifier" and (args.out is not None or args.format != "index"):
        raise UserError("--out, --format: a classifier draws nothing; leave them out")
    space = sections["mesh"].space
    predictor = Predictor(weights, sections["eval"], space=space, runtime=args.runtime)
    if predictor.classifies:
        failed = files.classify_files(predictor, found)
    else:
        out = args.out or Path("predicted")
        failed = files.predict_files(predictor, found, out, args.format)
        what = {"index": "class ids (NAME.png) and overlays", "coco": "predictions.json"}
        print(f"wrote {what.get(args.format, 'label files')} to {out}")
    if failed:
        sys.exit(1)


def convert(arguments: list[str]) -> None:
    """Official TensorFlow weights, or PyTorch's, into a folder: model.json and model.safetensors.

    The network is read off the file. What variables cannot tell is a setting:
    --model.output_stride=8 --task.eval_size 513 513
    """
    p = Parser("convert", convert.__doc__ or "")
    what = "TF1 checkpoint (prefix, folder or .tar.gz), .npz of TF names, or PyTorch's .safetensors"
    p.add_argument("source", help=what)
    p.add_argument("--out", required=True, type=Path, help="folder to write")
    p.add_config()
    p.add_argument("--classes", type=Path, help="file with one class name a line")
    p.add_argument("--fresh-logits", action="store_true", help="re-initialise the last layer")
    p.add_argument("--backbone-only", action="store_true", help="for ImageNet checkpoints")
    args, rest = p.read(arguments)
    from deeplab_jax.config import Config, load_config_file
    from deeplab_jax.config.flags import changes_of
    from deeplab_jax.files import writable_folder
    from deeplab_jax.weights.convert import convert_file

    base = load_config_file(args.config) if args.config else Config()
    asked = changes_of({"model": base.model, "task": base.task}, rest)
    report = convert_file(
        args.source,
        writable_folder(args.out.resolve(), "--out"),
        asked["model"],
        asked["task"],
        classes=args.classes,
        backbone_only=args.backbone_only,
        fresh_logits=args.fresh_logits,
    )
    print(f"{report}\nwrote {args.out}")


def zoo(arguments: list[str]) -> None:
    """The official weights by name: --weights=NAME and --pretrained=NAME download and convert them.

    They are kept in ~/.cache/deeplab_jax/weights, or the folder that DEEPLAB_WEIGHTS names.
    """
    p = Parser("zoo", zoo.__doc__ or "")
    p.read(arguments)
    from deeplab_jax.weights.zoo import format_zoo

    print(format_zoo())


def plan(arguments: list[str]) -> None:
    """Compile the training step for TPUs or GPUs that need not be here, which takes minutes.

    Prints what each chip would hold, compute and exchange, and what bounds a step. The settings are
    those of training. Exit code 2: it does not fit, or cannot be split so.
    """
    p = Parser("plan", plan.__doc__ or "")
    p.add_argument("--topology", required=True, help="chips: v5e:4x4, v4:2x2x4, v6e:8x8, h100:8")
    p.add_config()
    p.add_argument("--fit", action="store_true", help="search remat, parts of the batch and mesh")
    p.add_argument("--hlo", type=Path, metavar="FILE", help="write the compiled program there")
    args, rest = p.read(arguments)
    config = read_config(args.config, rest)
    from deeplab_jax.files import writable_file
    from deeplab_jax.plan import planner
    from deeplab_jax.plan.compilers import compiler_of, installed, parse_topology

    if args.hlo:
        writable_file(args.hlo, "--hlo")
    topology = parse_topology(args.topology)
    compiler = compiler_of(topology)
    if args.hlo and not installed(compiler):
        raise UserError(f"--hlo: no program without {compiler.package}; {compiler.install}")
    made = (planner.fit if args.fit else planner.make_plan)(config, topology)
    print(planner.format_plan(made))
    if args.hlo and made.compiled:
        args.hlo.write_text(made.compiled.hlo, encoding="utf-8")


def summary(arguments: list[str]) -> None:
    """Every layer of a network: its size, stride, rate, receptive field and multiply-adds.

    Nothing is computed and no data is needed. --config=voc or such settings as
    --model.output_stride=8 say which network it is.
    """
    p = Parser("summary", summary.__doc__ or "")
    p.add_config()
    what = "height and width of the image [as training crops, or 513 513]"
    p.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help=what)
    args, rest = p.read(arguments)
    config = read_config(args.config, rest)
    from deeplab_jax.models.summary import format_summary, summarise

    height, width = args.size or config.data.crop
    rows = summarise(config.model, (height, width))
    print(format_summary(config.model, (height, width), rows))


def export(arguments: list[str]) -> None:
    """A network for other runtimes: the whole prediction in one file, from pixels to its output.

    The file is then run by its runtime, compared with our prediction, and only kept if it agrees.
    Of web it is a page for browsers, called as the folder is; `deeplab serve` shows it.
    --task.eval_size 257 257  another size of the input than that of evaluation
    """
    p = Parser("export", export.__doc__ or "")
    what = "a run's folder, one that `convert` wrote, or a name of `deeplab zoo`"
    p.add_argument("weights", metavar="WEIGHTS", help=what)
    forms = ("onnx", "litert", "openvino", "stablehlo", "web")
    p.add_argument("--to", required=True, choices=forms, dest="form")
    p.add_argument("--out", required=True, type=Path, help="folder to write")
    outputs = ("labels", "probabilities", "logits")
    p.add_argument("--output", choices=outputs, default="labels", help="[labels]")
    p.add_argument("--any-size", action="store_true", help="height, width k * output stride + 1")
    p.add_argument("--half", action="store_true", help="float16, where labels agree by 99.5 %%")
    what = "8 bits, by the ranges of values on these images, where labels agree by 98 %%"
    p.add_argument("--int8", type=Path, metavar="IMAGES", help=what)
    p.add_argument("--force", action="store_true", help="where they do not, too")
    what = "labelled images, for the mIoU of --half or --int8 beside ours"
    p.add_argument("--data", type=Path, metavar="DATA", dest="labelled", help=what)
    p.add_argument("--images", type=Path, help="to compare on, at most 16 [made ones]")
    p.add_argument("--output-stride", type=int, help="8, 16 or 32 [as trained]; rates follow")
    args, rest = p.read(arguments)
    from deeplab_jax.config import EvalConfig
    from deeplab_jax.export.artefact import Request, check_request, export_weights

    request = Request(**{name: getattr(args, name) for name in Request._fields})
    check_request(request)
    data = read_config(None, [], args.labelled) if args.labelled else None
    weights, found = load_at(args, rest, data)
    if found["eval"] != EvalConfig():
        raise UserError("--eval.*: an exported file looks at an image once; leave it out")
    print(export_weights(weights, request, evaluation_of(weights, found) if data else None))


def export_tf(arguments: list[str]) -> None:
    """A folder of weights under the official variable names: a TF1 checkpoint or an .npz.

    TensorFlow writes a checkpoint (pip install tensorflow-cpu); an .npz does without.
    """
    p = Parser("export-tf", export_tf.__doc__ or "")
    p.add_argument("weights", metavar="WEIGHTS", help="a run's folder or a folder of weights")
    p.add_argument("--out", required=True, help="prefix of the checkpoint, or FILE.npz")
    args = p.parse_args(arguments)
    from deeplab_jax.files import writable_file
    from deeplab_jax.weights import to_tf_variables
    from deeplab_jax.weights.convert import write_tf_arrays
    from deeplab_jax.weights.files import load_weights

    writable_file(Path(args.out), "--out")
    weights = load_weights(args.weights, complete=False)
    arrays = to_tf_variables(weights.variables, weights.model)
    write_tf_arrays(args.out, arrays)
    print(f"wrote {len(arrays)} variables to {args.out}")


def serve(arguments: list[str]) -> None:
    """The web page that `deeplab export WEIGHTS --to web` wrote, for browsers on this machine."""
    p = Parser("serve", serve.__doc__ or "")
    p.add_argument("folder", type=Path, metavar="FOLDER")
    p.add_argument("--port", type=int, default=8000, help="0: one that is free [8000]")
    args = p.parse_args(arguments)
    from deeplab_jax.export.serve import serve_folder

    serve_folder(args.folder, args.port)


def push(arguments: list[str]) -> None:
    """A trained network to the Hugging Face Hub: its weights, and a model card of the run's report.

    --weights user/model then loads it anywhere. The token is that of `hf auth login`, or HF_TOKEN.
    """
    p = Parser("push", push.__doc__ or "")
    p.add_argument("weights", metavar="WEIGHTS", help="a run's folder or a folder of weights")
    p.add_argument("name", metavar="USER/MODEL", help="a new commit where it is there already")
    p.add_argument("--private", action="store_true", default=None, help="a new one, for you alone")
    what = "one of the Hub's identifiers, as cc-by-4.0 [as an earlier card says, else unknown]"
    p.add_argument("--licence", metavar="ID", help=what)
    args = p.parse_args(arguments)
    from deeplab_jax.inference.predict import load

    network = load(args.weights)
    print(f"wrote {network.push_to_hub(args.name, private=args.private, licence=args.licence)}")
