"""Your own images, in a folder (docs/data.md): v3+ on MobileNetV2, or on the weights' own network.

    deeplab train my_data --pretrained=WEIGHTS

is this configuration on the data in my_data, with a preset as its recipe. What stands here as None
or "auto", and what does not stand here, is chosen from the data and the device, and printed with
its reason and its flag.
"""

from deeplab_jax import Config, DataConfig, MachineConfig, ModelConfig, TaskConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(backbone="mobilenet_v2", dtype="auto"),
        task=TaskConfig(resize="auto"),
        data=DataConfig(source="folder", eval_split="val"),
        machine=MachineConfig(
            workdir="runs/mine", root="my_data", eval_every=250, checkpoint_every=100
        ),
    )
