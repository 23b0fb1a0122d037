"""Cityscapes, 19 classes (paper section 4.4; official README): Xception-65, v3+, crops of 769.

    deeplab train PATH --config=cityscapes --pretrained=WEIGHTS

PATH holds leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip as downloaded; TFDS prepares
them once, which needs TensorFlow (pip install tensorflow-cpu). Paper: 78.79 mIoU on val (Table 7),
evaluated on whole images, after 90,000 steps. Not measured here, neither is preparing the data
set.
"""

from deeplab_jax import (
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
        model=ModelConfig(backbone="xception_65", num_classes=19),
        task=TaskConfig(eval_size=(1025, 2049)),
        data=DataConfig(
            source="cityscapes",
            crop_size=(769, 769),
        ),
        optim=OptimConfig(learning_rate=0.007, weight_decay=4e-5),
        train=TrainConfig(steps=90_000, batch_size=16),
        machine=MachineConfig(workdir="runs/cityscapes", root="data/cityscapes", eval_every=5000),
    )
