"""The one walk over a folder: every image once, nothing of the system's, the rest counted."""

from collections import Counter
from pathlib import Path

from deeplab_jax.data.walk import walk_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_of_a_mac_a_phone_and_a_server(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPG", "b.jfif", "nested/c.jpg", "p99.jpg/d.png")
    touch(tmp_path, "IMG_1.HEIC", "IMG_2.heic", "Thumbs.db", "README", "._a.JPG", ".DS_Store")
    touch(tmp_path, ".ipynb_checkpoints/a.png", "__MACOSX/a.JPG", "@eaDir/a.JPG/THUMB.jpg")
    found = walk_images(tmp_path)
    names = [p.relative_to(tmp_path).as_posix() for p in found.images]
    assert names == ["a.JPG", "b.jfif", "nested/c.jpg", "p99.jpg/d.png"]
    kinds = {".heic": 2, ".db": 1, "without suffix": 1, "hidden": 2}
    assert found.passed_over == Counter(kinds)
    assert found.describe().startswith("6 files passed over (2 .heic,")
    assert walk_images(tmp_path / "nested").describe() == ""


def test_a_link_up_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "other/b.png")
    (tmp_path / "images" / "up").symlink_to(tmp_path)
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "other")
    found = walk_images(tmp_path / "images").images
    assert [p.name for p in found] == ["a.png", "b.png"]
