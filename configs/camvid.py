"""CamVid (Brostow et al. 2008/2009), 11 classes: DeepLab v3+ on an ImageNet MobileNetV2, on a CPU.

    deeplab train PATH --config=camvid --pretrained=WEIGHTS

PATH is a folder of pairs: images/{train,val}/*.jpg, masks/{train,val}/*.png (ids 0..10, 11 = void),
classes.txt; WEIGHTS is made by `convert ... --backbone-only`, see docs/weights.md. The weights are
1/sqrt(share of pixels), scaled to a mean of 1 over the pixels: without them pole, sign and
bicyclist stay near 0 in so short a run. Expected time and score: docs/results.md.
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

CLASS_WEIGHTS = (0.88, 0.75, 3.63, 0.64, 1.70, 1.15, 3.32, 3.39, 1.49, 4.50, 6.66)


def get_config() -> Config:
    return Config(
        model=ModelConfig(backbone="mobilenet_v2", batch_norm_decay=0.95),
        task=TaskConfig(eval_size=(368, 480)),
        data=DataConfig(
            source="folder",
            eval_split="val",
            crop_size=(368, 480),
            min_scale=0.75,
        ),
        augment=AugmentConfig(photometric=0.2),
        optim=OptimConfig(learning_rate=0.05, weight_decay=4e-5),
        train=TrainConfig(
            # The weights at hand had their BatchNorm folded in; with others it does no harm.
            reestimate_batch_norm=True,
            steps=1000,
            batch_size=8,
            class_weights=CLASS_WEIGHTS,
        ),
        machine=MachineConfig(
            workdir="runs/camvid", root="data/camvid", eval_every=200, checkpoint_every=100
        ),
    )
