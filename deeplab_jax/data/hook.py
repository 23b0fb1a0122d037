"""A function of the user's own that changes training images and their label maps."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
from jax import Array

from deeplab_jax.config import find_in_file
from deeplab_jax.config.augment import HOOK
from deeplab_jax.config.files import in_user_code
from deeplab_jax.errors import UserError

RETURNS = "(image, label)"


@cache
def load_hook(hook: str) -> Callable[..., Any]:
    """The function of FILE.py:FUNCTION, loaded once.

    Raises:
      UserError: there is no such file or function, or the file cannot be run.
    """
    where, (file, function) = f"augment.hook = {hook}", split_hook(hook)
    if not file.is_file():
        raise UserError(f"{where}: {file} is missing; the form is FILE.py:FUNCTION")
    return find_in_file(file, function, where, RETURNS)


def split_hook(hook: str) -> tuple[Path, str]:
    """FILE.py:FUNCTION as its file and the function's name."""
    found = HOOK.fullmatch(hook)
    assert found is not None  # which the configuration has checked
    return Path(found[1]), found[2]


def apply_hook(hook: str, key: Array, image: Array, label: Array) -> tuple[Array, Array]:
    """What the function makes of image f32 [b, h, w, c] and label int32 [b, h, w].

    Raises:
      UserError: as `load_hook`; or the function fails, or returns other shapes or types.
    """
    function, where = load_hook(hook), f"augment.hook = {hook}"
    try:
        found = function(key, image, label)
    except Exception as error:  # whatever a user's own code raises
        raise UserError(f"{where}: {in_user_code(error, split_hook(hook)[0])}") from error
    if not (isinstance(found, tuple | list) and len(found) == 2):
        raise UserError(f"{where}: returned {type(found).__name__}, not {RETURNS}")
    for name, given, got in zip(("image", "label"), (image, label), found, strict=True):
        if describe(got) != describe(given):
            raise UserError(
                f"{where}: returned {name} {describe(got)}, not {describe(given)} as it was given"
            )
    return found[0], found[1]


def check_hook(hook: str, image: tuple[int, ...], label: tuple[int, ...]) -> None:
    """Raise UserError, before anything is built, unless the function does for these shapes."""
    shapes = jax.ShapeDtypeStruct(image, "float32"), jax.ShapeDtypeStruct(label, "int32")
    jax.eval_shape(partial(apply_hook, hook), jax.random.key(0), *shapes)


def describe(x: Any) -> str:
    """'float32[8, 33, 49, 3]', or the type of what is no array."""
    if not isinstance(x, jax.Array):
        return type(x).__name__
    return f"{x.dtype}{list(x.shape)}"
