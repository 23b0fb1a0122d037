"""Published figures of the accelerators that a run can be planned for."""

from typing import NamedTuple

GB = 1e9


class Chip(NamedTuple):
    """One device: memory in GB, TFLOP/s of bf16 products, GB/s of memory and of the interconnect.

    `interconnect` is all links of a chip together, as published: both directions where the
    publisher counts both. `gpu` is XLA's description of a GPU, "" for a TPU. `cores` is libtpu's
    name for how a chip's cores are seen: of v4's two, "megacore" makes the one device that JAX has.
    """

    name: str
    memory: float
    tflops: float
    bandwidth: float
    interconnect: float
    gpu: str = ""
    cores: str = "default"


# Of NVIDIA's GPUs as XLA publishes them, in its GpuTargetConfigProto: openxla/xla,
# xla/backends/gpu/target_config/specs/{h100_sxm,a100_sxm_80}.txtpb; cuDNN 9.8.
COMMON = """
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 shared_memory_per_block: 49152
"""
H100 = """
  cuda_compute_capability { major: 9 minor: 0 } core_count: 132 fpus_per_core: 128
  clock_rate_ghz: 1.98 memory_bandwidth: 3352320000000 device_memory_size: 84942979072
  l2_cache_size: 52428800 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
"""
A100 = """
  cuda_compute_capability { major: 8 minor: 0 } core_count: 108 fpus_per_core: 64
  clock_rate_ghz: 1.41 memory_bandwidth: 2039040000000 device_memory_size: 85100068864
  l2_cache_size: 41943040 shared_memory_per_core: 167936
  shared_memory_per_block_optin: 166912
"""

CHIPS = {
    # cloud.google.com/tpu/docs/v4, v5e, v5p, v6e
    "v4": Chip("TPU v4", 32, 275, 1200, 300, cores="megacore"),
    "v5e": Chip("TPU v5e", 16, 197, 800, 200),
    "v5p": Chip("TPU v5p", 95, 459, 2765, 1200),
    "v6e": Chip("TPU v6e", 32, 918, 1600, 400),
    # NVIDIA's data sheets, products without sparsity, NVLink; memory as XLA has it
    "a100": Chip("NVIDIA A100-SXM4-80GB", 85, 312, 2039, 600, A100),
    "h100": Chip("NVIDIA H100 80GB HBM3", 85, 989, 3352, 900, H100),
}


def gpu_target(chip: Chip) -> str:
    """The GpuTargetConfigProto of a GPU, as text."""
    return (
        f"gpu_device_info {{ {COMMON} {chip.gpu} }}"
        f' device_description_str: "{chip.name}"'
        ' platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }'
    )
