"""A data set's classes, matched with those that a network predicts."""

import sys
from dataclasses import replace

from deeplab_jax.config import Color
from deeplab_jax.data.masks import list_some
from deeplab_jax.data.source import Source
from deeplab_jax.errors import UserError


def match_classes(
    source: Source, names: tuple[str, ...], colors: tuple[Color, ...], whose: str
) -> Source:
    """The source with its classes in the order of `names`, those that `whose` network predicts.

    The same names in another order are mapped, and this is said; so are names that differ.

    Raises:
      UserError: there is another number of classes.
    """
    theirs = source.class_names
    if len(theirs) != len(names):
        raise UserError(
            f"{whose} predicts {len(names)} classes ({list_some(names, 4)}), and the data set has "
            f"{len(theirs)} ({list_some(theirs, 4)}): choose weights that were trained on these "
            "classes, or the data with the classes of the weights"
        )
    if theirs != names and set(theirs) == set(names):
        print(f"the data's classes are in another order than {whose}'s: mapped", file=sys.stderr)
        order = tuple(theirs.index(name) for name in names)
        return replace(source, class_names=names, colors=colors, order=order)
    if other := other_names(names, theirs):
        told = f"the classes of {whose} and of the data have other names, and are compared by their"
        print(f"warning: {told} ids: {other}", file=sys.stderr)
    return source


def other_names(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """Where as many classes have other names, as "1: 'car' / 'bus'"; "" if nowhere.

    Classes without names, "class 0" and so on, differ from none.
    """
    numbered = tuple(f"class {i}" for i in range(len(ours)))
    if len(ours) != len(theirs) or numbered in (ours, theirs):
        return ""
    pairs = enumerate(zip(ours, theirs, strict=True))
    return list_some(f"{i}: {a!r} / {b!r}" for i, (a, b) in pairs if a != b)
