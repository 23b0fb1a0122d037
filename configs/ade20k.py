"""ADE20K, 150 classes; the value 0 of the masks stands for the unlabelled, which is ignored.

    deeplab train PATH --config=ade20k --pretrained=WEIGHTS

PATH is the SceneParsing benchmark's ADEChallengeData2016 as it comes: images/{training,validation},
annotations/{training,validation}, objectInfo150.txt. The official code has 151 outputs, of which
number 0 is never trained. Images are fitted into 513 x 513 (official min = max resize 513). Model
zoo: 45.65 mIoU multi-scale at output stride 8 (150,000 steps). Not measured here.
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
        model=ModelConfig(backbone="xception_65"),
        task=TaskConfig(eval_size=(513, 513), resize="fit"),
        data=DataConfig(
            source="folder",
            train_split="train",
            eval_split="val",
            crop_size=(513, 513),
        ),
        optim=OptimConfig(learning_rate=0.007, weight_decay=4e-5),
        train=TrainConfig(steps=150_000, batch_size=16),
        machine=MachineConfig(
            workdir="runs/ade20k", root="data/ADEChallengeData2016", eval_every=5000
        ),
    )
