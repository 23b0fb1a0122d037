"""Names in files lead to images below the root or nowhere; what is shown of a value is short."""

from pathlib import Path

import pytest
from annotated import make_images, write

from deeplab_jax import UserError
from deeplab_jax.data.annotations.files import (
    HEAD,
    find,
    index_images,
    list_files,
    load_head,
    load_json,
    show,
)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x.jpg", ("images/x.jpg", "x")),
        (r"sub\y.jpg", ("images/sub/y.jpg", "sub/y")),
        ("./x.jpg", ("images/x.jpg", "x")),
        ("sub/../x.jpg", ("images/x.jpg", "x")),
        ("images/x.jpg", ("images/x.jpg", "images/x")),
        (r"C:\data\images\x.jpg", ("images/x.jpg", "images/x")),
        ("../../data/sub/y.jpg", ("images/sub/y.jpg", "sub/y")),
        ("../outside.jpg", None),
        ("/etc/passwd", None),
        ("", None),
        ("..", None),
        ("a/" * 10_000 + "x.jpg", None),
        ("x.jpg\0", None),
        ("\ud800.jpg", None),
    ],
)
def test_find(tmp_path: Path, name: str, found: tuple[str, str] | None) -> None:
    make_images(tmp_path, "data/images/x.jpg", "data/images/sub/y.jpg", "outside.jpg")
    images = index_images(tmp_path / "data")
    assert find(images, name, ["images", ""]) == found


def test_files_are_listed_without_hidden_ones_and_folders(tmp_path: Path) -> None:
    for name in ("a.JSON", "._a.json", "b.txt"):
        write(tmp_path / name, "")
    (tmp_path / "c.json").mkdir()
    assert list_files(tmp_path, ".json") == [tmp_path / "a.JSON"]
    assert list_files(tmp_path / "nowhere", ".json") == []


def test_a_glance_is_at_both_ends_of_a_file(tmp_path: Path) -> None:
    long = write(tmp_path / "long", "a" * HEAD + "b" * 3 * HEAD + "c" * HEAD)
    assert load_head(long) == "a" * HEAD + "c" * HEAD
    for n in (0, 10, HEAD, HEAD + 10):
        assert load_head(write(tmp_path / "short", "a" * n)) == "a" * n
    with pytest.raises(UserError, match="cannot be read"):
        load_head(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        load_json(tmp_path / "none")


def test_what_is_shown_is_short() -> None:
    nested: list[object] = ["x" * 1000]
    for _ in range(30):
        nested = [nested] * 9
    for value in (nested, "\ud800ä" * 1000, 10**5000, {i: nested for i in range(100)}, b"x" * 1000):
        assert show(value).isascii() and len(show(value)) < 1000
    assert show("a.jpg") == "'a.jpg'"
