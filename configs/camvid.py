"""CamVid (Brostow et al. 2008/2009), 11 classes: DeepLab v3+ on an ImageNet MobileNetV2, on a CPU.

    python train.py --config=configs/camvid.py --data.root=PATH --pretrained=WEIGHTS

PATH is a folder of pairs: images/{train,val}/*.jpg, masks/{train,val}/*.png (ids 0..10, 11 = void),
classes.txt; WEIGHTS is made by `convert ... --backbone-only` (README). The class weights are
1/sqrt(share of pixels), scaled to a mean of 1 over the pixels: without them pole, sign and
bicyclist stay near 0 in so short a run. Expected time and score: README, "Measured".
"""

from deeplab_jax import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

CLASS_WEIGHTS = (0.88, 0.75, 3.63, 0.64, 1.70, 1.15, 3.32, 3.39, 1.49, 4.50, 6.66)


def get_config() -> Config:
    return Config(
        workdir="runs/camvid",
        # The weights at hand had their BatchNorm folded in; with ordinary ones it does no harm.
        reestimate_batch_norm=True,
        model=ModelConfig(backbone="mobilenet_v2", num_classes=11, batch_norm_decay=0.95),
        data=DataConfig(
            source="folder",
            root="data/camvid",
            eval_split="val",
            ignore_label=11,
            crop_size=(368, 480),
            eval_size=(368, 480),
            min_scale=0.75,
            photometric=0.2,
        ),
        optim=OptimConfig(learning_rate=0.05, weight_decay=4e-5),
        train=TrainConfig(
            steps=1000,
            batch_size=8,
            class_weights=CLASS_WEIGHTS,
            eval_every=200,
            checkpoint_every=100,
        ),
    )
