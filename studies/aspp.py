"""Parts of the ASPP (paper, Table 7: Xception-65 v3+, mIoU % on Cityscapes val).

    deeplab study aspp

Its atrous branches and its image pooling, which costs 0.35 on Cityscapes. Five trainings; the
paper's, of 90,000 steps each, need accelerators.

Measured on *scenes*, 100 steps of 129x161 crops a row from one encoder, one seed, 9 minutes on 2
CPU cores (`--pretrained=ENCODER --steps=100 --data.crop_size 129 161`): with image pooling 43.4,
without 43.8, half the rates 45.2, image pooling alone 44.1, neither 46.8 mIoU, which is less than
the spread between seeds.
"""

from deeplab_jax.config import Config, load_config_file
from deeplab_jax.training.study import Row, Study, changed


def get_config() -> Config:
    return load_config_file("scenes")


def get_study(base: Config) -> Study:
    rates = base.model.rates
    halves = tuple(max(1, rate // 2) for rate in rates)
    names, half_names = (" ".join(map(str, x)) for x in (rates, halves))
    on, off = {"model.image_pooling": True}, {"model.image_pooling": False}
    table_7 = "Table 7, Cityscapes"
    return Study(
        name="aspp",
        title="Parts of the ASPP",
        about="Its atrous branches and its image pooling (paper, Table 7: on Cityscapes,"
        " Xception-65 v3+ is better without image pooling).",
        base=changed(base, {"model.head": "deeplabv3plus"}),
        rows=(
            Row(f"rates {names}, image pooling", on, paper={table_7: 78.79}),
            Row(f"rates {names}", off, paper={table_7: 79.14}),
            Row(f"rates {half_names}, image pooling", {**on, "model.atrous_rates": halves}),
            Row("image pooling alone", {**on, "model.atrous_rates": ()}),
            Row("neither", {**off, "model.atrous_rates": ()}),
        ),
    )
