"""Files of ONNX in onnxruntime, on the CPU; and prediction by it in place of XLA."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax import Array

from deeplab_jax.config import EvalConfig, ModelConfig
from deeplab_jax.config.checks import one_of, require
from deeplab_jax.errors import UserError, first_line

Runtime = Literal["xla", "onnxruntime"]
MOST_SESSIONS = 16  # for images of so many sizes: each has the weights


def check_installed(*packages: str) -> None:
    """Raise UserError, with what to type, unless these can be imported."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        one = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed"
        raise UserError(f"{one}: pip install {' '.join(missing)}")


def check_runtime(runtime: Runtime, protocol: EvalConfig, *, devices: int) -> None:
    """Raise UserError unless this runtime is there, and can look at images so."""
    one_of("runtime", runtime, get_args(Runtime))
    if runtime == "onnxruntime":
        check_installed("onnx", "onnxruntime")
        allowed = "runtime = onnxruntime has none, but for images above 64 megapixels: leave it out"
        require(protocol.window is None, "eval.window", protocol.window, allowed)
        allowed = "1: runtime = onnxruntime computes on one CPU"
        require(devices == 1, "the number of devices", devices, allowed)


def model_for(runtime: Runtime, model: ModelConfig) -> ModelConfig:
    """The network as a runtime computes it: onnxruntime has no bfloat16 on a CPU."""
    return model if runtime == "xla" else replace(model, dtype="float32")


def open_session(model: Any) -> Any:
    """A session of onnxruntime on the CPU, of an `onnx.ModelProto`.

    Raises:
      UserError: onnxruntime does not take it; with its words.
    """
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # classes of its own, one for each code
        raise UserError(f"onnxruntime cannot load the model: {first_line(error)}") from error


class Compiled:
    """`function(variables, image)` by onnxruntime, as `jax.jit` would have it by XLA.

    A session is opened when the first image of a size comes; or one for all sizes k * `stride` + 1,
    where the function allows that. The first variables are kept inside.
    """

    def __init__(self, function: Callable[..., Array], stride: int) -> None:
        self._function, self._stride = function, stride
        self._sessions: dict[tuple[int, ...], Any] = {}
        self._for_any_size: Any = None

    def __call__(self, variables: Any, image: np.ndarray | Array) -> np.ndarray:
        image = np.asarray(image)
        shape = image.shape[1:]
        if shape not in self._sessions:
            if len(self._sessions) == MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            function = partial(self._function, variables)
            self._sessions[shape] = self._open(function, jax.ShapeDtypeStruct(shape, image.dtype))
        (result,) = self._sessions[shape].run(None, {"image": image})
        return np.asarray(result)

    def _open(self, function: Callable[[Array], Array], image: jax.ShapeDtypeStruct) -> Any:
        from deeplab_jax.lowering.lower import lower, lower_for_any_size

        stride = self._stride
        if stride and all(n > stride and n % stride == 1 for n in image.shape[:2]):
            try:
                if self._for_any_size is None:
                    any_size = lower_for_any_size(function, image, stride)
                    self._for_any_size = open_session(any_size.model)
                return self._for_any_size
            except UserError:  # if it is not the size that is in the way, raised below too
                self._stride = 0
        return open_session(lower(function, image).model)
