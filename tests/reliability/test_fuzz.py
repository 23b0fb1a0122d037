"""Thousands of damaged files: each is refused by a `UserError` or read right, in bounded time.

    python -m pytest tests/reliability -m reliability -n 0 -s

One input follows from one seed. A failure names it, and FUZZ_SEED=123 runs that one alone; after a
crash of the interpreter the file `seed` in the test's temporary folder has it.
"""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import resource
import signal
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import TINY_MODEL
from mutate import FLOATS, NUMBERS, TEXTS, Rng, damage, damage_json, pick, repair_png
from PIL import Image
from synthetic import random_variables

from deeplab_jax import Config, UserError
from deeplab_jax.config import TaskConfig, flatten, from_dict, load_json, override, to_dict
from deeplab_jax.data.decode import decode_image, image_size
from deeplab_jax.data.masks import plain_code, read_mask
from deeplab_jax.models.build import abstract_variables
from deeplab_jax.weights import from_tf_variables, to_tf_variables
from deeplab_jax.weights.files import Weights, load_weights, save_weights
from deeplab_jax.weights.readers import extract_checkpoint, read_arrays

pytestmark = pytest.mark.reliability

SEEDS = [int(os.environ["FUZZ_SEED"])] if "FUZZ_SEED" in os.environ else range(2500)
SECONDS = 30.0  # that one input may take, on a busy machine


