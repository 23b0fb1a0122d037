"""Your own pictures, in a folder of pairs (README, "Your own data"): v3+ on MobileNetV2.

    python train.py --config=configs/folder.py --data.root=my_data --model.num_classes=5

A start that fits one small accelerator or a patient CPU; with `--pretrained=WEIGHTS` (a converted
ImageNet or segmentation checkpoint) a few hundred pictures are enough. Time and score depend on the
data: not measured.
"""

from deeplab_jax import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        workdir="runs/mine",
        model=ModelConfig(backbone="mobilenet_v2", num_classes=2, batch_norm_decay=0.99),
        data=DataConfig(
            source="folder",
            root="my_data",
            eval_split="val",
            crop_size=(321, 321),
            photometric=0.2,
        ),
        optim=OptimConfig(learning_rate=0.02),
        train=TrainConfig(steps=3000, batch_size=8, eval_every=250, checkpoint_every=250),
    )
