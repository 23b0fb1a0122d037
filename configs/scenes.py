"""The embedded data set: a narrow Xception v3+ learns *scenes* from nothing.

    deeplab train

Nothing to download: the images are rendered on first use (20 s). It shows what the paper's parts
are for: `boat` and `car` are the same sprite, on water or on a road, and only context tells them
apart.
"""

from deeplab_jax import (
    Config,
    DataConfig,
    EvalConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            backbone="xception_41",
            width=0.125,
            aspp_channels=64,
            decoder_low_level_channels=24,
            decoder_channels=64,
            batch_norm_decay=0.97,
        ),
        data=DataConfig(
            source="scenes", crop_size=(193, 241), min_scale=0.75, max_scale=1.25, scale_step=0.0
        ),
        optim=OptimConfig(learning_rate=0.05),
        train=TrainConfig(steps=800, batch_size=8),
        eval=EvalConfig(batch_size=10),
        machine=MachineConfig(workdir="runs/scenes", eval_every=200, checkpoint_every=100),
    )
