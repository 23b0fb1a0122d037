"""Lists of classes in every form; what is none never becomes names."""

import json
from pathlib import Path

import pytest

from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import ade20k
from deeplab_jax.data.layouts import ClassTable
from deeplab_jax.data.tables import find_table, read_table
from deeplab_jax.errors import UserError

TWO = ("background", "red")
COLORS = ((0, 0, 0), (128, 0, 0))


def read(folder: Path, text: str, name: str = "classes.txt") -> ClassTable:
    (folder / name).write_text(text, encoding="utf-8")
    return read_table(folder / name)


def test_names_with_and_without_colours(tmp_path: Path) -> None:
    table = read(tmp_path, "\ufeffsky\ntraffic light  #FF8000\nroad\n\n")
    assert table.names == ("sky", "traffic light", "road")
    assert table.colors == ((0, 0, 0), (255, 128, 0), (0, 128, 0))
    assert table.by_color == () and table.values == ()  # not all have one
    table = read(tmp_path, "sky #0000ff\nroad #102030\n")
    assert table.by_color == (((0, 0, 255), 0), ((16, 32, 48), 1))


@pytest.mark.parametrize(
    "text",
    [
        "0: background\n1: red",
        "0,background\n1,red",
        "0 background\n1 red",
        "0\tbackground\n1\tred",
        "background = 0\nred = 1",
        "Pixel Value, Class\n0, background\n1, red",
        "background,red",
        "background\nred",
        "name\nbackground\nred",
        "id,name\n0,background\n1,red",
    ],
)
def test_numbers_and_separators_are_no_part_of_names(tmp_path: Path, text: str) -> None:
    table = read(tmp_path, text)
    assert table.names == TWO and table.values == () and table.by_color == ()


@pytest.mark.parametrize(
    "text",
    [
        "background 0 0 0\nred 128 0 0",
        "background,0,0,0\nred,128,0,0",
        "name,r,g,b\nbackground,0,0,0\nred,128,0,0",
        "0 0 0\t\tbackground\n128 0 0\tred",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:128,0,0::\n",
        "background (0, 0, 0)\nred (128, 0, 0)",
        "Name, R, G, B, note\nbackground, 0, 0, 0, x\nred, 128, 0, 0,",
        "name,r,g,b,a\nbackground,0,0,0,255\nred,128,0,0,255",
        "0,background,0,0,0\n1,red,128,0,0",
        "name,id,r,g,b\nbackground,0,0,0,0\nred,1,128,0,0",
        'name,rgb\nbackground,"0,0,0"\nred,"128,0,0"',
        "background: #000000\nred: #800000",
        "background,0x000000\nred,0x800000",
        "0 background #000000\n1 red #800000",
    ],
)
def test_colours_in_every_form(tmp_path: Path, text: str) -> None:
    table = read(tmp_path, text)
    assert (table.names, table.colors) == (TWO, COLORS)
    assert table.by_color == tuple(zip(COLORS, (0, 1), strict=True))


def test_values_that_are_no_places(tmp_path: Path) -> None:
    assert read(tmp_path, "7: road\n8: road\n0: ignore\n23: sky").values == (
        *((7, 0), (8, 0), (0, VOID)),
        (23, 1),
    )
    assert read(tmp_path, "1 red\n2 blue").values == ((1, 0), (2, 1))
    assert read(tmp_path, "void\nred\nblue").values == ((0, VOID), (1, 0), (2, 1))
    ade = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t11\t12\t1\twall, x\n2\t0.1\t1\t1\t0\tsky"
    table = read(tmp_path, ade, "objectInfo150.txt")
    assert table.names == ("wall, x", "sky") and table.values == ((0, VOID), (1, 0), (2, 1))


def test_ade20k_has_of_each_class_the_first_of_its_names(tmp_path: Path) -> None:
    """In both editions of its list; the names and colours are those of the official weights."""
    names = ade20k.CLASS_NAMES
    for stuff in ("", "1\t"):
        rows = [f"{i} \t0.1\t11\t12\t{stuff}{n}, other " for i, n in enumerate(names[1:], 1)]
        text = "\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows])
        table = read(tmp_path, text, "objectInfo150.txt")
        assert table.names == names[1:] and table.colors == ade20k.COLORS[1:]
        assert table.values == ((0, VOID), *((i + 1, i) for i in range(150)))
        assert not table.by_color


def test_a_labelmap_puts_the_background_first_and_keeps_places(tmp_path: Path) -> None:
    """CVAT sorts labels by the alphabet; masks of one channel hold their places."""
    text = "ant:61,61,245::\nbackground:0,0,0::\ncat:250,50,83:: # a cat\n"
    table = read(tmp_path, f"# label:color_rgb:parts:actions\n{text}", "labelmap.txt")
    assert table.names == ("background", "ant", "cat")
    assert dict(table.by_color)[250, 50, 83] == 2 and dict(table.values) == {0: 1, 1: 0, 2: 2}


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"background": [0, 0, 0], "red": [128, 0, 0]}, TWO),
        ({"background": "#000000", "red": "#800000"}, TWO),
        ({"0": "background", "1": "red"}, TWO),
        ({"background": 0, "red": 1}, TWO),
        (["background", "red"], TWO),
        ([{"name": "background", "color": [0, 0, 0]}, {"name": "red", "color": "#800000"}], TWO),
        ({"labels": ["background", "red"], "segmentation_colors": [[0, 0, 0], [128, 0, 0]]}, TWO),
        ({"label_map": {"0": "background", "1": "red"}, "background_label": "0"}, TWO),
        ({"labels": {"background": 0, "red": 1}, "numTraining": 8}, TWO),
        ({"classes": ["background", "red"]}, TWO),
        ({"id2label": {"0": "background", "1": "red"}}, TWO),
        ({"background": {"id": 0}, "red": {"id": 1}}, TWO),
    ],
)
def test_json(tmp_path: Path, data: object, names: tuple[str, ...]) -> None:
    table = read(tmp_path, json.dumps(data), "classes.json")
    assert table.names == names and table.values == ()
    assert table.colors in (COLORS, ())


