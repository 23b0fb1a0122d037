"""What a run says at its beginning."""

import jax
import pytest

from deeplab_jax.training.opening import describe_precision


@pytest.mark.parametrize(
    ("dtype", "platform", "said"),
    [
        ("float32", "cpu", ""),
        ("float32", "gpu", "TF32"),
        ("float32", "tpu", "products of float32 numbers in bfloat16"),
        ("bfloat16", "cpu", "the network computes in bfloat16"),
    ],
)
def test_a_precision_that_is_not_plain_is_said(dtype: str, platform: str, said: str) -> None:
    line = describe_precision(dtype, platform)
    assert said in line and bool(line) == bool(said)


def test_a_precision_that_the_user_chose_is_said() -> None:
    with jax.default_matmul_precision("highest"):
        assert describe_precision("float32", "tpu") == ""
    with jax.default_matmul_precision("tensorfloat32"):
        assert "tensorfloat32" in describe_precision("float32", "cpu")
