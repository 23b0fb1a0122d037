"""check-data: every bad file is listed with its reason, sound ones are counted, advice is right."""

import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import encode, palette
from PIL import Image
from synthetic import SIZE, square_image, write_squares

from deeplab_jax import cli
from deeplab_jax.config import load_json, parse
from deeplab_jax.data import checks
from deeplab_jax.data.colors import voc_colormap
from deeplab_jax.data.datasets import voc
from deeplab_jax.data.findings import check_split
from deeplab_jax.data.folder import open_folder
from deeplab_jax.data.settle import open_split
from deeplab_jax.errors import UserError
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.training.loop import open_sources

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
IMAGE, LABEL = square_image(99)
COLORS = np.array(voc_colormap(256), np.uint8)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def bomb(side: int) -> bytes:
    """A small PNG whose header claims side x side pixels."""
    png = encode(IMAGE)
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def labelled(value: int) -> bytes:
    label = LABEL.copy()
    label[:4] = value
    return encode(label)


PICTURE = Image.fromarray(IMAGE)
OTHERS = [Image.fromarray(square_image(seed)[0]) for seed in (97, 98)]
MASK = encode(LABEL)

# (what, file of the image, its content, content of its mask, reason); those below are refused
REFUSED = [
    ("truncated JPEG", "half.jpg", encode(PICTURE, "JPEG")[:-200], MASK, "image file is truncated"),
    ("truncated PNG", "cut.png", encode(PICTURE)[:-2000], MASK, "not a readable image"),
    ("empty file", "empty.png", b"", MASK, "the file is empty"),
    ("HTML named .jpg", "page.jpg", b"<html>404</html>", MASK, "content is of another kind"),
    ("truncated mask", "cut_mask.png", encode(PICTURE), MASK[:-30], "not a readable image"),
    (
        "colour mask",
        "colour.png",
        encode(PICTURE),
        encode(PICTURE),
        "the mask holds colours, such as #",
    ),
    ("JPEG mask", "jpeg.png", encode(PICTURE), encode(LABEL, "JPEG"), "the mask holds "),
    ("1 x 1", "dot.png", encode(IMAGE[:1, :1]), encode(LABEL[:1, :1]), "image is 1 x 1; each"),
    (
        "1 x 4000",
        "line.png",
        encode(np.zeros((4000, 1, 3), np.uint8)),
        encode(np.zeros((4000, 1), np.uint8)),
        "image is 1 x 4000; each side needs at least 2",
    ),
    (
        "claims 20000 x 20000",
        "bomb.png",
        bomb(20_000),
        MASK,
        "is 20000 x 20000; at most 64 megapixel",
    ),
    (
        "mask of another size",
        "size.png",
        encode(PICTURE),
        encode(LABEL[:, :50]),
        "the image is 56 x 40 but its labels 50 x 40",
    ),
    (
        "label = number of classes",
        "three.png",
        encode(PICTURE),
        labelled(3),
        "the mask holds 3 (",
    ),
    ("label out of range", "seven.png", encode(PICTURE), labelled(7), "the mask holds 7 ("),
    (
        "32-bit float image",
        "float.tif",
        encode(PICTURE.convert("F"), "TIFF"),
        MASK,
        "no known ra",
    ),
]
# These are read; where there is a reason, it is a warning.
READ = [
    (
        "palette mask",
        "palette.png",
        encode(PICTURE, compress_level=3),
        encode(palette(LABEL, COLORS)),
        "",
    ),
    (
        "gray saved as RGB",
        "gray_rgb.png",
        encode(PICTURE, compress_level=4),
        encode(Image.fromarray(LABEL).convert("RGB")),
        "",
    ),
    ("CMYK JPEG", "cmyk.jpg", encode(PICTURE.convert("CMYK"), "JPEG"), MASK, ""),
    ("16-bit gray PNG", "deep.png", encode(IMAGE[..., 0].astype(np.uint16) * 257), MASK, ""),
    ("gray image", "gray.png", encode(PICTURE.convert("L")), MASK, ""),
    ("transparent image", "alpha.png", encode(PICTURE.convert("RGBA")), MASK, ""),
    ("palette image", "p.png", encode(PICTURE.convert("P")), MASK, ""),
    ("spaces, Unicode in a name", "straße 日本.png", encode(PICTURE, compress_level=1), MASK, ""),
    (
        "EXIF-turned JPEG",
        "turned.jpg",
        encode(PICTURE, "JPEG", exif=turned(6)),
        MASK,
        "",  # the mask's size proves that it is drawn on the stored pixels
    ),
    (
        "EXIF says upside down",
        "half_turned.jpg",
        encode(PICTURE, "JPEG", exif=turned(3)),
        MASK,
        "EXIF orientation 3: training and evaluation read the pixels as stored, and nothing proves",
    ),
    (
        "animated GIF",
        "moving.gif",
        encode(PICTURE, "GIF", save_all=True, append_images=OTHERS),
        MASK,
        "holds 3 frames, of which the first is used",
    ),
    (
        "MPO (stereo JPEG)",
        "stereo.jpg",
        encode(PICTURE, "MPO", save_all=True, append_images=OTHERS[:1]),
        MASK,
        "holds 2 frames",
    ),
    (
        "mask of ignored pixels alone",
        "void.png",
        encode(PICTURE, compress_level=2),
        encode(np.full(SIZE, 255, np.uint8)),
        "every pixel of the mask is ignored",
    ),
]


