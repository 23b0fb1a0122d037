"""Low-level features (paper, Table 2: ResNet-101, mIoU % on VOC val).

    deeplab study low-level

Which features the decoder adds: those at stride 4, or first those at stride 8. Two trainings; the
paper's, of 30,000 steps each, need accelerators.

Measured on *scenes*, 100 steps of 129x161 crops a row from one encoder, one seed, 5 minutes on 2
CPU cores (`--pretrained=ENCODER --steps=100 --data.crop_size 129 161`): Conv2 51.9, Conv2 and Conv3
43.6 mIoU, which is less than the spread between seeds.
"""

from deeplab_jax.config import Config, load_config_file
from deeplab_jax.training.study import Row, Study, changed

DECODER = {"model.head": "deeplabv3plus", "model.decoder_convs": 1, "model.decoder_kernel": 3}


def get_config() -> Config:
    return load_config_file("scenes")


def get_study(base: Config) -> Study:
    return Study(
        name="low-level",
        title="Low-level features",
        about="Which features the decoder adds: those at stride 4 (the paper's Conv2), or first"
        " those at stride 8 (Conv3) and then those (paper, Table 2: ResNet-101, one 3x3"
        " convolution each).",
        base=changed(base, DECODER),
        rows=(
            Row("Conv2", {"model.decoder_strides": (4,)}, paper={"Table 2": 78.21}),
            Row("Conv2 and Conv3", {"model.decoder_strides": (8, 4)}, paper={"Table 2": 78.61}),
        ),
    )
