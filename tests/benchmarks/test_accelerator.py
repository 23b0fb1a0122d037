"""The parts run tiny on a CPU; forms are equal; what is counted is what is known."""

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest

from benchmarks.accelerator import forms, kernels, steps, training
from benchmarks.accelerator.__main__ import main
from benchmarks.accelerator.measure import Entry, run_entries
from deeplab_jax.config import parse
from deeplab_jax.ops.conv import Pads, conv, spatial_pads

TORCH = ("torch", "segmentation_models_pytorch")


@pytest.mark.parametrize("part", ["check", "depthwise", "layers", "step", "training", "peers"])
def test_a_part_runs_dry(part: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if part == "peers" and not all(map(importlib.util.find_spec, TORCH)):
        pytest.skip("needs torch and segmentation_models_pytorch")
    main([part, "--dry", "--out", str(tmp_path), "--minutes", "60"])
    results = json.loads((tmp_path / f"{part}.json").read_text())["results"]
    table = capfd.readouterr().out.rpartition(f"\n{part}\n")[2]
    for result in results:
        assert "error" not in result and result.get("right", True), result
        assert f"| {result['name']} | {result['predicted']} | " in table


def test_every_experiment_has_a_prediction_and_a_setting_that_can_be_made() -> None:
    for part in ("step", "batches", "memory", "flags"):
        for entry in steps.entries(part, "depthwise.json", dry=False):
            (setting,) = entry.run.args  # type: ignore[attr-defined]
            assert entry.predicted and setting.model.classes == 21
            with steps.apply_forms(tuple(f for f in setting.forms if not f.endswith(".json"))):
                pass


def test_the_flags_of_every_training_are_known() -> None:
    for _, flags in training.RUNS.values():
        assert parse([*flags.split(), *training.SHORT.split()], "").train.steps == 1500


def test_an_experiment_that_fails_or_has_no_time_is_a_result(tmp_path: Path) -> None:
    entries = [Entry("a", "", lambda left: {"x": 1 / 0}), Entry("b", "", lambda left: {"x": 1.5})]
    a, b = run_entries("part", entries, 1, tmp_path / "part.json")
    assert "ZeroDivisionError" in a["error"] and b["x"] == 1.5
    (late,) = run_entries("part", entries[1:], -1, tmp_path / "part.json")
    assert "no time" in late["error"]


def every_pass(form: Callable[..., Any], x: Any, kernel: Any, dy: Any) -> Any:
    y, vjp = jax.vjp(form, x, kernel)
    return y, *vjp(dy)


@pytest.mark.parametrize(
    ("h", "w", "c", "stride", "rate", "tf_same"),
    [(9, 7, 70, 1, 1, False), (10, 19, 5, 2, 1, True), (17, 18, 8, 1, 2, False)],
)
def test_forms_of_a_depthwise_convolution_are_equal(
    h: int, w: int, c: int, stride: int, rate: int, tf_same: bool
) -> None:
    pads: Pads = spatial_pads((h, w), 3, stride, rate, tf_same)
    rng, how = np.random.default_rng(0), (stride, rate, pads)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, h, w, c), (3, 3, 1, c)))
    y = jax.eval_shape(lambda: conv(x, kernel, *how, groups=c))
    dy = rng.normal(size=y.shape).astype(np.float32)

    @jax.jit
    def run() -> Any:
        names = ("lax", "shifted", "space-to-batch")
        choices = [forms.depthwise_by(lambda call, _, name=name: name) for name in names]
        found = [every_pass(lambda x, k, f=f: f(x, k, *how), x, kernel, dy) for f in choices]
        gradient = kernels.kernel_gradient(x, dy, *how, interpret=True)
        dx = found[0][1]
        if stride == 1:
            dx = kernels.input_gradient(dy, kernel, rate, pads, interpret=True)
        found.append((kernels.forward(x, kernel, *how, interpret=True), dx, gradient))
        return found, every_pass(lambda x, k: conv(x, k, *how, groups=c), x, kernel, dy)

    found, want = run()
    for each in found:
        chex.assert_trees_all_close(each, want, atol=1e-4)


def test_the_floor_of_a_step_is_what_was_counted_by_hand() -> None:
    """324 GFLOP and 5.7 GB an image, of which BatchNorm and ReLU are 3.1."""
    flops, bytes_ = steps.count_work(steps.Setting())
    assert flops == pytest.approx(324e9, rel=0.01)
    assert bytes_ == pytest.approx(5.7e9, rel=0.05)


def test_the_winners_of_one_part_are_the_choice_of_the_next(tmp_path: Path) -> None:
    call = forms.Call("depthwise", (9, 9, 4), (3, 3, 1, 4), 1, 1, ((1, 1), (1, 1)))
    result = {"shape": str(call), "best": {"forward": "pallas"}}
    file = tmp_path / "depthwise.json"
    file.write_text(json.dumps({"results": [{"name": "ceilings"}, result]}))
    choose = partial(forms.read_winners(file), call)
    assert (choose("forward"), choose("dx")) == ("pallas", "lax")


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void cudnn::cnn::conv2d_c1_k1_nhwc_kernel<...>", "depthwise"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc", "convolution"),
        ("nvjet_gemm_128x256", "product"),
        ("input_reduce_fusion_3", "sums"),
        ("loop_convert_fusion", "elementwise"),
        ("MemcpyD2D", "copy"),
        ("what_is_this", "other"),
    ],
)
def test_kernels_are_classed_by_their_names(kernel: str, kind: str) -> None:
    assert steps.classify(kernel) == kind
