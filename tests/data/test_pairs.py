"""Layouts that people have: which image and mask belong together, and in which split."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from folders import ids_of, save

from deeplab_jax.config import DataConfig
from deeplab_jax.data.folder import open_folder, understand
from deeplab_jax.data.pairs import _find_ends
from deeplab_jax.errors import UserError

IMAGE, MASK = np.full((4, 6, 3), 90, np.uint8), np.arange(24, dtype=np.uint8).reshape(4, 6) % 2


def make(root: Path, images: Iterable[str], masks: Iterable[str]) -> Path:
    for names, pixels in ((images, IMAGE), (masks, MASK)):
        for name in names:
            save(root / name, pixels)
    return root


def found(root: Path, **settings: object) -> dict[str, list[str]]:
    data = DataConfig(source="folder", holdout=0.0, **settings)  # type: ignore[arg-type]
    splits = understand(root, data).splits
    for split in splits:
        assert all((open_folder(root, split, data=data)[0]["label"] == MASK).ravel())
    return {split: [item.id for item in items] for split, items in splits.items()}


BOTH = {"train": ["a", "b"], "val": ["c"]}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/SPLIT/NAME.jpg", "masks/SPLIT/NAME.png"),
        ("SPLIT/images/NAME.jpg", "SPLIT/masks/NAME.png"),
        ("images/SPLIT/NAME.png", "annotations/SPLIT/NAME.png"),
        ("img_dir/SPLIT/NAME_rgb.png", "ann_dir/SPLIT/NAME_gt.png"),
        ("SPLIT/NAME.jpg", "SPLIT/NAME_mask.png"),
        ("SPLIT/NAME.jpg", "SPLIT/NAME.png"),
        ("SPLIT/NAME.png", "SPLITannot/NAME.png"),
        ("SPLIT/NAME.png", "SPLIT_labels/NAME_L.png"),
        ("images_SPLIT/NAME.jpg", "masks_SPLIT/NAME.png"),
        ("images/SPLIT/NAME.jpg", "masks/SPLIT/NAME.jpg.png"),
        ("images/SPLIT/NAME.jpg", "masks/SPLIT/mask_NAME.png"),
        ("JPEGImages/SPLIT/NAME.jpg", "SegmentationClass/SPLIT/NAME.png"),
        ("data/images/SPLIT/NAME.JPG", "data/masks/SPLIT/NAME.PNG"),
        ("images/SPLIT2017/NAME.jpg", "annotations/SPLIT2017/NAME.png"),
        ("Task1_SPLIT_Input/NAME.jpg", "Task1_SPLIT_GroundTruth/NAME_segmentation.png"),
        ("SPLIT/NAME_sat.jpg", "SPLIT/NAME_mask.png"),
        ("segmentation/images/SPLIT/NAME.jpg", "segmentation/masks/SPLIT/NAME.png"),
    ],
)
def test_splits_in_folders(tmp_path: Path, image: str, mask: str) -> None:
    names = [("train", "a"), ("train", "b"), ("val", "c")]
    files = [
        [form.replace("SPLIT", split).replace("NAME", name) for split, name in names]
        for form in (image, mask)
    ]
    found_ids = found(make(tmp_path, *files))
    stripped = {split: [id.removesuffix("_rgb") for id in ids] for split, ids in found_ids.items()}
    assert stripped == BOTH


@pytest.mark.parametrize("words", [("training", "validation"), ("Train", "valid")])
def test_splits_have_many_names(tmp_path: Path, words: tuple[str, str]) -> None:
    names = [f"{words[0]}/a", f"{words[0]}/b", f"{words[1]}/c"]
    make(tmp_path, [f"images/{n}.jpg" for n in names], [f"masks/{n}.png" for n in names])
    assert found(tmp_path) == BOTH
    assert len(open_folder(tmp_path, "validation")) == 1


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/NAME.jpg", "masks/NAME.png"),
        ("NAME.jpg", "NAME_mask.png"),
        ("NAME.jpg", "NAME_L.png"),
        ("img_NAME.png", "img_NAME-seg.png"),
        ("NAME.jpg", "NAME.png"),
        ("photos/NAME.jpg", "truth/NAME.png"),
        ("a/NAME.jpg", "b/NAME.png"),
        ("NAME.png", "labels/NAME.png"),
        ("top_NAME_RGB.png", "gt/top_NAME_label.png"),
        ("top_NAME_RGB.png", "top_NAME_label.png"),
        ("data/image_NAME.png", "data/mask_NAME.png"),
        ("images/NAME.jpg", "annotations/trimaps/NAME.png"),
        ("images/NAME.ppm", "labels-ah/NAME.ah.ppm"),
        ("set/imagesTr/NAME_0000.png", "set/labelsTr/NAME.png"),
    ],
)
def test_without_splits(tmp_path: Path, image: str, mask: str) -> None:
    names = [f"p{i:02}" for i in range(12)]
    files = [[form.replace("NAME", name) for name in names] for form in (image, mask)]
    (ids,) = found(make(tmp_path, *files)).values()
    assert [re.search(r"p\d\d", id)[0] for id in ids] == names  # type: ignore[index]


@pytest.mark.parametrize("folder", ["", "ImageSets/Segmentation/", "splits/"])
def test_lists(tmp_path: Path, folder: str) -> None:
    names = ["a", "b", "c", "deep/d e"]
    make(
        tmp_path,
        [f"JPEGImages/{n}.jpg" for n in [*names, "unlisted"]],
        [f"SegmentationClass/{n}.png" for n in names],
    )
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "train.txt").write_text(
        "a\n/SegNet/JPEGImages/b.jpg /SegNet/SegmentationClass/b.png\n"
    )
    (tmp_path / folder / "val.txt").write_text("c.jpg\ndeep/d e\n\n")
    assert found(tmp_path) == {"train": ["a", "b"], "val": ["c", "deep/d e"]}
    (tmp_path / folder / "val.txt").write_text("c\nnobody\n")
    with pytest.raises(UserError, match=r"val\.txt lists 'nobody'"):
        found(tmp_path)
    (tmp_path / folder / "val.txt").write_text("c\nc\n")
    with pytest.raises(UserError, match="lists c more than once"):
        found(tmp_path)


@pytest.mark.parametrize("names", ["Urban/SPLIT", "SPLIT/Urban"])
def test_folders_of_several_places(tmp_path: Path, names: str) -> None:
    """LoveDA: Train/Urban/images_png and Train/Rural/images_png are one data set."""
    found_all = {"Train": ["Rural/a", "Urban/a"], "Val": ["Rural/b", "Urban/b"]}
    for split, files in found_all.items():
        for place, name in (file.split("/") for file in files):
            folder = tmp_path / names.replace("SPLIT", split).replace("Urban", place)
            save(folder / "images_png" / f"{name}.png", IMAGE)
            save(folder / "masks_png" / f"{name}.png", MASK)
    assert found(tmp_path) == {"train": found_all["Train"], "val": found_all["Val"]}


def test_a_list_of_one_split_leaves_the_others_for_training(tmp_path: Path) -> None:
    """fast.ai's CamVid has valid.txt alone."""
    make(tmp_path, [f"images/{n}.png" for n in "abcd"], [f"labels/{n}_P.png" for n in "abc"])
    (tmp_path / "valid.txt").write_text("b.png\n")
    assert found(tmp_path) == {"val": ["b"], "train": ["a", "c"]}


