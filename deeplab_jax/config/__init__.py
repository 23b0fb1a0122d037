"""All configuration as frozen dataclasses in sections of one lifetime each; files; flags.

`configs/NAME.py` exports `get_config() -> Config`; `--section.field=value` on the command line
changes one field of it. A contradiction is refused here, before anything is built, by a
`UserError`.
"""

from deeplab_jax.config.augment import AugmentConfig as AugmentConfig
from deeplab_jax.config.checks import one_of as one_of
from deeplab_jax.config.checks import require as require
from deeplab_jax.config.checks import round_near as round_near
from deeplab_jax.config.checks import round_up as round_up
from deeplab_jax.config.experiment import COMPARED as COMPARED
from deeplab_jax.config.experiment import PAPER_CROP as PAPER_CROP
from deeplab_jax.config.experiment import Config as Config
from deeplab_jax.config.experiment import DataConfig as DataConfig
from deeplab_jax.config.experiment import DataKind as DataKind
from deeplab_jax.config.experiment import EvalConfig as EvalConfig
from deeplab_jax.config.experiment import MachineConfig as MachineConfig
from deeplab_jax.config.experiment import MeshConfig as MeshConfig
from deeplab_jax.config.experiment import at_output_stride as at_output_stride
from deeplab_jax.config.experiment import check_protocol as check_protocol
from deeplab_jax.config.experiment import fit_to_stride as fit_to_stride
from deeplab_jax.config.files import call_in_file as call_in_file
from deeplab_jax.config.files import find_in_file as find_in_file
from deeplab_jax.config.files import load_config_file as load_config_file
from deeplab_jax.config.files import load_json as load_json
from deeplab_jax.config.files import save_json as save_json
from deeplab_jax.config.flags import override as override
from deeplab_jax.config.flags import parse as parse
from deeplab_jax.config.flags import pop_config as pop_config
from deeplab_jax.config.model import Backbone as Backbone
from deeplab_jax.config.model import Color as Color
from deeplab_jax.config.model import Head as Head
from deeplab_jax.config.model import ModelConfig as ModelConfig
from deeplab_jax.config.model import Remat as Remat
from deeplab_jax.config.model import Size as Size
from deeplab_jax.config.model import TaskConfig as TaskConfig
from deeplab_jax.config.recipe import OptimConfig as OptimConfig
from deeplab_jax.config.recipe import TrainConfig as TrainConfig
from deeplab_jax.config.values import flatten as flatten
from deeplab_jax.config.values import from_dict as from_dict
from deeplab_jax.config.values import from_value as from_value
from deeplab_jax.config.values import read_json as read_json
from deeplab_jax.config.values import to_dict as to_dict
