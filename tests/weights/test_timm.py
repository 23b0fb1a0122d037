"""timm's Xceptions: the same names, the same function, and what is refused."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import TINY_MODEL
from safetensors.numpy import save_file

from deeplab_jax import ModelConfig, UserError, build_model
from deeplab_jax.cli import convert
from deeplab_jax.weights import from_timm
from deeplab_jax.weights.convert import convert_variables
from deeplab_jax.weights.files import load_weights
from deeplab_jax.weights.timm import timm_slots

NARROW = dataclasses.replace(TINY_MODEL, backbone="xception_41", head="classifier")
# Of timm 1.0.31: sha256 of the sorted lines "name [shape]" of a state dict, without the
# num_batches_tracked.
STATE_DICTS = {
    "xception_41": "099e0158b8c30c1f8ee431b814302e29360432c84c101f4026e274025cc28034",
    "xception_65": "8eb8b256c996a9b06d25ef8dac872a58723491362295cd2dedba8d5dd378e7c5",
    "xception_71": "6806c1b2c7f8bc747ba9e9af2f1e3fc43453121ad16454011957f9af3f60c69f",
}
TOLERANCE = 1e-4  # of each array's largest value


def classifier(backbone: str) -> ModelConfig:
    return ModelConfig(
        backbone=backbone,  # type: ignore[arg-type]
        head="classifier",
        num_classes=1000,
        output_stride=32,
    )


@pytest.mark.parametrize("backbone", STATE_DICTS)
def test_names_and_shapes_are_timms(backbone: str) -> None:
    slots = timm_slots(classifier(backbone)).values()
    lines = sorted(f"{slot.name} {list(slot.file_shape)}" for slot in slots)
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == STATE_DICTS[backbone]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """What timm would give for a narrow network."""
    rng = np.random.default_rng(0)
    slots = timm_slots(NARROW).values()
    return {slot.name: rng.standard_normal(slot.file_shape, np.float32) for slot in slots}


@pytest.mark.parametrize("backbone_only", [True, False])
def test_converting_a_safetensors_file(
    arrays: dict[str, np.ndarray], tmp_path: Path, backbone_only: bool
) -> None:
    source = tmp_path / "timm.safetensors"
    save_file(arrays | {"stem.0.bn.num_batches_tracked": np.zeros((), np.int64)}, source)
    head = "--backbone-only" if backbone_only else "--model.head=classifier --model.num_classes=3"
    convert(
        f"{source} --out {tmp_path / 'w'} --model.backbone=xception_41"
        f" --model.width={NARROW.width} {head}".split()
    )
    params = load_weights(tmp_path / "w", complete=False).variables["params"]
    unit = params["backbone"]["entry_flow_block1_unit_1"]
    for ours, theirs in (
        (unit["separable_conv1_depthwise"], "blocks.0.stack.conv1.conv_dw"),
        (unit["separable_conv3_pointwise"], "blocks.0.stack.conv3.conv_pw"),
        (unit["shortcut"], "blocks.0.shortcut.conv"),
        (params["backbone"]["entry_flow_conv1_2"], "stem.1.conv"),
    ):
        kernel = arrays[f"{theirs}.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(ours["kernel"], kernel)
    assert ("logits" in params) != backbone_only
    if not backbone_only:
        np.testing.assert_array_equal(params["logits"]["kernel"][0, 0], arrays["head.fc.weight"].T)


def test_what_does_not_fit_is_listed(arrays: dict[str, np.ndarray]) -> None:
    broken = {**arrays, "stem.1.conv.weight": np.zeros((5, 5, 3, 3), np.float32)}
    broken["strange"] = broken.pop("blocks.0.shortcut.bn.bias")
    with pytest.raises(UserError) as error:
        from_timm(broken, NARROW)
    text = str(error.value)
    assert "blocks.0.shortcut.bn.bias: file has none, model [12]" in text
    assert "stem.1.conv.weight: file [5, 5, 3, 3], model [8, 8, 3, 3]" in text
    assert "without a place (1):\n    strange [12]" in text
    with pytest.raises(UserError, match=r"head\.fc\.weight: file \[3, 204\](.*\n)*.*fresh-logits"):
        from_timm(arrays, dataclasses.replace(NARROW, num_classes=5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet_v1_50"}, "stride in the first unit of a block"),
        ({"backbone": "mobilenet_v2"}, "pads strided convolutions on all sides"),
        ({"head": "deeplabv3"}, "--backbone-only"),
    ],
)
def test_other_networks_are_refused(
    arrays: dict[str, np.ndarray], changes: dict[str, Any], message: str
) -> None:
    config = dataclasses.replace(NARROW, **changes)
    with pytest.raises(UserError, match=message):
        convert_variables(arrays, config, timm=True, backbone_only=False, fresh_logits=False)


def test_pre_activation_networks_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(UserError, match="xception41p"):
        from_timm({**arrays, "stem.1.weight": np.zeros(1)}, NARROW)


@pytest.mark.parametrize("size", [(97, 129), (96, 130)])
@pytest.mark.parametrize("backbone", STATE_DICTS)
def test_logits_and_features_equal_timms(backbone: str, size: tuple[int, int]) -> None:
    reason = "comparing with timm itself needs it and PyTorch: pip install timm torch"
    timm = pytest.importorskip("timm", reason=reason)
    torch = pytest.importorskip("torch", reason=reason)
    network = timm.create_model(backbone.replace("_", "")).eval()
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.1)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.nn.init.normal_(network.head.fc.weight, 0, 0.1)
    image = np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype(np.float32)
    with torch.inference_mode():
        features = network.forward_features(torch.from_numpy(image / 127.5 - 1).permute(0, 3, 1, 2))
        theirs = [features.permute(0, 2, 3, 1).numpy(), network.forward_head(features).numpy()]

    config = classifier(backbone)
    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    forward = jax.jit(
        lambda variables: build_model(config).apply(
            variables,
            image,
            train=False,
            capture_intermediates=lambda module, _: module.name == "backbone",
            mutable=["intermediates"],
        )
    )
    logits, captured = forward(from_timm(arrays, config))
    backbone_output, _ = captured["intermediates"]["backbone"]["__call__"][0]
    for ours, other in zip([backbone_output, logits[:, 0, 0]], theirs, strict=True):
        assert ours.shape == other.shape
        difference = np.abs(ours - other).max() / np.abs(other).max()
        assert difference <= TOLERANCE
