"""Your own images, in a folder of pairs (docs/data.md): v3+ on MobileNetV2.

    deeplab train my_data

is this configuration on the data in my_data. A start that fits one small accelerator or a patient
CPU; with `--pretrained=WEIGHTS` (ImageNet or segmentation weights) a few hundred images are enough.
Time and score depend on the data: not measured.
"""

from deeplab_jax import Config, DataConfig, MachineConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(backbone="mobilenet_v2", batch_norm_decay=0.99),
        data=DataConfig(source="folder", eval_split="val", photometric=0.2),
        optim=OptimConfig(learning_rate=0.02),
        train=TrainConfig(steps=3000, batch_size=8),
        machine=MachineConfig(
            workdir="runs/mine", root="my_data", eval_every=250, checkpoint_every=250
        ),
    )
