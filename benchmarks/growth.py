"""How a training step grows with the batch, the crop, the width and the number of devices.

    python -m benchmarks.growth --axis batch

One axis a run, MobileNetV2 v3+ otherwise as in BASE. Batch, crop and width are timed here. Devices
are simulated (XLA's CPU devices, as many images for each), so that no time means anything: their
rows have what the compiler says of one device, by how the mesh splits the work.
"""

import argparse
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.accelerator.steps import Setting, measure
from deeplab_jax.plan.compilers import lower
from deeplab_jax.plan.programs import collectives


class Case(NamedTuple):
    batch: int = 4
    crop: int = 257
    width: float = 0.5
    devices: int = 1
    fsdp: int = 1
    space: int = 1


BASE = Case()
AXES: dict[str, tuple[Any, ...]] = {
    "batch": (1, 2, 4, 8, 16),
    "crop": (257, 513, 769, 1025),
    "width": (0.25, 0.5, 0.75, 1.0),
    "devices": (1, 4, 16, 64, 256),
}
MESHES = ({}, {"fsdp": 4}, {"space": 4})  # the other devices split the batch


def config_of(case: Case) -> Any:
    """The configuration of a case."""
    from deeplab_jax import Config, DataConfig, MeshConfig, ModelConfig, TrainConfig

    return Config(
        mesh=MeshConfig(fsdp=case.fsdp, space=case.space),
        model=ModelConfig(backbone="mobilenet_v2", width=case.width, num_classes=21),
        data=DataConfig(crop_size=(case.crop, case.crop)),
        train=TrainConfig(batch_size=case.batch * case.devices),
    )


def compiled_step(case: Case) -> Any:
    """The training step, compiled for the first devices."""
    import jax

    return lower(config_of(case), jax.devices()[: case.devices]).compile()


def time_table(axis: str) -> None:
    """Milliseconds an image and memory, as ratios to the first row."""
    print(f"| {axis} | ms an image | of the first | a pixel | memory, GB an image |")
    print("|---|---|---|---|---|")
    first = None
    for value in AXES[axis]:
        case = BASE._replace(**{axis: value})
        setting = Setting("mobilenet_v2", case.batch, case.crop, width=case.width, dtype="float32")
        found = measure(replace(setting, steps=1))
        ms, gb = found["ms an image"], found["memory GB"]["compiled"] / case.batch
        first = first or (ms, case.crop**2)
        ratio, pixels = ms / first[0], case.crop**2 / first[1]
        print(f"| {value} | {ms:.0f} | {ratio:.2f} | {ratio / pixels:.2f} | {gb:.2f} |")


def device_table() -> None:
    """What the compiler says of one device, with as many images for each."""
    print("| devices | mesh | collectives: how many, MB of their results | temporaries, GB |")
    print("|---|---|---|---|")
    for split in MESHES:
        for devices in AXES["devices"]:
            if devices % max(split.values(), default=1):
                continue
            step = compiled_step(BASE._replace(devices=devices, **split))
            found = collectives(step.as_text()).items()
            moved = "; ".join(f"{kind} {x.operations}, {1e3 * x.gb:.1f}" for kind, x in found)
            mesh = ", ".join(f"{axis} {n}" for axis, n in split.items()) or "data"
            gb = step.memory_analysis().temp_size_in_bytes / 1e9
            print(f"| {devices} | {mesh} | {moved or 'none'} | {gb:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--axis", required=True, choices=AXES)
    axis = parser.parse_args().axis
    if axis == "devices":
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max(AXES["devices"]))
        jax.config.update("jax_disable_most_optimizations", True)  # nothing runs
        device_table()
    else:
        time_table(axis)


if __name__ == "__main__":
    from deeplab_jax.process import restart_with_huge_pages

    restart_with_huge_pages()
    main()