def test_folders_that_say_nothing_are_asked_about(tmp_path: Path) -> None:
    """And the advice, pasted, works; also of folders below a split."""
    make(tmp_path / "flat", [f"a/{n}.png" for n in "pq"], [f"b/{n}.png" for n in "pq"])
    with pytest.raises(UserError, match="several ways") as caught:
        found(tmp_path / "flat")
    assert "--data.image_dir=a --data.mask_dir=b" in str(caught.value)
    both = {"image_dir": "a", "mask_dir": "b"}
    assert found(tmp_path / "flat", **both) == {"train": ["p", "q"]}
    files = [f"train/a/{n}.png" for n in "pq"] + ["val/a/r.png"]
    make(tmp_path / "deep", files, [file.replace("/a/", "/b/") for file in files])
    with pytest.raises(UserError, match="SPLIT/masks"):
        found(tmp_path / "deep")
    for form in ("SPLIT/{}", "*/{}/", "./SPLIT/{}"):
        named = {key: form.format(name) for key, name in both.items()}
        assert found(tmp_path / "deep", **named) == {"train": ["p", "q"], "val": ["r"]}


def test_a_cvat_export_a_folder_deeper(tmp_path: Path) -> None:
    """Its labelmap.txt still says that an image without mask is background."""
    make(tmp_path / "task", [f"JPEGImages/{n}.jpg" for n in "ab"], ["SegmentationClass/a.png"])
    (tmp_path / "task" / "labelmap.txt").write_text("background:0,0,0::\nred:1,1,1::\n")
    assert found(tmp_path) == {"train": ["a", "b"]}
    assert open_folder(tmp_path, "train").class_names == ("background", "red")