def test_void_is_no_class_and_one_name_has_a_background(tmp_path: Path) -> None:
    table = read(tmp_path, "64 128 64\tAnimal\n0 0 0\t\tVoid\n1 2 3 Traffic Light")
    assert table.names == ("Animal", "Traffic Light")
    assert dict(table.by_color) == {(64, 128, 64): 0, (0, 0, 0): VOID, (1, 2, 3): 1}
    assert read(tmp_path, "crack\n").names == ("background", "crack")


def test_colours_come_from_another_list_of_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text("a:1,2,3::\nbackground:0,0,0::\n")
    (tmp_path / "classes.txt").write_text("background\na\n")
    table = find_table([tmp_path])
    assert table is not None and table.names == ("background", "a")
    assert dict(table.by_color) == {(0, 0, 0): 0, (1, 2, 3): 1}
    assert find_table([tmp_path / "nowhere"]) is None


def test_files_of_other_tools(tmp_path: Path) -> None:
    text = '{"red": 1, "blue": 2}'  # Supervisely, whose masks have a background
    assert read(tmp_path, text, "obj_class_to_machine_color.json").names == (*TWO, "blue")
    table = read(tmp_path, '{"red": [1, 1, 1]}', "obj_class_to_machine_color.json")
    assert table.by_color == (((0, 0, 0), 0), ((1, 1, 1), 1))
    for name in ("filename, bus, car\na.jpg, 0, 1\n", "class_index,class,height\n0,red,224\n"):
        with pytest.raises(UserError, match=r"_classes\.csv:1: .*for classification"):
            read(tmp_path, name, "_classes.csv")


def test_a_folder_with_two_tables_of_mapillary_is_asked_about(tmp_path: Path) -> None:
    labels = [{"name": "a--b", "readable": "B", "color": [1, 2, 3]}, {"name": "void--unlabeled"}]
    (tmp_path / "config.json").write_text('{"width": 3, "height": 4}')
    assert find_table([tmp_path]) is None  # something else's
    for name in ("config.json", "config_v1.2.json", "config_v2.0.json"):
        (tmp_path / name).write_text(json.dumps({"labels": labels}))
        if name != "config_v2.0.json":
            table = find_table([tmp_path])
            assert table is not None and dict(table.values) == {0: 0, 1: VOID}
    with pytest.raises(UserError, match=r"--data\.classes=.*config_v1\.2\.json"):
        find_table([tmp_path])


def test_other_encodings(tmp_path: Path) -> None:
    path, names = tmp_path / "classes.txt", ("Hintergrund", "Straße", "青")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        for end in ("\n", "\r\n", "\r"):
            path.write_bytes((end.join(names) + end).encode(encoding))
            assert read_table(path).names == names
    for data, line, what in (
        ("background\nStraße\n".encode("cp1252"), 2, rb"\\xdf.*UTF-8".decode()),
        ("a\nb\n".encode("utf-16-le"), 1, "NUL.*UTF-8"),  # without its mark
        ("a\nb\n".encode("utf-32"), 1, "NUL.*UTF-8"),
        ("a\nb\n".encode("utf-16") + b"c", 3, "UTF-16"),
        (b"a\nb\n\0", 3, "NUL"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"classes\.txt:{line}: holds .*{what}"):
            read_table(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n\nb", 2),
        ("a\na", 2),
        ("a\nb #ff", 2),
        ("# classes\na\nb", 1),
        ("background\n7: red", 2),
        ('["background", "red"]', 1),
        ("names:\n- background\n- red", 1),
        ('item {\n  id: 1\n  name: "red"\n}', 1),
        ("background,\nred,", 1),
        ("background;red\nblue", 1),
        ("a 0 0 0\nb 0 0 256", 2),
        ("0: a\n70000: b", 2),
    ],
)
def test_what_is_malformed_is_named_by_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(UserError, match=rf"classes\.txt:{line}: "):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        '{"a": {}}',
        '{"a": [1, 2]}',
        '[{"id": 3}]',
        "[]",
        "[" * 100_000,
        '{"0,0,0": 1}',
        '{"a": true}',
    ],
)
def test_json_that_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"classes\.json"):
        read(tmp_path, text, "classes.json")


def test_odd_names_remain_names(tmp_path: Path) -> None:
    names = ("2 wheeler", "4 wheeler", "building, edifice", "n01440764 tench", "T-shirt", "no. 5")
    names = (*names, "3d printer", "pole (group)", "object--car", "rock & roll", "Citroën 2CV")
    assert read(tmp_path, "\n".join(names)).names == names
    assert read(tmp_path, "0\n1\n2\n").names == ("0", "1", "2")  # digits
    assert read(tmp_path, "a\nb").colors == () and voc_colormap(2) == COLORS
