"""Dice, Tversky and Lovász-softmax: against their formulas, and what each promises."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_jax.ops.resize import resize_bilinear
from deeplab_jax.parallel.mesh import batch_sharding, bind_mesh, device_mesh
from deeplab_jax.training.losses import cross_entropy, focal_loss, mean_loss, pixel_losses
from deeplab_jax.training.region_losses import lovasz_loss, tversky_loss

IGNORE, CLASSES = 255, 4
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "dice": partial(tversky_loss, beta=0.5),
    "tversky": partial(tversky_loss, beta=0.7),
    "lovasz": lovasz_loss,
}
every_loss = pytest.mark.parametrize("name", LOSSES)
as_one = pytest.mark.parametrize("per_batch", [False, True], ids=["image", "batch"])
seeds = given(st.integers(0, 10_000))
few = settings(max_examples=10, deadline=None)


def example(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three images of some of the classes, with ignored pixels; the last has nothing else."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(3, 5, 7, CLASSES)).astype(np.float32)
    shown = rng.choice(CLASSES, rng.integers(1, CLASSES), replace=False)  # not all of them
    label = rng.choice(shown, (3, 5, 7))
    label[rng.random(label.shape) < 0.3] = IGNORE
    label[0, 0, 0] = CLASSES  # outside the classes: treated as ignored
    label[2] = IGNORE
    return logits, label


@cache
def compiled(name: str, per_batch: bool = False) -> Any:
    loss = partial(LOSSES[name], ignore_label=IGNORE, per_batch=per_batch)
    return jax.jit(jax.value_and_grad(loss))


def of_regions(name: str, p: np.ndarray, label: np.ndarray) -> float:
    """The loss of the pixels p [pixels, classes] of one region, by its definition."""
    losses = []
    for i in np.unique(label):
        y, q = label == i, p[:, i].astype(np.float64)
        if name == "lovasz":
            errors, wrong, before, loss = np.abs(y - q), np.zeros_like(y), 0.0, 0.0
            for k in np.argsort(-errors):
                wrong[k] = True
                predicted = y ^ wrong
                jaccard = 1 - (y & predicted).sum() / (y | predicted).sum()
                loss += errors[k] * (jaccard - before)
                before = jaccard
        else:
            beta = 0.5 if name == "dice" else 0.7
            hits, misses, false = (q * y).sum(), ((1 - q) * y).sum(), (q * ~y).sum()
            loss = 1 - hits / (hits + beta * misses + (1 - beta) * false)
        losses.append(loss)
    return float(np.mean(losses))


def whole(of_one: Callable[[Any, Any], Any], p: Any, label: Any, per_batch: bool) -> Any:
    """The mean over images as their pixels, or all as one, of a loss of valid pixels."""
    parts = [slice(None)] if per_batch else [slice(i, i + 1) for i in range(len(label))]
    valid = label < CLASSES
    counts = [int(valid[part].sum()) for part in parts]
    losses = [
        n * of_one(p[part][valid[part]], label[part][valid[part]])
        for part, n in zip(parts, counts, strict=True)
        if n
    ]
    return sum(losses) / sum(counts)


@few
@seeds
@as_one
@every_loss
def test_the_loss_is_its_formula(name: str, per_batch: bool, seed: int) -> None:
    logits, label = example(seed)
    p = np.asarray(jax.nn.softmax(logits))
    value, _ = compiled(name, per_batch)(logits, label)
    want = whole(partial(of_regions, name), p, label, per_batch)
    np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-6)


@few
@seeds
@every_loss
def test_gradient_at_ignored_pixels_is_exactly_zero(name: str, seed: int) -> None:
    logits, label = example(seed)
    _, gradient = compiled(name)(logits, label)
    assert (np.asarray(gradient)[label >= CLASSES] == 0).all() and np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@few
@seeds
@every_loss
def test_the_order_of_classes_does_not_matter(name: str, seed: int) -> None:
    logits, label = example(seed)
    order = np.random.default_rng(seed).permutation(CLASSES)
    moved = np.where(label < CLASSES, np.argsort(order)[np.minimum(label, CLASSES - 1)], IGNORE)
    value, gradient = compiled(name)(logits, label)
    other, moved_gradient = compiled(name)(logits[..., order], moved)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    np.testing.assert_allclose(moved_gradient, gradient[..., order], atol=1e-6)


@every_loss
def test_a_perfect_prediction_has_no_loss_and_a_wrong_one_all(name: str) -> None:
    _, label = example(0)
    right = 100 * np.eye(CLASSES, dtype=np.float32)[np.minimum(label, CLASSES - 1)]
    assert float(compiled(name)(right, label)[0]) == pytest.approx(0, abs=1e-6)
    assert float(compiled(name)(right[..., ::-1], label)[0]) == pytest.approx(1, abs=1e-6)
    value, gradient = compiled(name)(right, np.full_like(label, IGNORE))
    assert float(value) == 0 and (np.asarray(gradient) == 0).all()


@every_loss
def test_rows_in_blocks_are_the_plain_upsampled_loss(name: str) -> None:
    """Value and gradient, of several blocks and a padded last one."""
    size = (131, 33)
    logits = jax.random.normal(jax.random.key(0), (2, 9, 5, CLASSES))
    label = jax.random.randint(jax.random.key(1), (2, *size), 0, CLASSES + 1)
    plain = partial(LOSSES[name], label=label, ignore_label=IGNORE)
    value, gradient = jax.jit(jax.value_and_grad(plain))(logits)
    resized = jax.value_and_grad(lambda x: plain(resize_bilinear(x, size)))
    want, want_gradient = jax.jit(resized)(logits)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-6)


@as_one
@every_loss
def test_any_mesh_gives_the_numbers_of_one_device(name: str, per_batch: bool) -> None:
    mesh = device_mesh((2, 2, 2))
    logits = np.random.default_rng(0).normal(size=(4, 9, 5, CLASSES)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, CLASSES + 1, (4, 33, 17))
    loss = jax.value_and_grad(partial(LOSSES[name], ignore_label=IGNORE, per_batch=per_batch))
    split = jax.device_put((logits, label), batch_sharding(mesh))
    value, gradient = jax.jit(bind_mesh(loss, mesh))(*split)
    want, want_gradient = jax.jit(loss)(logits, label)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-7)


# ---- against PyTorch's, where installed


def torch_losses(smp: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """Losses of pixels z [pixels, classes] and labels [pixels], from segmentation_models.pytorch.

    Its Dice and Tversky divide by all classes, ours by those that are shown.
    """
    losses = smp.losses
    overlaps = {
        "dice": losses.DiceLoss("multiclass"),
        "tversky": losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7),
    }

    def shown(loss: Any, z: Any, y: Any) -> Any:
        return loss(z.T[None], y[None]) * CLASSES / len(y.unique())

    lovasz = losses.LovaszLoss("multiclass")
    return {
        **{name: partial(shown, loss) for name, loss in overlaps.items()},
        "lovasz": lambda z, y: lovasz(z.T[None, ..., None], y[None, :, None]),
    }


@pytest.mark.parametrize("seed", range(5))
@as_one
@every_loss
def test_value_and_gradient_are_those_of_segmentation_models_pytorch(
    name: str, per_batch: bool, seed: int
) -> None:
    smp, torch = (pytest.importorskip(m) for m in ("segmentation_models_pytorch", "torch"))
    logits, label = example(seed)
    z = torch.tensor(logits, requires_grad=True)
    want = whole(torch_losses(smp)[name], z, torch.tensor(label), per_batch)
    want.backward()
    value, gradient = compiled(name, per_batch)(logits, label)
    np.testing.assert_allclose(value, want.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, z.grad.numpy(), atol=1e-5 * np.abs(z.grad.numpy()).max())


@pytest.mark.parametrize("seed", range(5))
def test_smoothed_and_focal_losses_are_those_of_pytorch(seed: int) -> None:
    """The focal loss of segmentation_models.pytorch is of a sigmoid: of two classes the same."""
    smp, torch = (pytest.importorskip(m) for m in ("segmentation_models_pytorch", "torch"))
    logits, label = example(seed)
    label[label >= CLASSES] = IGNORE
    label_two = np.where(label < CLASSES, label % 2, IGNORE)
    y, y_two = torch.tensor(label), torch.tensor(label_two)
    z = torch.tensor(logits, requires_grad=True)
    smoothed = torch.nn.functional.cross_entropy(
        z.movedim(-1, 1), y, ignore_index=IGNORE, label_smoothing=0.1
    )
    focal = smp.losses.FocalLoss("binary", gamma=1.5, ignore_index=IGNORE)(
        z[..., 1] - z[..., 0], y_two
    )
    for x, labels, want, function in (
        (logits, label, smoothed, partial(cross_entropy, smoothing=0.1)),
        (logits[..., :2], label_two, focal, partial(focal_loss, gamma=1.5)),
    ):
        value, gradient = jax.value_and_grad(
            lambda x, y=labels, f=function: mean_loss(*pixel_losses(x, y, IGNORE, (), f))
        )(jnp.asarray(x))
        (want_gradient,) = torch.autograd.grad(want, z)
        np.testing.assert_allclose(value, want.item(), rtol=1e-5)
        np.testing.assert_allclose(gradient, want_gradient[..., : x.shape[-1]], atol=1e-6)
