"""Output stride, decoder, scales and flip (paper, Tables 3 and 5, mIoU % on VOC val).

    deeplab study output-stride

Four trainings, looked at in fourteen ways; the paper's need accelerators. Padded multiply-adds are
counted as the paper did, its maps padded to multiples of the atrous rate.

Measured on *scenes*, 100 steps of 129x161 crops a training from one encoder, one seed, 23 minutes
on 2 CPU cores (`--pretrained=ENCODER --steps=100 --data.crop_size 129 161`): v3 16/16 26.7, 16/8
27.1, v3+ 16/16 43.4, 16/8 44.2, v3+ 32/32 35.0, 32/8 36.9 mIoU. As in the paper a decoder
helps, and so does a smaller stride of evaluation alone; several scales (MS) do not here.
"""

from deeplab_jax.config import Config, load_config_file
from deeplab_jax.training.study import Row, Study, changed

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's "MS"
# Table 3, ResNet-101: (train, eval output stride, decoder, MS, flip, mIoU, multiply-adds in 10^9).
TABLE_3 = (
    (16, 16, False, False, False, 77.21, 81.02),
    (16, 8, False, False, False, 78.51, 276.18),
    (16, 8, False, True, False, 79.45, 2435.37),
    (16, 8, False, True, True, 79.77, 4870.59),
    (16, 16, True, False, False, 78.85, 101.28),
    (16, 16, True, True, False, 80.09, 898.69),
    (16, 16, True, True, True, 80.22, 1797.23),
    (16, 8, True, False, False, 79.35, 297.92),
    (16, 8, True, True, False, 80.43, 2623.61),
    (16, 8, True, True, True, 80.57, 5247.07),
    (32, 32, False, False, False, 75.43, 52.43),
    (32, 32, True, False, False, 77.37, 74.20),
    (32, 16, True, False, False, 77.80, 101.28),
    (32, 8, True, False, False, 77.92, 297.92),
)
# Table 5, Xception-65, trained at 16: (eval output stride, decoder, MS, flip) -> mIoU. Of its rows
# with a decoder those with plain convolutions, which has all.
TABLE_5 = {
    (16, False, False, False): 79.17,
    (8, False, False, False): 79.64,
    (8, False, True, False): 81.15,
    (8, False, True, True): 81.34,
    (16, True, False, False): 79.93,
    (16, True, True, False): 81.38,
    (16, True, True, True): 81.44,
    (8, True, False, False): 80.22,
    (8, True, True, False): 81.60,
    (8, True, True, True): 81.63,
}


def get_config() -> Config:
    return load_config_file("scenes")


def get_study(base: Config) -> Study:
    rows = []
    for train, stride, decoder, scales, flip, miou, multiply_adds in TABLE_3:
        paper = {"Table 3": miou, "multiply-adds": multiply_adds}
        if train == 16:
            paper["Table 5"] = TABLE_5[stride, decoder, scales, flip]
        head, short = ("deeplabv3plus", "v3+") if decoder else ("deeplabv3", "v3")
        rows.append(
            Row(
                f"{short} {train}/{stride}{' MS' if scales else ''}{' flip' if flip else ''}",
                {"model.output_stride": train, "model.head": head},
                {
                    "model.output_stride": stride,
                    "eval.scales": SCALES if scales else (1.0,),
                    "eval.flip": flip,
                },
                paper,
            )
        )
    return Study(
        name="output-stride",
        title="Output stride, decoder, scales and flip",
        about="Four trained networks, each evaluated in several ways: output stride of training /"
        " evaluation, six scales (MS), mirror images (paper, Table 3: ResNet-101, and Table 5:"
        " Xception-65). Padded multiply-adds are counted as the paper did, its maps padded to"
        " multiples of the atrous rate.",
        base=changed(base, {"model.head": "deeplabv3plus"}),
        rows=tuple(rows),
        columns=("miou", "multiply_adds", "padded_multiply_adds", "seconds_per_image"),
    )
