"""Published figures of the accelerators that a run can be planned for."""

from typing import NamedTuple

GB = 1e9


class Chip(NamedTuple):
    """One device: memory in GB, TFLOP/s of bf16 products, GB/s of memory and of the interconnect.

    `interconnect` is all links of a chip together, as published: both directions where the
    publisher counts both. `cores` is libtpu's name for how a chip's cores are seen: of v4's two,
    "megacore" makes the one device that JAX has. `gpu` is the file that describes a GPU to XLA.
    """

    name: str
    memory: float
    tflops: float
    bandwidth: float
    interconnect: float
    cores: str = "default"
    gpu: str = ""


CHIPS = {
    # cloud.google.com/tpu/docs/v4, v5e, v5p, v6e
    "v4": Chip("TPU v4", 32, 275, 1200, 300, cores="megacore"),
    "v5e": Chip("TPU v5e", 16, 197, 800, 200),
    "v5p": Chip("TPU v5p", 95, 459, 2765, 1200),
    "v6e": Chip("TPU v6e", 32, 918, 1600, 400),
    # NVIDIA's data sheets, products without sparsity, NVLink; memory as XLA has it
    "a100": Chip("NVIDIA A100-SXM4-80GB", 85, 312, 2039, 600, gpu="a100_sxm_80.txtpb"),
    "h100": Chip("NVIDIA H100 80GB HBM3", 85, 989, 3352, 900, gpu="h100_sxm.txtpb"),
}