class Hang(BaseException):
    """Not an Exception: the decoder takes every one of those for a broken image."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(attempt: Callable[[Rng], None], folder: Path, megabytes: float) -> None:
    """Try every seed; `attempt` asserts what holds of an input that is accepted."""
    with contextlib.suppress(OSError):  # Linux: the peak is counted from here
        Path("/proc/self/clear_refs").write_text("5")
    refused, worst, slowest, before = 0, 0.0, 0, peak_megabytes()
    for seed in SEEDS:
        (folder / "seed").write_text(str(seed))
        start = time.perf_counter()
        try:
            with time_limit(SECONDS):
                attempt(np.random.default_rng(seed))
        except UserError:
            refused += 1
        except (Exception, Hang, SystemExit) as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        seconds = time.perf_counter() - start
        worst, slowest = max((worst, slowest), (seconds, seed))
    growth = peak_megabytes() - before
    print(
        f"\n{attempt.__name__}: {len(SEEDS)} inputs, {refused} refused,"
        f" {len(SEEDS) - refused} accepted, slowest {worst:.2f} s (seed {slowest}),"
        f" memory grew by {growth:.0f} MB"
    )
    assert worst < SECONDS, f"seed {slowest} took {worst:.1f} s"
    assert growth < megabytes, f"memory grew by {growth:.0f} MB, more than {megabytes}"


# Images and masks

MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"RIFF\xff\xff\0\0WEBPVP8 ",
    b"BM",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"P6 9 9 255\n",
)


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Adam7, which PIL reads and does not write; pixels u8 [h w]."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + b"crc?"

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    rows = [
        b"\0" + row.tobytes()
        for top, left, down, right in (*passes, (1, 0, 2, 1))
        for row in pixels[top::down, left::right]
    ]
    header = struct.pack(">IIBBBBB", *pixels.shape[::-1], 8, 0, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return repair_png(MAGIC[0] + body + chunk(b"IEND", b""))


@cache
def samples() -> list[bytes]:
    """Small images of every format and mode that PIL writes, some of several frames."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (24, 37, 3)).astype(np.uint8)
    base, gray = Image.fromarray(rgb), Image.fromarray(rgb[..., 0])
    deep = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [base.rotate(90), base]}
    cases: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((base.convert(mode), "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        (base.convert("P"), "PNG", {"transparency": b"\x00\x80"}),
        (base, "PNG", {"exif": turned}),
        (deep, "PNG", {}),
        *((base.convert(mode), "JPEG", {}) for mode in ("L", "RGB", "CMYK")),
        (base, "JPEG", {"progressive": True, "exif": turned}),
        *((base, "WEBP", {"lossless": lossless}) for lossless in (False, True)),
        (base.convert("RGBA"), "WEBP", {}),
        *((base.convert(mode), "BMP", {}) for mode in ("1", "L", "P", "RGB")),
        *((base.convert(mode), "GIF", {}) for mode in ("L", "P", "RGB")),
        *((base.convert(mode), "PPM", {}) for mode in ("1", "L", "RGB", "F")),
        (deep, "PPM", {}),
        *((base, format, frames) for format in ("PNG", "WEBP", "GIF", "TIFF", "MPO")),
        *((base.convert(mode), "TIFF", {}) for mode in ("1", "L", "P", "RGB", "CMYK", "F", "I")),
        (deep, "TIFF", {"exif": turned}),
        *(
            (base, "TIFF", {"compression": kind})
            for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        (gray.convert("1"), "TIFF", {"compression": "group4"}),
    ]
    encoded = [encode(*case) for case in cases] + [interlaced_png(rgb[..., 0])]
    for data in encoded:  # they are all sound
        if Image.open(io.BytesIO(data)).mode != "F":
            assert decode_image(data, "seed").shape == rgb.shape
    return encoded


@cache
def largest() -> bytes:
    """A few kilobytes that are 64 megapixels."""
    return encode(Image.new("P", (8192, 8192)), "PNG", {"transparency": b"\x00\x80"})


def encode(image: Image.Image, format: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def damaged_image(rng: Rng) -> bytes:
    """A damaged image, half of the PNGs with right checksums; seldom noise behind a magic."""
    if rng.random() < 0.1:
        return pick(MAGIC, rng) + rng.bytes(int(rng.integers(300)))
    data = damage(largest() if rng.random() < 0.02 else pick(samples(), rng), rng)
    return repair_png(data) if data.startswith(MAGIC[0]) and rng.random() < 0.5 else data


def images(rng: Rng) -> None:
    data, exif = damaged_image(rng), bool(rng.integers(2))
    image = decode_image(data, "x", exif=exif)
    size = image_size(data, "x")
    assert image.dtype == np.uint8
    assert image.shape in ((*size, 3), (*size[::-1], 3) if exif else (*size, 3))


def masks(rng: Rng) -> None:
    data = damaged_image(rng)
    label = plain_code(255).ids(read_mask(data, "x"), "x")
    assert label.dtype == np.uint8 and label.shape == image_size(data, "x")


@pytest.mark.parametrize("attempt", [images, masks])
def test_damaged_images(attempt: Callable[[Rng], None], tmp_path: Path) -> None:
    """64 megapixels, the most that is decoded, take 192 MB as RGB, and 256 MB each inside PIL."""
    samples(), largest()
    fuzz(attempt, tmp_path, megabytes=1100)


# Configurations

CONFIG = dataclasses.replace(Config(), model=TINY_MODEL)


def damaged_json(tree: Any, rng: Rng) -> bytes:
    """Wrong in its values, or in its bytes; sometimes nested without end."""
    if rng.random() < 0.02:
        return pick((b"[", b'{"a":'), rng) * int(rng.choice([100, 10_000, 150_000]))
    for _ in range(int(rng.integers(1, 4))):
        tree = damage_json(tree, rng)
    text = json.dumps(tree, ensure_ascii=bool(rng.integers(2)))
    data = text.encode(errors="surrogatepass")
    return damage(data, rng) if rng.random() < 0.4 else data


def config_files(rng: Rng, file: Path) -> None:
    file.write_bytes(damaged_json(to_dict(CONFIG), rng))
    config = load_json(file)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


def command_lines(rng: Rng) -> None:
    """A `UserError`, or code 0 after --help."""
    fields = flatten(to_dict(CONFIG))
    arguments = []
    for _ in range(int(rng.integers(1, 4))):
        name = pick(list(fields), rng)
        name = name if rng.random() < 0.9 else pick([*TEXTS, name[1:], "help"], rng)
        values = pick((NUMBERS, FLOATS, TEXTS, (fields.get(name),), ("0.5 1 -2", "True")), rng)
        value = str(pick(values, rng)) if values is not NUMBERS else hex(pick(values, rng))
        arguments += pick(([f"--{name}={value}"], [f"--{name}", *value.split()]), rng)
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            config = override(CONFIG, arguments)
    except SystemExit as error:
        assert error.code in (0, 2) and "Traceback" not in output.getvalue()
        raise UserError(output.getvalue()) from error
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


def test_damaged_configurations(tmp_path: Path) -> None:
    def configs(rng: Rng) -> None:
        config_files(rng, tmp_path / "config.json")

    fuzz(configs, tmp_path, megabytes=200)


def test_wild_command_lines(tmp_path: Path) -> None:
    override(CONFIG, [])  # which reads the fields' help from the source
    fuzz(command_lines, tmp_path, megabytes=200)


# Weights


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights, and the same as .npz and as what looks like a checkpoint's .tar.gz."""
    root = tmp_path_factory.mktemp("sound")
    variables = random_variables(TINY_MODEL)
    task = TaskConfig(classes=("a", "b", "c"), colors=((0, 0, 0), (1, 2, 3), (4, 5, 6)))
    save_weights(root / "folder", Weights(TINY_MODEL, task, variables))
    arrays = to_tf_variables(variables, TINY_MODEL)
    np.savez(root / "tiny.npz", **arrays)
    with tarfile.open(root / "tiny.tar", "w") as tar:
        for name in ("a/model.ckpt.index", "a/model.ckpt.data-00000-of-00001", "a/" + "n" * 120):
            info = tarfile.TarInfo(name)
            info.size = 3000
            tar.addfile(info, io.BytesIO(bytes(3000)))
    return root


def same_shapes(variables: Any) -> bool:
    want = abstract_variables(TINY_MODEL)
    return jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, want)


def folders(rng: Rng, sound: Path, work: Path) -> None:
    """A folder of weights, one of whose files is damaged."""
    name = str(rng.choice(["model.safetensors", "model.json"], p=[0.7, 0.3]))
    for file in (sound / "folder").iterdir():
        (work / file.name).write_bytes(file.read_bytes())
    data = (work / name).read_bytes()
    if name != "model.safetensors":
        data = damaged_json(json.loads(data), rng)
    elif rng.random() < 0.5:  # of its header, whose length is right
        length = int.from_bytes(data[:8], "little")
        header = damaged_json(json.loads(data[8 : 8 + length]), rng)
        data = len(header).to_bytes(8, "little") + header + data[8 + length :]
    elif rng.random() < 0.5:  # of its values
        length = int.from_bytes(data[:8], "little")
        data = data[: 8 + length] + damage(data[8 + length :], rng)
    else:
        data = damage(data, rng)
    (work / name).write_bytes(data)
    weights = load_weights(work)
    if weights.model == TINY_MODEL:
        assert same_shapes(weights.variables) and len(weights.task.classes) == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights.variables))


