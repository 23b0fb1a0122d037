"""ImageNet-1k, the paper's recipe (section 4): an Xception-65 classifier, to pretrain a backbone.

    deeplab train PATH --config=imagenet
    deeplab train PATH/VOCdevkit --config=voc --pretrained=runs/imagenet

PATH holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar as downloaded; TFDS prepares them
once, which needs TensorFlow (pip install tensorflow-cpu). A data set that is prepared already, as
ArrayRecord, is named by --machine.prepared_dir.

Momentum 0.9 (Nesterov), rate 0.05, times 0.94 every two epochs, weight decay 4e-5, 299 x 299. The
paper trains on 50 GPUs that update asynchronously, each by batches of 32: an update here is one of
theirs, but none is stale. More devices want a larger batch: multiply learning_rate by the same
factor and divide steps and decay_steps by it (Goyal et al. 2017, arXiv 1706.02677; they warm up:
optim.slow_start_steps). The number of epochs is ours: the paper names none. Paper: 79.81 % top-1
(Table 4). Not measured here.
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

BATCH = 32
EPOCH = 1_281_167 // BATCH


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            backbone="xception_65", head="classifier", num_classes=1000, output_stride=32
        ),
        data=DataConfig(source="imagenet2012", crop_size=(299, 299)),
        optim=OptimConfig(
            learning_rate=0.05,
            nesterov=True,
            schedule="step",
            decay_steps=2 * EPOCH,
            decay_rate=0.94,
            weight_decay=4e-5,
        ),
        train=TrainConfig(steps=100 * EPOCH, batch_size=BATCH),
        eval=EvalConfig(batch_size=64),
        machine=MachineConfig(
            workdir="runs/imagenet",
            root="data/imagenet",
            log_every=100,
            eval_every=EPOCH,
            checkpoint_every=2000,
        ),
    )
