"""Your own images, in a folder of pairs (docs/data.md): v3+ on MobileNetV2, or on the weights' own.

    deeplab train my_data --pretrained=WEIGHTS

is this configuration on the data in my_data. What stands here as None or "auto", and what does not
stand here, is chosen from the data and the device, and printed with its reason and its flag. The
rest is that of configs/camvid.py, for a thousand steps from ImageNet weights (docs/results.md)
where a few hundred images are enough.
"""

from deeplab_jax import (
    AugmentConfig,
    Config,
    DataConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    TaskConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(backbone="mobilenet_v2", batch_norm_decay=0.95, dtype="auto"),
        task=TaskConfig(resize="auto"),
        data=DataConfig(source="folder", eval_split="val", min_scale=0.75),
        augment=AugmentConfig(photometric=0.2),
        optim=OptimConfig(learning_rate=0.05),
        train=TrainConfig(class_weights=None),
        machine=MachineConfig(
            workdir="runs/mine", root="my_data", eval_every=250, checkpoint_every=100
        ),
    )
