"""Our logits and end-points equal those the official TF code computed from the same weights."""

from typing import Any

import jax
import numpy as np
import official
import pytest

from deeplab_jax import build_model
from deeplab_jax.models.layers import hard_sigmoid
from deeplab_jax.ops.pool import max_pool
from deeplab_jax.weights import from_tf_variables, official_config

TOLERANCE = 1e-4  # of each array's largest value, where the manifest does not say


def module_path(tensor: str) -> tuple[str, ...]:
    """The module of ours whose output the end-point 'scope.scope.Relu' is."""
    scopes = tensor.split(".")[:-1]
    if scopes[0].startswith("xception"):
        return ("backbone", "_".join(s for s in scopes[1:] if s != "xception_module"))
    if scopes[0].startswith("resnet"):
        return ("backbone", "_".join(s for s in scopes[1:] if "bottleneck_v1" not in s))
    if scopes[0].startswith("Mobilenet"):
        return ("backbone", *scopes[1:])
    if scopes[0] == "meta_architecture":
        return (scopes[0], *(scopes[1].split("_") if "branch" in scopes[1] else scopes[1:]))
    if scopes[0] != "decoder":
        name, *part = scopes[0].split("_", 1) if scopes[0].startswith("aspp") else (scopes[0],)
        return ("aspp", name, *part)
    name = scopes[1].removeprefix("decoder_").replace("feature_projection0", "feature_projection")
    return ("decoder0", *name.split("_", 1)) if name.startswith("conv") else ("decoder0", name)


def output_of(intermediates: Any, path: tuple[str, ...]) -> np.ndarray:
    for name in path:
        intermediates = intermediates[name]
    return np.asarray(jax.tree.leaves(intermediates["__call__"])[0])


def end_point(tensor: str, captured: Any) -> np.ndarray:
    """What we have for an end-point; some are between modules of ours."""
    if "pool1" in tensor:  # behind a ResNet's stem
        return np.asarray(max_pool(output_of(captured, ("backbone", "conv1_3")), 3, 2))
    if tensor == "global_pool":
        if "hidden" in captured:
            return output_of(captured, ("hidden",))
        return output_of(captured, ("backbone",)).mean((1, 2), keepdims=True)
    if tensor == "image_pooling.mul":  # the gate, before it is resized
        return np.asarray(hard_sigmoid(output_of(captured, ("aspp", "image_pooling"))))
    return output_of(captured, module_path(tensor))


def strided(array: np.ndarray, tensor: str, case: dict[str, Any]) -> np.ndarray:
    """The pixels that are stored."""
    y, x = case.get("endpoints_stride", {}).get(tensor, (1, 1))
    if tensor == "logits":
        y, x = case.get("logits_stride", (1, 1))
    return array[:, ::y, ::x]


# One of each family is enough on a GPU, where a program takes long to compile.
GPU = (
    "xception_65_os16",
    "resnet_v1_50_beta_os16",
    "mobilenet_v2_os8",
    "mobilenet_v3_small_seg_os16",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.gpu] if n in GPU else []) for n in official.cases()],
)
def test_logits_and_end_points_equal_the_official_ones(name: str) -> None:
    case = official.load_case(name)
    config = official_config(case)
    model = build_model(config)
    variables = from_tf_variables(official.tf_variables(case), config)

    @jax.jit
    def forward(variables: Any, image: Any) -> Any:
        return model.apply(
            variables, image, train=False, capture_intermediates=True, mutable=["intermediates"]
        )

    logits, captured = forward(variables, official.image(case))
    for tensor, theirs in official.stored(name, case).items():
        found = logits if tensor == "logits" else end_point(tensor, captured["intermediates"])
        ours = strided(np.asarray(found), tensor, case)
        largest = np.abs(theirs).max()
        assert ours.shape == theirs.shape, tensor
        error = np.abs(ours - theirs).max() / largest
        print(f"{name} {tensor}: {error:.1e}")
        assert error <= case.get("suggested_tolerance", TOLERANCE), tensor
