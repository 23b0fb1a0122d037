"""YOLO: the traps of data.yaml's paths, text files of polygons, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from annotated import labels, make_images, write
from PIL import Image

from deeplab_jax import UserError
from deeplab_jax.data.annotations import yolo
from deeplab_jax.data.folder import open_folder

FIXTURE = "0 0.1 0.125 0.5 0.125 0.5 0.5 0.1 0.5"  # columns 1 to 4, rows 1 to 3
BOX = "0 0.5 0.5 0.2 0.2"
YAML = "train: images/train\nnc: 2\nnames: ['a', 'b']\n"


def put(
    root: Path, text: str = FIXTURE, yaml: str = YAML, name: str = "images/train/x.jpg"
) -> Path:
    make_images(root, name, size=(8, 10))
    place, _, file = name.rpartition("images/")
    write((root / place / "labels" / file).with_suffix(".txt"), text)
    write(root / "data.yaml", yaml)
    return root


def label_of(root: Path, text: str) -> np.ndarray:
    return labels(yolo.read(put(root, text)), "train")["x"]


# Polygons


def test_the_polygon_of_the_facts_is_filled_by_centres(tmp_path: Path) -> None:
    label = label_of(tmp_path, FIXTURE)
    assert label.sum() == 12 and label[1:4, 1:5].all()


def test_class_0_is_1_after_the_background_unless_it_is_the_background(tmp_path: Path) -> None:
    layout = yolo.read(put(tmp_path))
    assert layout and layout.table and layout.table.names == ("background", "a", "b")
    listed = YAML.replace("'b'", "'BackGround'").replace("'a'", "yes 1")
    layout = yolo.read(put(tmp_path, f"0.0{FIXTURE[1:]}\n1{FIXTURE[1:]}", listed))
    assert layout and layout.table and layout.table.names == ("BackGround", "yes 1")
    assert not labels(layout, "train")["x"][0].any()


def test_small_objects_lie_on_top_and_edges_beyond_the_image_are_cut(tmp_path: Path) -> None:
    large = "1 -0.01 -0.3 1.01 -0.3 1.01 1.2 -0.01 1.2"
    for text in (f"{FIXTURE}\n{large}\n", f"{large}\r\n\r\n{FIXTURE}\n{FIXTURE}"):
        label = label_of(tmp_path, text)
        assert (label == 1).sum() == 12 and (label == 2).sum() == 68


def test_parts_that_a_bridge_joins_have_none_between_them(tmp_path: Path) -> None:
    bridged = "0 0 0 .1 0 .1 .5 .9 .5 .9 0 1 0 1 1 .9 1 .9 .5 .1 .5 .1 1 0 1"
    assert label_of(tmp_path, bridged).sum() == 16


def test_images_without_a_text_file_or_with_an_empty_one_are_background(tmp_path: Path) -> None:
    put(tmp_path, "", name="images/train/sub/y.png")
    make_images(tmp_path, "images/train/z.jpg")
    layout = yolo.read(put(tmp_path))
    assert layout and [item.id for item in layout.splits["train"]] == ["sub/y", "x", "z"]
    assert [item.label is None for item in layout.splits["train"]] == [True, False, True]
    assert "1 image without labels is background" in layout.notes


def test_what_is_skipped_is_counted(tmp_path: Path) -> None:
    bad = ["0 .1 .1 .2 .2 .3", "0 .1 .1 .2 .2 .3 nan", "0", "0" + " .5" * 200_002]
    layout = yolo.read(put(tmp_path, "\n".join([FIXTURE, BOX, BOX, *bad])))
    assert layout and labels(layout, "train")["x"].sum() == 12
    assert "2 boxes without polygons are not painted" in layout.notes
    assert any(note.startswith(f"{len(bad)} malformed shapes") for note in layout.notes)


# Paths


@pytest.mark.parametrize(
    ("yaml", "place", "id"),
    [
        ("train: ../train/images", "train/images", "x"),
        ("path: .\ntrain: images/train", "images/train", "x"),
        ("path: ./\ntrain: images/train/", "images/train", "x"),
        ("path: ../datasets/mine\ntrain: images/train", "images/train", "x"),
        ("path: mine\ntrain: images/train", "mine/images/train", "x"),
        ("path: /home/me/mine\ntrain: images", "images", "x"),
        ("train: /home/me/data/images/train", "images/train", "x"),
        ("train: C:\\Users\\me\\data\\train\\images", "train/images", "x"),
        ("train: train", "train/images", "images/x"),
        ("train: [images/one, images/two]", "images/one", "images/one/x"),
        ("train: .", "images", "images/x"),
        ("train: train.txt", "images/train", "images/train/x"),
    ],
)
def test_places(tmp_path: Path, yaml: str, place: str, id: str) -> None:
    write(tmp_path / "train.txt", f"data/{place}/x.jpg\n")
    put(tmp_path, yaml=f"{yaml}\nnames: {{0: a, 1: b}}\n", name=f"{place}/x.jpg")
    assert labels(yolo.read(tmp_path), "train")[id].sum() == 12


@pytest.mark.parametrize("line", ["./x.jpg", "images/train/x.jpg", "/data/images/train/x.jpg"])
def test_lines_of_a_list(tmp_path: Path, line: str) -> None:
    write(tmp_path / "images/train/list.txt", f"\n{line}\n\n")
    put(tmp_path, yaml="train: images/train/list.txt\nnames: [a]")
    assert [*labels(yolo.read(tmp_path), "train")] == ["images/train/x"]


def test_splits_by_any_name_and_those_that_are_not_there(tmp_path: Path) -> None:
    put(tmp_path, name="valid/images/y.jpg")
    yaml = "train: ../train/images\nvalidation: ../valid/images\ntest: ../test/images\nnames: [a]"
    layout = yolo.read(put(tmp_path, yaml=yaml, name="train/images/x.jpg"))
    assert layout and layout.splits.keys() == {"train", "val"}
    assert "1 split (test) has no images" in layout.notes


def test_masks_in_place_of_text_files(tmp_path: Path) -> None:
    """Ultralytics' semantic task: masks_dir, and label_mapping from values to classes."""
    for split in ("train", "val"):
        make_images(tmp_path, f"images/{split}/a.jpg", size=(1, 4))
        mask = np.array([[0, 7, 23, 255]], np.uint8)
        (tmp_path / "masks" / split).mkdir(parents=True)
        Image.fromarray(mask).save(tmp_path / "masks" / split / "a.png")
    listed = "path: .\ntrain: images/train\nval: images/val\nmasks_dir: masks\n"
    names = "names: {0: road, 1: sky}\nlabel_mapping: {7: 0, 23: 1, 0: ignore_label, -1: 1}\n"
    write(tmp_path / "data.yaml", listed + names)
    source = open_folder(tmp_path, "train")
    assert source.class_names == ("road", "sky")
    assert source[0]["label"].tolist() == [[255, 0, 1, 255]]
    write(tmp_path / "data.yaml", listed + "names: {0: road}\nlabel_mapping: {7: 3}\n")
    assert yolo.read(tmp_path).table.names == ("background", "road")  # type: ignore[union-attr]
    write(tmp_path / "data.yaml", listed + "names: [a, b]\nlabel_mapping: {7: 3}\n")
    with pytest.raises(UserError, match=r"label_mapping: 7: 3 is no class"):
        yolo.read(tmp_path)


