"""The one place that chooses between an operation's plain form and the CPU's measured one."""

from collections.abc import Callable
from functools import partial

import jax
from jax import Array, lax

from deeplab_jax.ops.conv import Pads, conv
from deeplab_jax.ops.cpu import pointwise_product, shifted_conv

Form = Callable[[Array, Array], Array]


def depthwise_conv(x: Array, kernel: Array, stride: int, rate: int, pads: Pads) -> Array:
    """Each channel of x [b, h, w, c] convolved by its own filter: kernel [kh, kw, 1, c]."""
    return choose_form(
        x,
        kernel,
        plain=partial(conv, stride=stride, rate=rate, pads=pads, groups=x.shape[-1]),
        cpu=lambda x, kernel: shifted_conv(x, kernel, stride, rate, pads),
    )


def pointwise_conv(x: Array, kernel: Array, stride: int) -> Array:
    """1x1 convolution of x [b, h, w, c] by kernel [1, 1, c, d].

    On a GPU it must be a convolution where it strides: XLA's Triton ends in a failed check where a
    slice precedes a product (openxla/xla#47381).
    """
    return choose_form(
        x,
        kernel,
        plain=partial(conv, stride=stride),
        cpu=partial(pointwise_product, stride=stride),
    )


def choose_form(x: Array, kernel: Array, *, plain: Form, cpu: Form) -> Array:
    """`plain`, or on a CPU `cpu`: where the platform is known only one of them is traced.

    That halves the time of tracing Xception-65's training step.
    """
    platform = ambient_platform()
    if platform is None:
        return lax.platform_dependent(x, kernel, cpu=cpu, default=plain)
    return (cpu if platform == "cpu" else plain)(x, kernel)


def ambient_platform() -> str | None:
    """The platform of JAX's ambient mesh (`parallel/mesh.py: bind_mesh`), None without one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return None if device is None else device.platform
