"""The official names and colours of ADE20K."""

from deeplab_jax.data.datasets.ade20k import CLASS_NAMES, COLORS


def test_names_and_colours_are_the_official_ones() -> None:
    assert len(CLASS_NAMES) == len(COLORS) == len(set(CLASS_NAMES)) == 151
    assert CLASS_NAMES[:4] == ("background", "wall", "building", "sky")
    found = {name: COLORS[CLASS_NAMES.index(name)] for name in ("background", "person", "flag")}
    assert found == {"background": (0, 0, 0), "person": (150, 5, 61), "flag": (92, 0, 255)}
    # The official map has one colour twice.
    assert [i for i, color in enumerate(COLORS) if color == (140, 140, 140)] == [7, 49]
    assert len(set(COLORS)) == 150