# What is no such folder, or a broken one


@pytest.mark.parametrize(
    "yaml",
    [
        "",
        "[]",
        "names: [a]",
        "train: images/train",
        "train: {epochs: 7}\nnames: [a]",
        "services:\n  names: a\n  train: b\n",
    ],
)
def test_other_files_are_none(tmp_path: Path, yaml: str) -> None:
    assert yolo.read(put(tmp_path, yaml=yaml)) is None


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("train: ../../other\nnames: [a]", r"train: '../../other' has no images below"),
        ("train: /etc\nnames: [a]", r"train: '/etc' has no images"),
        ("train: https://x.org/a.zip\nnames: [a]", "has no images"),
        ('train: "a\\0b"\nnames: [a]', "has no images"),
        (f"train: {'x' * 5000}\nnames: [a]", "has no images"),
        (f"train: {'a/' * 5000}\nnames: [a]", "has no images"),
        ("train: [[a]]\nnames: [a]", "is no path"),
        ("path: 7\ntrain: images\nnames: [a]", "path is 7, not a text"),
        ("train: images\nnames: [a, no]", "False is no class name.*only in quotes"),
        ("train: images\nnames: [a, a]", "several classes are named a"),
        ("train: images\nnames: {0: a, 2: b}", "numbers 0, 1, 2"),
        ("train: images\nnames: a", "must be a list"),
        ("train: images\nnames: []", "0 classes"),
        ("train: images\nnc: 3\nnames: [a, b]", "nc is 3, but there are 2 names"),
        ("train: images\nnames: [a, b", "not readable as YAML"),
        ("train: !!int ''\nnames: [a]", "not readable as YAML"),
        ("train: 2020-99-99\nnames: [a]", "not readable as YAML"),
        ("train: !!python/object/apply:os.system [ls]\nnames: [a]", "not readable as YAML"),
        ("train: images\nnames: " + "[" * 500, "not readable as YAML"),
        ("a: &a {x: 1}\nb: {<<: *a}\ntrain: images\nnames: [a]", "merged keys"),
        ("train: images\nnames: [a]\n#" + "x" * 2**18, "at most 0.25 MB are read"),
    ],
    ids=lambda text: text[:40],
)
def test_broken_yaml_is_one_message(tmp_path: Path, yaml: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        yolo.read(put(tmp_path, yaml=yaml, name="images/x.jpg"))


def test_aliases_do_not_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)
    ]
    put(tmp_path, yaml="\n".join([*lines, "train: images/train", "names: [*a19]"]))
    with pytest.raises(UserError, match="is no class name"):
        yolo.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOX, "nothing but boxes"),
        ("", "no polygon or mask"),
        (
            f"{FIXTURE}\n2{FIXTURE[1:]}",
            r"x.txt:2: class 2, but .*data.yaml names 2 classes, 0 to 1",
        ),
        (f"-1{FIXTURE[1:]}", "class -1"),
        (f"0.5{FIXTURE[1:]}", "class 0.5"),
        (f"nan{FIXTURE[1:]}", "class nan"),
        (f"a{FIXTURE[1:]}", "x.txt:1: 'a 0.1.* is not a class and numbers"),
        ("0 10 10 20 10 20 20", r"coordinate of 20; they are shares"),
        ("0 \0 1 1 2 2", "NUL character"),
    ],
)
def test_broken_labels_are_one_message(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        yolo.read(put(tmp_path, text))


def test_a_list_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    make_images(tmp_path, "x.jpg")
    write(tmp_path / "data/train.txt", "../x.jpg\n")
    put(tmp_path / "data", yaml="train: train.txt\nnames: [a]")
    with pytest.raises(UserError, match=r"'../x.jpg' is no image below"):
        yolo.read(tmp_path / "data")


def test_two_files_are_refused(tmp_path: Path) -> None:
    write(put(tmp_path) / "other.yml", YAML)
    with pytest.raises(UserError, match="both name images"):
        yolo.read(tmp_path)
