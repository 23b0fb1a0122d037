"""Our logits and end-points equal those the official TF code computed from the same weights."""

from typing import Any

import jax
import numpy as np
import official
import pytest

from deeplab_jax import build_model
from deeplab_jax.ops.pool import max_pool
from deeplab_jax.weights import from_tf_variables

CASES = ["mobilenet_v2_os16_v3", "mobilenet_v2_os8", "resnet_v1_50_beta_os16", "xception_65_os16"]
TOLERANCE = 1e-4  # of each array's largest value


def module_path(tensor: str) -> tuple[str, ...]:
    """The module of ours whose output the end-point 'scope.scope.Relu' is."""
    scopes = tensor.split(".")[:-1]
    if scopes[0].startswith("xception"):
        return ("backbone", "_".join(s for s in scopes[1:] if s != "xception_module"))
    if scopes[0].startswith("resnet"):
        return ("backbone", "_".join(s for s in scopes[1:] if s != "bottleneck_v1"))
    if scopes[0] != "decoder":
        name, *part = scopes[0].split("_", 1) if scopes[0].startswith("aspp") else (scopes[0],)
        return ("aspp", name, *part)
    name = scopes[1].removeprefix("decoder_").replace("feature_projection0", "feature_projection")
    return ("decoder0", *name.split("_", 1)) if name.startswith("conv") else ("decoder0", name)


def pooled_stem(captured: Any) -> np.ndarray:
    """The max-pool behind a ResNet's stem: no module of ours, so its input is pooled here."""
    return np.asarray(max_pool(output_of(captured, ("backbone", "conv1_3")), 3, 2))


def output_of(intermediates: Any, path: tuple[str, ...]) -> np.ndarray:
    for name in path:
        intermediates = intermediates[name]
    return np.asarray(jax.tree.leaves(intermediates["__call__"])[0])


@pytest.mark.parametrize("name", CASES)
def test_logits_and_end_points_equal_the_official_ones(name: str) -> None:
    case = official.load_case(name)
    stored = np.load(official.shared("reference", f"{name}.npz"))
    config = official.model_config(case)
    model = build_model(config)
    variables = from_tf_variables(official.tf_variables(case), config)

    @jax.jit
    def forward(variables: Any, image: Any) -> Any:
        return model.apply(
            variables, image, train=False, capture_intermediates=True, mutable=["intermediates"]
        )

    logits, captured = forward(variables, official.image(case))
    for tensor in stored.files:
        ours = (
            np.asarray(logits)
            if tensor == "logits"
            else pooled_stem(captured["intermediates"])
            if "pool1" in tensor
            else output_of(captured["intermediates"], module_path(tensor))
        )
        largest = np.abs(stored[tensor]).max()
        assert ours.shape == stored[tensor].shape, tensor
        assert np.abs(ours - stored[tensor]).max() <= TOLERANCE * largest, tensor