def test_cvat_masks(tmp_path: Path) -> None:
    """Colours, sorted labels, a list "default", and an image without mask: all background."""
    colors = np.array([(0, 0, 0), (250, 50, 83), (61, 61, 245)], np.uint8)
    ids = np.arange(12).reshape(3, 4) % 3
    for name in ("a", "sub/b"):
        save(tmp_path / "JPEGImages" / f"{name}.jpg", IMAGE[:3, :4])
        save(tmp_path / "SegmentationClass" / f"{name}.png", colors[ids])
        save(tmp_path / "SegmentationObject" / f"{name}.png", colors[ids])
    save(tmp_path / "JPEGImages" / "c.jpg", IMAGE[:3, :4])
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("a\nsub/b\nc\n")
    labels = (
        "# label:color_rgb:parts:actions\nant:61,61,245::\nbackground:0,0,0::\ncat:250,50,83::\n"
    )
    (tmp_path / "labelmap.txt").write_text(labels)
    assert understand(tmp_path, DataConfig(source="folder")).layout.notes == ()
    source = open_folder(tmp_path, "train", data=DataConfig(source="folder", holdout=0.0))
    assert source.class_names == ("background", "ant", "cat") and ids_of(source) == [
        "a",
        "sub/b",
        "c",
    ]
    np.testing.assert_array_equal(source[0]["label"], np.array([0, 2, 1])[ids])
    assert (source[2]["label"] == 0).all()


def test_roboflow(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("valid", 2)):
        for i in range(count):
            stem = tmp_path / split / f"street{i // 2}_jpg.rf.{split}{i}"
            save(stem.with_name(f"{stem.name}.jpg"), IMAGE)
            save(stem.with_name(f"{stem.name}_mask.png"), MASK)
        csv = "Pixel Value, Class\n0, background\n1, road"
        (tmp_path / split / "_classes.csv").write_text(csv)
    source = open_folder(tmp_path, "train")
    assert source.class_names == ("background", "road") and len(source) == 6
    assert len(open_folder(tmp_path, "val")) == 2