def archives(rng: Rng, sound: Path, work: Path) -> None:
    """An .npz, damaged as it lies or in a member before it is packed."""
    data = (sound / "tiny.npz").read_bytes()
    data = damage(data, rng) if rng.random() < 0.5 else packed_again(data, rng)
    (work / "x.npz").write_bytes(data)
    arrays = read_arrays(str(work / "x.npz"))
    assert all(a.dtype.kind in "fiu" for a in arrays.values())
    assert same_shapes(from_tf_variables(arrays, TINY_MODEL))


def packed_again(data: bytes, rng: Rng) -> bytes:
    """One member of a zip damaged, more often in its header; or its names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = pick(old.namelist(), rng)
        for name in old.namelist():
            content, method = old.read(name), zipfile.ZIP_STORED
            if name == chosen:
                method = pick((0, 8, 12, 14), rng)
                head = int(rng.choice([128, len(content)]))
                content = damage(content[:head], rng) + content[head:]
                name = pick((name, name, name, "../" + name, "/etc/" + name, "x.txt"), rng)
            new.writestr(name, content, compress_type=method)
    return buffer.getvalue()


def tars(rng: Rng, sound: Path, work: Path) -> None:
    """A tar of what looks like a checkpoint, damaged before or after it is packed by gzip."""
    data = (sound / "tiny.tar").read_bytes()
    data = damage(data, rng) if rng.random() < 0.5 else repair_tar(damage(data[:4096], rng) + data)
    if rng.random() < 0.5:
        data = gzip.compress(data)
        data = damage(data, rng) if rng.random() < 0.5 else data
    (work / "x.tar.gz").write_bytes(data)
    inside = work / "inside"
    inside.mkdir()
    prefix = Path(extract_checkpoint(work / "x.tar.gz", inside))
    assert prefix.parent == inside and prefix.with_name(prefix.name + ".index").is_file()
    assert sum(f.stat().st_size for f in inside.iterdir()) <= 100 * len(data)


def repair_tar(data: bytes) -> bytes:
    """Every block's checksum made right, as if it were a header."""
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for block in blocks:
        if any(block[:100]):
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


@pytest.mark.parametrize("read", [folders, archives, tars])
def test_damaged_weights(
    read: Callable[[Rng, Path, Path], None], sound: Path, tmp_path: Path
) -> None:
    def weights(rng: Rng) -> None:
        work = tmp_path / "work"
        work.mkdir()
        try:
            read(rng, sound, work)
        finally:
            for file in sorted(work.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            work.rmdir()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["seed"]  # nothing outside

    weights.__name__ = read.__name__
    fuzz(weights, tmp_path, megabytes=300)
