from deeplab_jax import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        workdir="runs/voc",
        model=ModelConfig(backbone="xception_65", num_classes=21),
        data=DataConfig(
            source="voc2012",
            root="data/VOCdevkit",
            train_split="train_aug",
            eval_split="val",
            crop_size=(513, 513),
            eval_size=(513, 513),
        ),
        optim=OptimConfig(learning_rate=0.007, weight_decay=4e-5),
        train=TrainConfig(steps=30_000, batch_size=16, eval_every=2000, checkpoint_every=500),
    )
