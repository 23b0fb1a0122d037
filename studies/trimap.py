"""Boundaries with and without a decoder (paper, Figure 5: mIoU % near boundaries on VOC val).

    deeplab study trimap --steps=300 --seeds=3

mIoU within a few pixels of a boundary, of DeepLab v3 and v3+. Two trainings a seed; the paper's, of
30,000 steps each, need accelerators. Its gain is largest in the narrowest band.

Measured on *scenes* by the command above, 28 minutes on 2 CPU cores, three seeds: v3 36.4 (31.1 to
40.0), within 1 px 19.7; v3+ 63.7 (62.5 to 66.1), within 1 px 41.1. v3+ is better in every band; its
gain is largest at 5 px.
"""

from deeplab_jax.config import Config, load_config_file
from deeplab_jax.training.study import Row, Study, changed

WIDTHS = (1, 2, 5, 10, 20, 40)


def get_config() -> Config:
    return load_config_file("scenes")


def get_study(base: Config) -> Study:
    table_5, gain = "Table 5", "gain in the narrowest band"
    return Study(
        name="trimap",
        title="Boundaries with and without a decoder",
        about="mIoU within a few pixels of a boundary, of DeepLab v3 and v3+ (paper, Figure 5; mIoU"
        " of Table 5: Xception-65, output stride 16).",
        base=changed(base, {"model.head": "deeplabv3plus", "eval.trimap_widths": WIDTHS}),
        rows=(
            Row("DeepLab v3", {"model.head": "deeplabv3"}, paper={table_5: 79.17}),
            Row("DeepLab v3+", {"model.head": "deeplabv3plus"}, paper={table_5: 79.93, gain: 5.4}),
        ),
        columns=("miou", "trimap_1", "trimap_5", "trimap_20", "multiply_adds"),
    )
