"""What each part of the preset `small` brings to a few hundred images.

    deeplab study recipe --machine.root=CAMVID --pretrained=WEIGHTS --steps=300 --seeds=3

The paper's recipe, the preset, and the preset without each of its parts, all else alike. What came
of it: docs/results.md.
"""

from deeplab_jax.config import Config, load_config_file
from deeplab_jax.config.presets import PARTS, SMALL
from deeplab_jax.data.settle import value_of
from deeplab_jax.training.study import Row, Study


def get_config() -> Config:
    return load_config_file("folder")


def get_study(base: Config) -> Study:
    paper = {name: value_of(Config(), name) for name in SMALL}
    return Study(
        name="recipe",
        title="Recipes for few images",
        about="The preset `small`, without each of its parts, and the paper's recipe.",
        base=base,
        rows=(
            Row("paper", paper),
            Row("small", SMALL),
            *(
                Row(f"without {part}", SMALL | {name: paper[name] for name in fields})
                for part, fields in PARTS.items()
            ),
        ),
    )
