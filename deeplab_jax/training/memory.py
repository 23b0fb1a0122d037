"""What a training step holds at once on a device, by its compiler's account: nothing is run."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from deeplab_jax.config import Config
from deeplab_jax.training.state import abstract_state
from deeplab_jax.training.step import compile_train_step


def lower_step(config: Config, mesh: Mesh, ignore_label: int) -> Any:
    """The training step of a configuration, lowered for the devices of a mesh."""
    state = abstract_state(config, mesh)
    step: Any = compile_train_step(config, state, mesh, ignore_label)
    return step.lower(state, batch_shapes(config))


def batch_shapes(config: Config) -> dict[str, Any]:
    """A global batch as shapes."""
    shape = (config.train.batch, *config.data.crop)
    label = jax.ShapeDtypeStruct(shape, jnp.uint8)
    if config.data.one_label:
        label = jax.ShapeDtypeStruct((shape[0], 1, 1), jnp.uint16)
    image = jax.ShapeDtypeStruct((*shape, config.model.image_channels), jnp.uint8)
    return {"image": image, "label": label}


def held_bytes(memory: Any) -> int:
    """Bytes that a program holds on each device, of a compiled one's `memory_analysis`.

    Donated outputs take the place of arguments.
    """
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    inside = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return int(memory.argument_size_in_bytes + outputs + inside)


def step_bytes(config: Config, mesh: Mesh, ignore_label: int) -> float:
    """Bytes that a training step holds on each device; infinite where its compiler gives up.

    The step that will run is compiled, so that JAX's cache has it then.
    """
    try:
        compiled = lower_step(config, mesh, ignore_label).compile()
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return float("inf")
    return held_bytes(compiled.memory_analysis())