def write_bad(root: Path) -> None:
    """Three sound pairs and one of every case in train, two in val; one image is in both."""
    write_squares(root, {"train": 3, "val": 2})
    for _, name, image, mask, _ in [*REFUSED, *READ]:
        (root / "images" / "train" / name).write_bytes(image)
        (root / "masks" / "train" / f"{Path(name).stem}.png").write_bytes(mask)
    for kind in ("images", "masks"):  # macOS leaves such files beside others
        (root / kind / "train" / "._p00.png").write_bytes(b"not an image")
    for source, copy in (("p00", "train/again"), ("p01", "val/leak")):
        for kind in ("images", "masks"):
            data = (root / kind / "train" / f"{source}.png").read_bytes()
            (root / kind / f"{copy}.png").write_bytes(data)


def run(root: Path, out: Path, *arguments: str) -> int:
    """The command's exit code."""
    try:
        cli.check_data(
            [
                f"--config={CONFIGS}/folder.py",
                f"--machine.root={root}",
                f"--out={out}",
                "--model.num_classes=3",
                *arguments,
            ]
        )
    except SystemExit as leaving:
        assert isinstance(leaving.code, int)
        return leaving.code
    return 0


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The folder of `write_bad`, its exit code, and its problems.txt."""
    root = tmp_path_factory.mktemp("bad")
    write_bad(root)
    code = run(root, root / "out")
    return root, code, (root / "out" / "problems.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_what_is_refused_is_listed_with_its_reason(
    case: tuple[str, str, bytes, bytes, str], bad: tuple[Path, int, str]
) -> None:
    _, name, _, _, reason = case
    problems = bad[2].split("warnings: ")[0]
    stem = re.escape(Path(name).stem)
    assert re.search(rf"train/{stem}\.\w+: .*{re.escape(reason)}", problems)


@pytest.mark.parametrize("case", READ, ids=lambda case: case[0])
def test_what_is_read_is_a_warning_at_most(
    case: tuple[str, str, bytes, bytes, str], bad: tuple[Path, int, str]
) -> None:
    _, name, _, _, reason = case
    problems, warnings = bad[2].split("warnings: ")
    assert f"/{name}: " not in problems
    lines = [line for line in warnings.splitlines() if f"/{name}: " in line]
    assert len(lines) == (1 if reason else 0) and all(reason in line for line in lines)


def test_all_and_only_the_bad_are_counted(
    bad: tuple[Path, int, str], capsys: pytest.CaptureFixture
) -> None:
    root, code, text = bad
    assert code == 1
    # One more: what all masks hold.
    assert text.startswith(f"problems: {len(REFUSED) + 1}\n") and "._p00" not in text
    assert "train and val  some masks: the masks hold #" in text
    assert f"{root}/images/train/again.png (train) = {root}/images/train/p00.png (train): " in text
    assert f"{root}/images/train/p01.png (train) = {root}/images/val/leak.png (val): " in text
    assert text.count("byte for byte") == 2
    assert run(root, root / "out", "--machine.workers=0") == 1
    out = capsys.readouterr().out
    total, sound = len(REFUSED) + len(READ) + 4, len(READ) + 4
    assert f"train: {total} images, {sound} of them sound" in out
    assert "val: 3 images, 3 of them sound" in out
    assert "JPEG CMYK (1)" in out and "PNG I;16 (1)" in out and "MPO RGB (1)" in out
    assert "turned (2)" in out
    advice = suggestions(out)  # nothing of the kind is decided by such masks
    assert "--data.palette_masks" not in advice and "--task.ignore_label" not in advice
    with Image.open(root / "out" / "samples.png") as samples:
        assert samples.width == 4 * (320 + 16) + 16


def test_a_clean_folder_is_clean_and_its_histogram_right(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 6, "val": 2})
    assert run(tmp_path, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "problems: none" in out and "warnings: none" in out
    assert "all 40 x 56" in out and "PNG RGB (6)" in out
    assert re.search(r"^crop size +49 x 65 +the median image, 40 x 56; .* --crop-size$", out, re.M)
    assert re.search(r"^classes +grey, red, blue ", out, re.M) and "suggestions: none" in out
    masks = sorted((tmp_path / "masks" / "train").iterdir())
    labels = np.stack([np.asarray(Image.open(mask)) for mask in masks])
    check = check_split(open_folder(str(tmp_path), "train"), "train")
    np.testing.assert_array_equal(check.pixels, [(labels == k).sum() for k in range(3)])
    shown = [(labels == k).any(axis=(1, 2)).sum() for k in range(3)]
    np.testing.assert_array_equal(check.images, shown)
    assert check.ignored == (labels == 255).sum()
    share = 100 * check.pixels[1] / (labels != 255).sum()
    assert re.search(rf"^red +{share:.3f} +6 ", out, re.MULTILINE)
    assert run(tmp_path, tmp_path / "out", "--data.crop_size", "513", "513") == 0
    assert "crop size" not in capsys.readouterr().out


def test_many_problems_of_a_kind_are_one_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 9, "val": 2})
    for i in range(7):
        (tmp_path / "images" / "train" / f"p{i:02d}.png").write_bytes(encode(IMAGE[: 20 + i]))
    assert run(tmp_path, tmp_path / "out") == 1
    out = capsys.readouterr().out
    assert "problems: 7\n     7  such as: the image is 56 x 20 but its labels 56 x 40" in out
    assert out.count("- " + str(tmp_path / "images" / "train")) == checks.FILES_SHOWN
    assert "and 4 more, see problems.txt" in out
    assert (tmp_path / "out" / "problems.txt").read_text().count("but its labels") == 7


def rewrite_masks(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for file in (root / "masks").rglob("*.png"):
        Image.fromarray(change(np.array(Image.open(file))).astype(np.uint8)).save(file)


def suggestions(text: str) -> str:
    return text.split("\nsuggestions")[1]


def test_ids_from_one_are_asked_about_and_the_advice_works(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 4, "val": 2})
    rewrite_masks(tmp_path, lambda label: np.where(label == 255, 0, label + 1))
    with pytest.raises(UserError, match=r"(?s)do not tell whether.*--data\.zero=ignore"):
        run(tmp_path, tmp_path / "out")
    assert run(tmp_path, tmp_path / "out", "--data.zero=ignore") == 0
    out = capsys.readouterr().out
    labels = [np.array(Image.open(mask)) for mask in (tmp_path / "masks" / "train").iterdir()]
    ids = np.concatenate([label.ravel() for label in labels])
    for k, name in ((1, "grey"), (2, "red"), (3, "blue")):
        share = 100 * (ids == k).sum() / (ids > 0).sum()
        assert re.search(rf"^{name} +{share:.3f} +4 ", out, re.MULTILINE)


def test_what_was_understood_is_written_and_taken_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 3, "val": 2})
    rewrite_masks(tmp_path, lambda label: np.where(label == 255, 255, 10 * label))
    table = {"0": "grey", "10": "red", "20": "blue"}
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text(json.dumps(table))
    masks = tmp_path / "as_understood"
    assert run(tmp_path, tmp_path / "out", f"--write-masks={masks}") == 0
    assert "wrote 5 masks and classes.txt" in capsys.readouterr().out
    for file in (tmp_path / "masks").rglob("*.png"):
        stored, written = (
            np.array(Image.open(f)).astype(int)
            for f in (file, masks / file.relative_to(tmp_path / "masks"))
        )
        np.testing.assert_array_equal(written, np.where(stored == 255, 255, stored // 10))
    (tmp_path / "classes.json").unlink()  # data.json has the map and the names
    config = load_json(tmp_path / "out" / "data.json")
    source = open_split(config, "train")
    assert source.class_names == ("grey", "red", "blue")
    assert set(np.unique(source[0]["label"])) <= {0, 1, 2, 255}
    (tmp_path / "classes.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match="the folder is not empty"):
        run(tmp_path, tmp_path / "out", f"--write-masks={masks}")


def test_the_range_of_twelve_bits_in_sixteen_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 3, "val": 1})
    for file in sorted((tmp_path / "images").rglob("*.png")):
        gray = np.array(Image.open(file).convert("L")).astype(np.uint16)
        Image.fromarray(gray * 16).save(file)
    assert run(tmp_path, tmp_path / "out") == 0
    assert "nearly black" not in capsys.readouterr().out
    assert run(tmp_path, tmp_path / "out", "--task.range", "0", "65535") == 0
    out = capsys.readouterr().out
    assert re.search(r"the image uses [1-6]\.\d % of the range up to 65535, which looks near", out)
    assert out.count("nearly black") == 2 and "\n  --task.range 0 4095\n" in suggestions(out)
    assert run(tmp_path, tmp_path / "out", "--task.white=1023") == 0  # as it was called
    assert "all above 1023 (task.range) are white" in capsys.readouterr().out


def test_training_warns_of_what_the_check_would(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Each kind once, with a count and one file."""
    write_squares(tmp_path, {"train": 5, "val": 2})
    rewrite_masks(tmp_path, lambda label: np.where(label == 0, 1, label))
    folder = tmp_path / "images" / "train"
    for i in (1, 2):
        (folder / f"p0{i}.png").unlink()
        PICTURE.save(folder / f"p0{i}.jpg", exif=turned(3))
    (folder / "p03.png").unlink()
    PICTURE.save(folder / "p03.gif", save_all=True, append_images=OTHERS)
    (folder / "p04.png").unlink()
    Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 16).save(folder / "p04.png")
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(tmp_path / "masks" / "val" / "p00.png")
    config = parse(
        [f"--machine.root={tmp_path}", "--model.num_classes=3"], str(CONFIGS / "folder.py")
    )
    open_sources(config, device_mesh((8, 1, 1)))
    lines = capsys.readouterr().err.splitlines()[1:]  # the first is on the layout
    expected = [
        r"no mask holds class 0 \('grey'\): if ids start at 1",
        r"p01\.jpg: EXIF orientation 3.*exif_upright=True \(2 of 7 samples\)",
        r"p03\.gif: the file holds 3 frames.*\(1 of 7 samples\)",
        r"val/p00\.png: every pixel of the mask is ignored.*\(1 of 7 samples\)",
        r"deeplab check-data.* reads them all$",
    ]
    for pattern, line in zip(expected, lines, strict=True):
        assert re.search(pattern, line)
    write_squares(tmp_path / "good", {"train": 2, "val": 1})
    sources = {"train": open_folder(str(tmp_path / "good"), "train")}
    capsys.readouterr()
    checks.warn_of_samples(sources, config)
    assert capsys.readouterr().err == ""


