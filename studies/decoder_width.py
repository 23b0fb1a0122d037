"""Channels of the decoder's 1x1 convolution (paper, Table 1: ResNet-101, mIoU % on VOC val).

    deeplab study decoder-width

How many channels the low-level features are reduced to before they join the encoder's. Five
trainings; the paper's, of 30,000 steps each, need accelerators.

Measured on *scenes*, 100 steps of 129x161 crops a row from one encoder, one seed, 10 minutes on 2
CPU cores (`--pretrained=ENCODER --steps=100 --data.crop_size 129 161`): 8 channels 51.1, 16 52.1,
32 46.8, 48 54.0, 64 48.2 mIoU. Seeds differ by more than these rows do.
"""

from deeplab_jax.config import Config, load_config_file
from deeplab_jax.training.study import Row, Study, changed

TABLE_1 = {8: 77.61, 16: 77.92, 32: 78.16, 48: 78.21, 64: 77.94}
DECODER = {
    "model.head": "deeplabv3plus",
    "model.decoder_strides": (4,),
    "model.decoder_convs": 1,
    "model.decoder_kernel": 3,
}


def get_config() -> Config:
    return load_config_file("scenes")


def get_study(base: Config) -> Study:
    return Study(
        name="decoder-width",
        title="Channels of the decoder's 1x1 convolution",
        about="How many channels the low-level features are reduced to before they join the"
        " encoder's (paper, Table 1: ResNet-101, one 3x3 convolution of 256 channels).",
        base=changed(base, DECODER),
        rows=tuple(
            Row(
                f"{channels} channels",
                {"model.decoder_low_level_channels": channels},
                paper={"Table 1": miou},
            )
            for channels, miou in TABLE_1.items()
        ),
    )