def test_cityscapes(tmp_path: Path) -> None:
    ids = np.array([[0, 7, 33]], np.uint8)
    for split, city in (("train", "aachen"), ("val", "ulm"), ("test", "bonn")):
        stem = f"{split}/{city}/{city}_000000_000019"
        save(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png", IMAGE[:1, :3])
        for kind in ("labelIds", "instanceIds", "color"):
            save(tmp_path / "gtFine" / f"{stem}_gtFine_{kind}.png", ids)
    data = DataConfig(source="folder")
    assert understand(tmp_path, data).splits.keys() == {"train", "val"}
    source = open_folder(tmp_path, "train", data=data)
    assert source.class_names[0] == "road" and source[0]["label"].tolist() == [[255, 0, 18]]


def test_ade20k(tmp_path: Path) -> None:
    """Value 0 is none of the 150 classes that its list numbers from 1."""
    for split in ("training", "validation"):
        save(tmp_path / "images" / split / "a.jpg", IMAGE[:1, :3])
        save(tmp_path / "annotations" / split / "a.png", np.array([[0, 1, 2]], np.uint8))
    rows = [f"{i}\t0.1\t11\t12\t1\tthing {i}" for i in (1, 2)]
    text = "\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows])
    (tmp_path / "objectInfo150.txt").write_text(text)
    assert open_folder(tmp_path, "train")[0]["label"].tolist() == [[255, 0, 1]]


def test_cityscapes_a_folder_deeper(tmp_path: Path) -> None:
    for kind, name in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        save(tmp_path / "x" / kind / "train" / "ulm" / f"ulm_0_{name}.png", IMAGE[:1, :3, 0])
    assert open_folder(tmp_path, "train").class_names[0] == "road"


def test_two_folders_of_masks_are_asked_about(tmp_path: Path) -> None:
    files = [f"masks/{n}.png" for n in "ab"] + [f"labels/{n}.png" for n in "ab"]
    make(tmp_path, [f"images/{n}.jpg" for n in "ab"], files)
    with pytest.raises(
        UserError, match=r"(?s)several ways.*mask_dir=masks.*mask_dir=labels|labels.*masks"
    ):
        found(tmp_path)
    assert found(tmp_path, mask_dir="labels") == {"train": ["a", "b"]}
    assert found(tmp_path, image_dir="images", mask_dir="masks") == {"train": ["a", "b"]}


def test_other_renderings_are_no_masks(tmp_path: Path) -> None:
    make(
        tmp_path,
        [f"images/{n}.jpg" for n in "ab"],
        [f"{kind}/{n}.png" for n in "ab" for kind in ("masks", "visualization", "instances")],
    )
    assert found(tmp_path) == {"train": ["a", "b"]}


def test_a_test_set_without_masks_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(
        tmp_path,
        [f"images/{n}.jpg" for n in ("train/a", "train/b", "val/c", "test/d")],
        [f"masks/{n}.png" for n in ("train/a", "train/b", "val/c")],
    )
    assert found(tmp_path) == BOTH
    assert "the images of test have no masks: passed over" in capsys.readouterr().err


def test_what_lacks_a_partner_is_named(tmp_path: Path) -> None:
    make(tmp_path, ["images/train/a.jpg", "images/train/b.jpg"], ["masks/train/a.png"])
    with pytest.raises(UserError, match=r"1 images have no mask of the same name.*b\.jpg"):
        found(tmp_path)
    make(tmp_path, [], ["masks/train/b.png", "masks/train/c.png"])
    with pytest.raises(UserError, match=r"1 masks have no image of the same name.*c\.png"):
        found(tmp_path)
    save(tmp_path / "images" / "train" / "a.png", IMAGE)
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png have the same name"):
        found(tmp_path)


def test_what_is_not_understood_is_told_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        found(tmp_path / "nowhere")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(UserError, match=r"holds no images .*there are notes\.md"):
        found(tmp_path)
    make(tmp_path, ["photos/a.jpg", "photos/b.jpg"], [])
    with pytest.raises(UserError, match=r"not understood: 2 images.*photos/.*--data\.image_dir"):
        found(tmp_path)
    with pytest.raises(UserError, match=r"not understood as --data\.layout=coco"):
        found(tmp_path, layout="coco")


def test_constant_ends_are_found_quickly() -> None:
    names = [f"photo_{i:05}" for i in range(20_000)]
    assert _find_ends(names, [f"gt_{name}_seg" for name in names]) == ("gt_", "_seg")
    assert _find_ends(["p1", "p2"], ["q7", "r8"]) is None