def test_exif_is_warned_of_where_no_size_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """And once the setting is made, no more; it is named, but not to be pasted."""
    write_squares(tmp_path, {"train": 4, "val": 1})
    folder = tmp_path / "images" / "train"
    upright = Image.fromarray(np.rot90(IMAGE))  # its mask is drawn as EXIF shows it
    square = Image.fromarray(IMAGE[:40, :40])
    Image.fromarray(LABEL[:40, :40]).save(tmp_path / "masks" / "train" / "p02.png")
    for i, (image, orientation) in enumerate([(PICTURE, 6), (upright, 6), (square, 6)]):
        (folder / f"p0{i}.png").unlink()
        image.save(folder / f"p0{i}.jpg", exif=turned(orientation))
    assert run(tmp_path, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "warnings: 1\n     1  EXIF orientation 6: " in out and f"- {folder}/p02.jpg" in out
    assert "if not, set --data.exif_upright=True" in out and "--data.exif" not in suggestions(out)
    assert "smallest 40 x 40, median 40 x 56, largest 40 x 56" in out  # as they are read
    assert run(tmp_path, tmp_path / "out", "--data.exif_upright=True") == 0
    assert "warnings: none" in capsys.readouterr().out


def test_masks_of_which_nothing_is_learnt_are_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 2, "val": 1})
    rewrite_masks(tmp_path, lambda label: np.full_like(label, 255))
    assert run(tmp_path, tmp_path / "out") == 1
    assert "every pixel is ignored\n        - all masks" in capsys.readouterr().out


