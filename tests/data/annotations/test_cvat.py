"""CVAT's XML: labels, places of images, kinds of shapes, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from annotated import box, labels, make_images

from deeplab_jax import UserError
from deeplab_jax.data.annotations import cvat

LABELS = "".join(
    f"<label><name>{name}</name><color>{color}</color><type>{kind}</type></label>"
    for name, color, kind in (
        ("cat", "#fa3253", "any"),
        ("ant", "#3d3df5", "any"),
        ("n", "", "tag"),
    )
)
POLYGON = '<polygon label="cat" points="1.00,1.00;5.00,1.00;5.00,3.00;1.00,3.00" z_order="0"/>'
MASK = (
    '<mask label="cat" rle="0, 1, 1, 4" left="2" top="1" width="3" height="2" z_order="0"></mask>'
)


def image(*shapes: str, name: str = "a.jpg", more: str = "", size: tuple[int, int] = (4, 6)) -> str:
    place = f'name="{name}" height="{size[0]}" width="{size[1]}" {more}'
    return f'<image id="0" {place}>{"".join(shapes)}</image>'


def xml(*images: str, labels: str = LABELS) -> str:
    meta = f"<meta><task><id>1</id><labels>{labels}</labels></task></meta>"
    head = '<?xml version="1.0" encoding="utf-8"?>'
    return f"{head}\n<annotations><version>1.1</version>{meta}{''.join(images)}</annotations>"


def put(root: Path, text: str) -> Path:
    make_images(root, "images/a.jpg")
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    return root


def label_of(root: Path, *shapes: str) -> np.ndarray:
    return labels(cvat.read(put(root, xml(image(*shapes)))))["a"]


def test_the_mask_of_the_facts(tmp_path: Path) -> None:
    expected = np.zeros((4, 6), np.uint8)
    expected[1, [2, 4]] = expected[2, 2:5] = 1
    np.testing.assert_array_equal(label_of(tmp_path, MASK), expected)


def test_labels_are_in_the_files_order_with_their_colours(tmp_path: Path) -> None:
    layout = cvat.read(put(tmp_path, xml(image(POLYGON))))
    assert layout and layout.table
    assert layout.table.names == ("background", "cat", "ant")
    assert layout.table.colors == ((0, 0, 0), (250, 50, 83), (61, 61, 245))
    assert layout.splits.keys() == {""} and layout.name == "cvat"


def test_names_may_hold_entities(tmp_path: Path) -> None:
    text = xml(
        image(POLYGON.replace('"cat"', '"a &lt; &#228;"')),
        labels="<label><name>a &lt; ä</name></label>",
    )
    layout = cvat.read(put(tmp_path, text))
    assert layout and layout.table and layout.table.names[1] == "a < ä"


@pytest.mark.parametrize("place", ["images", ".", "images/train", "train"])
def test_places_and_subsets(tmp_path: Path, place: str) -> None:
    make_images(tmp_path, f"{place}/sub/b.jpg", f"{place}/c.jpg")
    one = image(POLYGON, name="sub/b.jpg", more='subset="Train" task_id="1"'.replace("T", "t"))
    (tmp_path / "annotations.xml").write_text(xml(one, image(name="c.jpg", more='subset="train"')))
    layout = cvat.read(tmp_path)
    found = labels(layout, "train")
    np.testing.assert_array_equal(found["sub/b"], box(1, np.s_[1:3], np.s_[1:5]))
    assert layout and layout.splits["train"][1].label is None and not found["c"].any()


def test_images_in_no_subset_beside_those_in_one(tmp_path: Path) -> None:
    make_images(tmp_path, "images/b.jpg")
    text = xml(image(POLYGON), image(POLYGON, name="b.jpg", more='subset="Validation"'))
    layout = cvat.read(put(tmp_path, text))
    assert layout and layout.splits.keys() == {"default", "val"}


def test_a_higher_z_order_lies_on_top(tmp_path: Path) -> None:
    ant = MASK.replace("cat", "ant")
    assert label_of(tmp_path, POLYGON, ant)[1].tolist() == [0, 1, 2, 1, 2, 0]
    assert label_of(tmp_path, POLYGON.replace('r="0"', 'r="1"'), ant)[1].tolist() == [
        0,
        1,
        1,
        1,
        1,
        0,
    ]


def test_boxes_turn_clockwise_and_ellipses_have_their_axes(tmp_path: Path) -> None:
    flat = '<box label="ant" xtl="10" ytl="18" xbr="30" ybr="22" rotation="45"/>'
    round_ = '<ellipse label="cat" cx="70" cy="50" rx="20" ry="10" rotation="90"/>'
    make_images(tmp_path, "images/a.jpg", size=(100, 100))
    (tmp_path / "annotations.xml").write_text(xml(image(flat, round_, size=(100, 100))))
    layout = cvat.read(tmp_path)
    label = labels(layout)["a"]
    assert label[26, 26] == 2 and label[14, 14] == 2 and not label[14, 26]
    assert (label == 2).sum() == pytest.approx(80, abs=10)
    assert (label == 1).sum() == pytest.approx(np.pi * 200, rel=0.02)
    assert label[32, 70] == 1 and label[50, 82] == 0
    assert layout and "1 box is painted as a rectangle" in layout.notes


def test_what_is_skipped_is_counted(tmp_path: Path) -> None:
    others = [
        '<polyline label="cat" points="1,1;2,2"/>',
        '<points label="n" points="1,1"/>',
        "<tag/>",
    ]
    bad = [
        POLYGON.replace("5.00", "x"),
        POLYGON.replace("5.00", "nan"),
        POLYGON.replace(";5.00,3.00;1.00,3.00", ""),
        POLYGON.replace("5.00", "5.00,1", 1),
        '<polygon label="cat"/>',
        MASK.replace("0, 1", "0, 2"),
        MASK.replace("0, 1", "0, -1"),
        MASK.replace("0, 1", "1" * 6000),
        MASK.replace('width="3"', 'width="1000000000"').replace("1, 4", "2999999999"),
        MASK.replace('left="2"', 'left="inf"'),
        MASK.replace('left="2"', 'left="1e30"'),
        '<box label="cat" xtl="1"/>',
        '<ellipse label="cat" cx="1" cy="1" rx="1e400" ry="2"/>',
        '<ellipse label="cat" cx="1" cy="1" rx="1" ry="2" rotation="inf"/>',
        POLYGON.replace('r="0"', 'r="x"'),
    ]
    layout = cvat.read(put(tmp_path, xml(image(POLYGON, *others, *bad))))
    assert layout and labels(layout)["a"].sum() == 8
    assert any(note.startswith("3 shapes of kinds without an area") for note in layout.notes)
    assert any(note.startswith(f"{len(bad)} malformed shapes skipped") for note in layout.notes)


@pytest.mark.parametrize(
    "text", ["", "<annotation><filename>a</filename></annotation>", "<a/>", "no XML <annotationsX>"]
)
def test_xml_of_another_kind_is_none(tmp_path: Path, text: str) -> None:
    assert cvat.read(put(tmp_path, text)) is None


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "has a DOCTYPE"),
        (" " * (2**20 - 5) + BOMB[:60000], "has a DOCTYPE"),
        (xml(image(POLYGON))[:-30], "not readable as XML"),
        (xml(image(POLYGON)) + "<annotations>", "not readable as XML"),
        (xml("<track id='0' label='cat'></track>"), "export it as 'CVAT for images'"),
        ("<annotations>" + image(POLYGON) + "</annotations>", "no list of labels"),
        ("<annotations></annotations>", "no list of labels"),
        (xml(image(POLYGON), labels=""), "0 classes"),
        (xml(image(POLYGON), labels=LABELS * 2), "several classes are named cat"),
        (xml(image(POLYGON.replace("cat", "dog"))), "label 'dog' is not in the file's list"),
        (xml(image(POLYGON, name="../../etc/passwd")), "not there, such as '../../etc/passwd'"),
        (xml(image(POLYGON, size=(0, 6))), "no width or height"),
        (xml(image(POLYGON, size=(10**10, 6))), "no width or height"),
        (xml(image()), "no polygon or mask"),
        (xml(image('<box label="cat" xtl="1" ytl="1" xbr="2" ybr="2"/>')), "nothing but boxes"),
        (xml(image("<a>" * 99_999 + "</a>" * 99_999)), "elements in more than 32 others"),
        (xml(image(POLYGON), image(POLYGON)), "images named twice"),
        ('<?xml version="1.0" encoding="cp037"?><annotations>', "not readable as XML"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        cvat.read(put(tmp_path, text))


def test_two_files_are_refused(tmp_path: Path) -> None:
    (put(tmp_path, xml(image(POLYGON))) / "more.xml").write_text(xml())
    with pytest.raises(UserError, match="keep one of them"):
        cvat.read(tmp_path)


def test_a_file_that_is_no_utf_8(tmp_path: Path) -> None:
    (put(tmp_path, "") / "annotations.xml").write_bytes(b"<annotations>\xff</annotations>")
    with pytest.raises(UserError, match="not readable as UTF-8"):
        cvat.read(tmp_path)
