"""CamVid"""

from deeplab_jax import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        workdir="runs/camvid",
        model=ModelConfig(backbone="mobilenet_v2", num_classes=11, batch_norm_decay=0.95),
        data=DataConfig(
            source="folder",
            root="data/camvid",
            eval_split="val",
            ignore_label=11,
            crop_size=(368, 480),
            eval_size=(368, 480),
        ),
        optim=OptimConfig(learning_rate=0.02, weight_decay=4e-5),
        train=TrainConfig(steps=460, batch_size=8, eval_every=92, checkpoint_every=92),
    )
