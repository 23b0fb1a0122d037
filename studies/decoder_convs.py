"""Convolutions of the decoder (paper, Table 2: ResNet-101, mIoU % on VOC val).

    deeplab study decoder-convs --seeds=3

What refines the joined features: one, two or three 3x3 convolutions, half the channels, or a 1x1.
Five trainings a seed; the paper's, of 30,000 steps each, need accelerators.

Measured on *scenes*, 100 steps of 129x161 crops a row from one encoder, three seeds, 28 minutes on
2 CPU cores (`--pretrained=ENCODER --steps=100 --data.crop_size 129 161`): 42.9 (34.4 to 51.9), two
38.5 (32.9 to 43.4), three 33.0 (30.5 to 37.1), half 33.6 (28.4 to 38.3), 1x1 47.8 (43.0 to 51.5).
Not the paper's order: this compares how fast they learn.
"""

from deeplab_jax.config import Config, load_config_file
from deeplab_jax.training.study import Row, Study, changed

DECODER = {
    "model.head": "deeplabv3plus",
    "model.decoder_strides": (4,),
    "model.decoder_convs": 1,
    "model.decoder_kernel": 3,
}


def get_config() -> Config:
    return load_config_file("scenes")


def get_study(base: Config) -> Study:
    full = base.model.decoder_channels  # the paper's 256
    half = max(1, full // 2)
    return Study(
        name="decoder-convs",
        title="Convolutions of the decoder",
        about="What refines the joined features (paper, Table 2: ResNet-101, 48 low-level"
        " channels; 256 channels, or 128).",
        base=changed(base, DECODER),
        rows=(
            Row(f"3x3, {full}", paper={"Table 2": 78.21}),
            Row(f"3x3, {full}, twice", {"model.decoder_convs": 2}, paper={"Table 2": 78.85}),
            Row(f"3x3, {full}, three times", {"model.decoder_convs": 3}, paper={"Table 2": 78.02}),
            Row(f"3x3, {half}", {"model.decoder_channels": half}, paper={"Table 2": 77.25}),
            Row(f"1x1, {full}", {"model.decoder_kernel": 1}, paper={"Table 2": 78.07}),
        ),
    )
