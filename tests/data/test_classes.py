"""Lists of classes: those that people write, and those of a network in another order."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from folders import make_folder

from deeplab_jax import TaskConfig
from deeplab_jax.data.classes import match_classes, read_classes
from deeplab_jax.data.folder import open_folder
from deeplab_jax.errors import UserError


def test_class_files(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffsky\ntraffic light  #FF8000\nroad\n\n", encoding="utf-8")
    names, colors = read_classes(path)
    assert names == ("sky", "traffic light", "road")
    assert colors == ((0, 0, 0), (255, 128, 0), (0, 128, 0))
    for text, line in (("a\n\nb", 2), ("a\na", 2), ("a\nb #ff", 2), ("# classes\na\nb", 1)):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"classes\.txt:{line}:"):
            read_classes(path)
    path.write_text("one\n")
    with pytest.raises(UserError, match=r"lists one class, 'one'.*'background' on a line before"):
        read_classes(path)


def test_class_files_in_other_encodings(tmp_path: Path) -> None:
    path, names = tmp_path / "classes.txt", ("Hintergrund", "Straße", "青")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        for end in ("\n", "\r\n", "\r"):
            path.write_bytes((end.join(names) + end).encode(encoding))
            assert read_classes(path)[0] == names
    for data, line, what in (
        ("background\nStraße\n".encode("cp1252"), 2, rb"\\xdf.*UTF-8".decode()),
        ("a\nb\n".encode("utf-16-le"), 1, "NUL.*UTF-8"),  # without its mark
        ("a\nb\n".encode("utf-32"), 1, "NUL.*UTF-8"),
        ("a\nb\n".encode("utf-16") + b"c", 3, "UTF-16"),
        (b"a\nb\n\0", 3, "NUL"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"classes\.txt:{line}: holds .*{what}"):
            read_classes(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0: background\n1: red", 1),
        ("0,background\n1,red", 1),
        ("0 background\n1 red", 1),
        ("1 red\n2 blue", 1),
        ("1. red\n2. blue", 1),
        ("0\tbackground\n1\tred", 1),
        ("background\n7: red", 2),
        ("background 0 0 0\nred 128 0 0", 1),
        ("background,0,0,0\nred,128,0,0", 1),
        ("background:0,0,0::\nred:128,0,0::", 1),
        ("# label:color_rgb:parts:actions\nred:128,0,0::", 1),
        ("background,red,blue", 1),
        ('["background", "red"]', 1),
        ("names:\n- background\n- red", 1),
        ('item {\n  id: 1\n  name: "red"\n}', 1),
        ("background,\nred,", 1),
        ("background;red\nblue", 1),
        ("background = 0\nred = 1", 1),
    ],
)
def test_class_files_of_other_tools_never_become_names(
    tmp_path: Path, text: str, line: int
) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"classes\.txt:{line}: .*name"):
        read_classes(path)


def test_odd_names_of_classes_remain_names(tmp_path: Path) -> None:
    names = ("2 wheeler", "4 wheeler", "building, edifice", "n01440764 tench", "T-shirt", "no. 5")
    names = (*names, "3d printer", "pole (group)", "object--car", "rock & roll", "Citroën 2CV")
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(names), encoding="utf-8")
    assert read_classes(path)[0] == names
    path.write_text("0\n1\n2\n")  # digits
    assert read_classes(path)[0] == ("0", "1", "2")


def test_ignored_pixels_stay_ignored_in_another_order(tmp_path: Path) -> None:
    """Also where the ignored id is a class id, here 0."""
    make_folder(tmp_path, ["a"])
    source = open_folder(tmp_path, "train", task=TaskConfig(ignore_label=0), num_classes=3)
    names = ("class 2", "class 0", "class 1")
    mapped = match_classes(source, names, source.colors, "this network")
    old, new = source[0]["label"], mapped[0]["label"]
    np.testing.assert_array_equal(new, np.where(old == 1, 2, 255))
    assert mapped.ignore_label == 255 and mapped.class_names == names
    assert len(mapped) == 1 and mapped.sizes() == source.sizes()
    assert pickle.loads(pickle.dumps(mapped)).fingerprint != source.fingerprint
