"""PASCAL VOC 2012, the paper's recipe (section 4; official README): Xception-65, v3+, train_aug.

    deeplab train PATH/VOCdevkit --config=voc --pretrained=WEIGHTS

PATH/VOCdevkit/VOC2012 as in the official archive, with SegmentationClassAug and the list
train_aug.txt beside the official ones (without them: --data.train_split=train). WEIGHTS: a
converted ImageNet Xception-65. Paper: 79.79 mIoU on val (Table 5, separable convolutions, output
stride 16) after 30,000 steps of 16 images. Not measured here: it needs accelerators.
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
        model=ModelConfig(backbone="xception_65", num_classes=21),
        task=TaskConfig(eval_size=(513, 513)),
        data=DataConfig(
            source="voc2012",
            train_split="train_aug",
            eval_split="val",
            crop_size=(513, 513),
        ),
        optim=OptimConfig(learning_rate=0.007, weight_decay=4e-5),
        train=TrainConfig(steps=30_000, batch_size=16),
        machine=MachineConfig(workdir="runs/voc", root="data/VOCdevkit", eval_every=2000),
    )
