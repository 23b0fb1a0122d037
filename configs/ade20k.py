"""ADE20K, 150 classes and label 0 for the unlabelled, which is ignored (official README).

    deeplab train PATH --config=ade20k --pretrained=WEIGHTS

PATH is the SceneParsing benchmark's ADEChallengeData2016 as it comes: images/{training,validation},
annotations/{training,validation}. As in the official code there are 151 outputs, of which number 0
is never trained. Images are fitted into 513 x 513 (official min = max resize 513). Model zoo:
45.65 mIoU multi-scale at output stride 8 (150,000 steps). Not measured here.
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
        model=ModelConfig(backbone="xception_65", num_classes=151),
        task=TaskConfig(ignore_label=0, eval_size=(513, 513), resize="fit"),
        data=DataConfig(
            source="folder",
            train_split="training",
            eval_split="validation",
            mask_dir="annotations",
            crop_size=(513, 513),
        ),
        optim=OptimConfig(learning_rate=0.007, weight_decay=4e-5),
        train=TrainConfig(steps=150_000, batch_size=16),
        machine=MachineConfig(
            workdir="runs/ade20k", root="data/ADEChallengeData2016", eval_every=5000
        ),
    )