def test_the_out_folder_is_tried_before_the_reading(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 1, "val": 1})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out = .*file: that is a file; name a folder"):
        run(tmp_path, tmp_path / "file")
    assert "reading" not in capsys.readouterr().err


def test_what_concerns_all_images_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_squares(tmp_path, {"train": 3, "val": 3})
    for mask in (tmp_path / "masks" / "train").iterdir():
        label = np.array(Image.open(mask))
        Image.fromarray(np.where(label == 2, 0, label).astype(np.uint8)).save(mask)
    assert run(tmp_path, tmp_path / "out") == 0  # warnings alone
    out = capsys.readouterr().out
    assert "these classes never occur in train\n        - blue" in out


def test_a_folder_without_a_sound_image_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 2, "val": 1})
    for image in (tmp_path / "images").rglob("*.png"):
        image.unlink()
        image.symlink_to("nowhere.png")
    assert run(tmp_path, tmp_path / "out") == 1
    out = capsys.readouterr().out
    assert "train: 2 images, 0 of them sound" in out and "suggestions: none" in out
    assert "3  the file cannot be read (No such file or directory)" in out


def test_records_of_a_prepared_data_set_are_named_by_their_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", voc.LISTS):
        (folder / name).mkdir(parents=True)
    for i in range(4):
        image, label = square_image(i)
        data = encode(image, "JPEG")
        (folder / "JPEGImages" / f"p{i}.jpg").write_bytes(data[:-200] if i == 1 else data)
        (folder / "SegmentationClass" / f"p{i}.png").write_bytes(encode(palette(label, COLORS)))
    (folder / voc.LISTS / "train.txt").write_text("p0\np1\np2\n")
    (folder / voc.LISTS / "val.txt").write_text("p2\np3\n")
    arguments = (
        f"--machine.root={tmp_path} --machine.prepared_dir={tmp_path}/tfds --out={tmp_path}/out"
    )
    with pytest.raises(SystemExit):
        cli.check_data(
            [f"--config={CONFIGS}/voc.py", "--data.train_split=train", *arguments.split()]
        )
    assert "train: 3 images, 2 of them sound" in capsys.readouterr().out
    text = (tmp_path / "out" / "problems.txt").read_text()
    assert "train  p1: not a readable image" in text
    assert "train  p2 (train) = p2 (val): the same image, byte for byte, in train and val" in text
    assert "train  cat: these classes never occur in train" in text


def test_images_of_very_different_sizes_are_better_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_squares(tmp_path, {"train": 2, "val": 3})
    for kind, array in (("images", np.zeros((200, 300, 3))), ("masks", np.zeros((200, 300)))):
        file = tmp_path / kind / "val" / "p00.png"
        Image.fromarray(array.astype(np.uint8)).save(file)
    assert run(tmp_path, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "smallest 40 x 56, median 40 x 56, largest 200 x 300, by side" in out
    assert "--task.resize=fit --task.eval_size 49 65" in out
    advised = ("--task.resize=fit", "--task.eval_size", "49", "65")
    assert run(tmp_path, tmp_path / "out", *advised) == 0


def test_a_background_that_the_list_lacks_is_kept_in_the_settings(tmp_path: Path) -> None:
    write_squares(tmp_path, {"train": 3, "val": 2})
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    assert (
        run(tmp_path, tmp_path / "out", "--model.num_classes=None", "--data.zero=background") == 0
    )
    source = open_split(load_json(tmp_path / "out" / "data.json"), "train")
    assert source.class_names == ("background", "red", "blue")
