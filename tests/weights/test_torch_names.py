"""PyTorch's networks under our names: their names, their numbers, and what `convert` does."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch_cases
from safetensors.numpy import save_file
from torch_cases import CASES

from deeplab_jax import UserError, build_model
from deeplab_jax.cli import convert
from deeplab_jax.weights import from_torch_variables
from deeplab_jax.weights.convert import convert_variables
from deeplab_jax.weights.files import load_weights
from deeplab_jax.weights.torch_names import torch_slots

TOLERANCE = 1e-5  # of each array's largest value
# sha256 of the sorted lines "name [shape]" of a state dict, without the num_batches_tracked: of
# timm 1.0.31, the ResNets' of torchvision 0.28.0 too.
STATE_DICTS = {
    "xception_41": "099e0158b8c30c1f8ee431b814302e29360432c84c101f4026e274025cc28034",
    "xception_65": "8eb8b256c996a9b06d25ef8dac872a58723491362295cd2dedba8d5dd378e7c5",
    "xception_71": "6806c1b2c7f8bc747ba9e9af2f1e3fc43453121ad16454011957f9af3f60c69f",
    "resnet_50": "584ee931ad382885ad353fa64c8bf7736b8cd3a2259cc79a8f1e68cb3de2b163",
    "resnet_101": "a85edc6cd135a89dcee889579bacc5142231707846658ae8a3770606a2572f06",
    "mobilenet_v2 0.35": "aab1632143de433c2ddcdd0e0568930a9d3f5330dfa65e23033cc6159a434db8",
    "mobilenet_v2 1": "fb193ed441ef69d9f4e78ab316e4a1082177ed80e7d52099036b4ba917511288",
    "mobilenet_v2 1.4": "89df35e9deac3d436700487019d14e5cb642f82db151b46a7409d60f4b033133",
}
SEGMENTATION = [  # torchvision 0.28.0, segmentation_models.pytorch 0.6.0
    ("torchvision resnet_50", "2f588a9fcaa647c812b6fc2c84dccebf33e1fa83198a7f6ceb20382659a38f04"),
    ("smp resnet_101", "0124c0c8e3f716bdc28bfce65691770ce67991f63de01d566d2a415bbe1fde01"),
]
NARROW = CASES["timm_xception41"].model


@pytest.mark.parametrize("network", STATE_DICTS)
def test_names_and_shapes_are_theirs(network: str) -> None:
    backbone, *width = network.split()
    fields: dict[str, Any] = {"width": 1.0}
    if width:
        fields = {"width": float(width[0]), "width_divisor": 8, "mobilenet_form": "torch"}
    config = dataclasses.replace(torch_cases.classifier(backbone, **fields), num_classes=1000)
    lines = sorted(f"{slot.name} {list(slot.file_shape)}" for slot in torch_slots(config).values())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == STATE_DICTS[network]


@pytest.mark.parametrize(("network", "digest"), SEGMENTATION)
def test_names_and_shapes_of_whole_networks_are_theirs(network: str, digest: str) -> None:
    """All but torchvision's auxiliary classifier, and the counts of batches."""
    library, backbone = network.split()
    case = CASES[{"torchvision": "torchvision_deeplabv3", "smp": "smp_deeplabv3plus"}[library]]
    wide = {"width": 1.0, "aspp_channels": 256, "decoder_channels": 256, "num_classes": 21}
    config = dataclasses.replace(
        case.model, backbone=backbone, decoder_low_level_channels=48, **wide
    )
    slots = torch_slots(config, case.prefix).values()
    lines = sorted(f"{slot.name} {list(slot.file_shape)}" for slot in slots)
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest


def arrays_of(case: torch_cases.Case) -> dict[str, np.ndarray]:
    """The state dict of a narrow network, by the recipe."""
    slots = torch_slots(case.model, case.prefix).values()
    return {slot.name: torch_cases.weight(slot.name, slot.file_shape) for slot in slots}


def ours(case: torch_cases.Case) -> np.ndarray:
    variables = from_torch_variables(arrays_of(case), case.model)
    model = build_model(case.model)
    logits = jax.jit(lambda *x: model.apply(*x, train=False))(
        variables, torch_cases.image(case.size)
    )
    return np.asarray(logits)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_recorded_of_pytorch(name: str) -> None:
    with np.load(torch_cases.FIXTURE) as recorded:
        check_equal(ours(CASES[name]), recorded[name])


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_pytorch_here(name: str) -> None:
    for package in ("torchvision", "timm", "segmentation_models_pytorch"):
        why = "compares with PyTorch itself: pip install timm segmentation-models-pytorch"
        pytest.importorskip(package, reason=why)
    case = CASES[name]
    if case.model.head != "classifier":  # so large that all atrous rates meet pixels
        case = case._replace(size=(320, 640))
    check_equal(ours(case), torch_cases.theirs(case))


def check_equal(logits: np.ndarray, theirs: np.ndarray) -> None:
    theirs = theirs.reshape(logits.shape)
    error = np.abs(logits - theirs).max() / np.abs(theirs).max()
    print(f"{error:.1e}")
    assert error <= TOLERANCE


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return arrays_of(CASES["timm_xception41"])


@pytest.mark.parametrize("backbone_only", [True, False])
def test_converting_a_safetensors_file(
    arrays: dict[str, np.ndarray], tmp_path: Path, backbone_only: bool
) -> None:
    source = tmp_path / "timm.safetensors"
    save_file(arrays | {"stem.0.bn.num_batches_tracked": np.zeros((), np.int64)}, source)
    only = ["--backbone-only"] * backbone_only
    convert([str(source), "--out", str(tmp_path / "w"), f"--model.width={NARROW.width}", *only])
    weights = load_weights(tmp_path / "w", complete=False)
    assert weights.model == NARROW
    params = weights.variables["params"]
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


def test_a_wrong_flag_is_contradicted(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    source = tmp_path / "timm.safetensors"
    save_file(arrays, source)
    with pytest.raises(UserError, match=r"model\.backbone = 'resnet_50' .*: 'xception_41'; leave"):
        convert(f"{source} --out {tmp_path / 'w'} --model.backbone=resnet_50".split())


def test_what_does_not_fit_is_listed(arrays: dict[str, np.ndarray]) -> None:
    broken = {**arrays, "stem.1.conv.weight": np.zeros((5, 5, 3, 3), np.float32)}
    broken["strange"] = broken.pop("blocks.0.shortcut.bn.bias")
    with pytest.raises(UserError) as error:
        from_torch_variables(broken, NARROW)
    text = str(error.value)
    assert "blocks.0.shortcut.bn.bias: file has none, model [32]" in text
    assert "stem.1.conv.weight: file [5, 5, 3, 3], model [16, 8, 3, 3]" in text
    assert "without a place (1):\n    strange [32]" in text
    with pytest.raises(UserError, match=r"head\.fc\.weight: file \[5, 512\](.*\n)*.*fresh-logits"):
        from_torch_variables(arrays, dataclasses.replace(NARROW, num_classes=7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet_v1_50"}, "stride in the first unit .* take resnet_50"),
        ({"backbone": "mobilenet_v2"}, "on all sides, .*mobilenet_form = torch"),
        ({"backbone": "mobilenet_edgetpu"}, "have no such network"),
        ({"head": "deeplabv3"}, "--backbone-only"),
    ],
)
def test_other_networks_are_refused(
    arrays: dict[str, np.ndarray], changes: dict[str, Any], message: str
) -> None:
    config = dataclasses.replace(NARROW, **changes)
    with pytest.raises(UserError, match=message):
        convert_variables(arrays, config, torch=True, backbone_only=False, fresh_logits=False)
