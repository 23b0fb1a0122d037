"""What the commands have in common: their options, the configuration, the weights."""

import argparse
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from deeplab_jax.errors import UserError

if TYPE_CHECKING:
    from deeplab_jax.config import Config
    from deeplab_jax.weights.files import Weights

SETTINGS = "Every setting is a flag, --section.field=value: --help-all names them all."
COMMON = """
common settings:
  --workdir=DIR       the run's folder; the same one again resumes [runs/NAME of the data]
  --pretrained=DIR    weights to start from: a run's folder or one that `convert` wrote, a name
                      of `deeplab zoo`, or user/model of the Hugging Face Hub
  --steps=N           training steps [by the number of images]
  --epochs=X          in their place, how often each image is seen
  --time=2h           in their place, as many as fit
  --batch-size=N      images a step [as fit the device's memory; on a CPU 8]
  --crop-size H W     of training crops [from the images' sizes]
  --learning-rate=X   at the beginning
"""


class Parser(argparse.ArgumentParser):
    """Options of a command; `--section.field=value` is left to the configuration."""

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"deeplab {command}",
            description=inspect.cleandoc(description),
            epilog=f"{epilog}\n{SETTINGS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.takes_data = False
        self.add_argument("--help-all", action="store_true", help="every setting, then leave")

    def read(self, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options, and the settings that are left."""
        if "--help-all" in arguments:
            from deeplab_jax.config.flags import format_fields

            print(format_fields())
            sys.exit()
        data = None
        if self.takes_data and arguments and not arguments[0].startswith("-"):
            data, *arguments = arguments
        args, rest = self.parse_known_args(arguments)
        args.data = None if data is None else Path(data)
        return args, rest

    def add_config(self) -> None:
        self.add_argument("--config", help="one that ships, by name, or a file of yours [scenes]")

    def add_data(self) -> None:
        """Let DATA, a folder, stand first: behind an option it would take a setting's values."""
        self.usage = f"{self.prog} [DATA] [--section.field=value ...]"
        self.takes_data = True
        self.add_config()

    def add_preset(self) -> None:
        what = "recipe on DATA: small, paper or fast [by the number of images]"
        self.add_argument("--preset", metavar="NAME", help=what)

    def add_weights(self) -> None:
        what = "a run's folder, one that `convert` wrote, a name of `deeplab zoo`, or user/model of"
        what += " the Hugging Face Hub (user/model@tag)"
        self.add_argument("--weights", required=True, help=what)
        what = "8, 16 or 32 [as trained]; rates follow"
        self.add_argument("--output-stride", type=int, help=what)

    def add_runtime(self) -> None:
        what = "what computes; onnxruntime, faster on CPUs, wants pip install onnx onnxruntime"
        choices = ("xla", "onnxruntime")
        self.add_argument("--runtime", choices=choices, default="xla", help=f"{what} [xla]")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help)")


def read_config(name: str | None, changes: list[str], data: Path | None = None) -> "Config":
    """The configuration of a name or, without one, of a folder of data; and its changes.

    `data` may also be the data.json of check-data, which has the settings as well.
    """
    from deeplab_jax.config import load_config_file, override

    if data is not None and data.suffix == ".json":
        return override(_load_settings(data), changes)
    base = load_config_file(name or ("folder" if data else "scenes"))
    if data is not None:
        from deeplab_jax.data.settle import settings_for

        base = settings_for(base, data, named=name is not None)
    return override(base, changes)


def read_recipe(args: argparse.Namespace, changes: list[str], *, trains: bool) -> "Config":
    """The configuration of a run, with a preset where DATA alone is named.

    `trains`: with the network of the weights that it starts from, too.

    Raises:
      UserError: a preset is asked for beside a configuration, which is a recipe itself.
    """
    from deeplab_jax.config import override
    from deeplab_jax.data.settle import with_preset
    from deeplab_jax.training.start import on_weights

    base = read_config(args.config, [], args.data)
    if args.data is not None and args.config is None and args.data.suffix != ".json":
        base = with_preset(base, args.preset, changes)
        base = on_weights(base, changes) if trains else base
    elif args.preset:
        raise UserError(f"--preset={args.preset} goes with a folder of DATA, and without --config")
    return override(base, changes)


def _load_settings(file: Path) -> "Config":
    from deeplab_jax.config import load_config_file

    try:
        return load_config_file(str(file))
    except UserError as error:
        raise UserError(
            f"{error}\n{file} is no data.json of check-data; DATA is the folder of images and masks"
        ) from error


def load_at(
    args: argparse.Namespace, rest: list[str], data: "Config | None" = None
) -> tuple["Weights", dict[str, Any]]:
    """The weights and the sections `eval`, `mesh` and those of the data, all with their changes.

    Of the network only the type of its arithmetic may differ; of the task how large images are.
    """
    from deeplab_jax.config import EvalConfig, MeshConfig, at_output_stride, check_protocol
    from deeplab_jax.config.flags import change
    from deeplab_jax.weights.files import load_weights

    weights = load_weights(args.weights)
    model, task = at_output_stride(weights.model, weights.task, args.output_stride)
    sections = {"model": model, "task": task, "eval": EvalConfig(), "mesh": MeshConfig()}
    if data is not None:
        sections |= {"data": data.data, "machine": data.machine}
    found = change(sections, rest)
    if replace(found["model"], dtype=model.dtype) != model:
        raise UserError(
            "--model.*: only dtype, and by --output-stride the output stride, may differ from the"
            " weights'"
        )
    check_protocol(found["model"], found["task"], found["eval"])
    return weights._replace(model=found["model"], task=found["task"]), found


def evaluation_of(weights: "Weights", sections: dict[str, Any]) -> "Config":
    """The evaluation of weights on data: what `load_at` found, where it was given data."""
    from deeplab_jax.inference.results import on_data

    names = ("data", "machine", "eval", "mesh")
    return on_data(weights, **{name: sections[name] for name in names})
