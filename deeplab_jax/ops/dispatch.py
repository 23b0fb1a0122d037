"""The one place that chooses between an operation's plain form and a platform's own.

A CPU has measured faster ones (`cpu.py`), a GPU the two that XLA needs in order to compile at all.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from deeplab_jax.ops.conv import Pads, Pair, conv
from deeplab_jax.ops.cpu import pointwise_product, shifted_conv

Form = Callable[..., Array]


def depthwise_conv(x: Array, kernel: Array, stride: int, rate: Pair, pads: Pads) -> Array:
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


def apply_matrices(x: Array, rows: Array, columns: Array) -> Array:
    """x f32 [b, h, w, c] by a matrix [n, h] of rows and one [m, w] of columns: -> [b, n, m, c].

    On a GPU each image has its own copy of the matrices, which are small, and what they multiply
    lies in the order of the product: else jax 0.10's Triton finds no tiles at odd sizes, and does
    not compile. (0.12 compiles the plain form.)
    """

    def plain(x: Array, rows: Array, columns: Array) -> Array:
        y = jnp.einsum("nh,bhwc->bnwc", rows, x, precision="highest")
        return jnp.einsum("mw,bhwc->bhmc", columns, y, precision="highest")

    def copied(x: Array, rows: Array, columns: Array) -> Array:
        (b, h, w, c), n, m = x.shape, len(rows), len(columns)
        rows, columns = jnp.broadcast_to(rows, (b, n, h)), jnp.broadcast_to(columns, (b, m, w))
        x = x.swapaxes(1, 2).reshape(b, w, h * c)
        x = jnp.matmul(columns, x, precision="highest")
        x = x.reshape(b, m, h, c).swapaxes(1, 2).reshape(b, h, m * c)
        # Rows last: devices that share them cannot merge them with another axis.
        return jnp.matmul(rows, x, precision="highest").reshape(b, n, m, c)

    return choose_form(x, rows, columns, plain=plain, gpu=copied)


def choose_form(
    *operands: Array, plain: Form, cpu: Form | None = None, gpu: Form | None = None
) -> Array:
    """`plain`, or the platform's own form: where the platform is known only one of them is traced.

    That halves the time of tracing Xception-65's training step.
    """
    cpu, gpu = cpu or plain, gpu or plain
    platform = ambient_platform()
    if platform is None:
        return lax.platform_dependent(*operands, cpu=cpu, cuda=gpu, default=plain)
    return {"cpu": cpu, "gpu": gpu}.get(platform, plain)(*operands)


def ambient_platform() -> str | None:
    """The platform of JAX's ambient mesh (`parallel/mesh.py: bind_mesh`), None without one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return None if device is None else device.platform
