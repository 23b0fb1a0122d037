"""Files from the web: whole or not at all, no larger than told, the same as the first time."""

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

from deeplab_jax.errors import UserError
from deeplab_jax.files import locked, writable_folder, write_atomically
from deeplab_jax.progress import Ticker
from deeplab_jax.weights.hub import one_error

TRIES = 5  # each goes on where the one before was cut
PAUSE = 0.5  # seconds, times the tries before
SECONDS = 60.0  # without a byte: the connection is dead
BLOCK = 2**20
CHECKSUMS = "checksums.json"  # beside the files: sha256 by name
HUB_FILE = "model.safetensors"
FAULTS = (urllib.error.URLError, http.client.HTTPException, OSError)


def download(url: str, folder: Path, most_bytes: int) -> Path:
    """The file of a URL in a folder: the one that is there, or else downloaded.

    What was cut is gone on with, now or at the next call. The file takes its name when it is
    complete and, where it has been there before, has the checksum that it had then. Without a
    network a user may put it there.

    Raises:
      UserError: it cannot be had, with the URL and where it may be put; or it is not what it was.
    """
    name = url.rpartition("/")[2]
    file = writable_folder(folder, "the folder of weights") / name
    with locked(folder / f".{name}.lock", wait=True):
        if not file.is_file():
            part = folder / f"{name}.part"
            _fetch(url, part, most_bytes)
            _check_kind(part, url)
            os.replace(part, file)
        _compare(file)
    return file


def download_from_hub(repository: str, folder: Path, most_bytes: int) -> Path:
    """model.safetensors of a repository of the Hugging Face Hub, in a folder by its name.

    As `download`, but by huggingface_hub, with its settings (HF_ENDPOINT, HF_TOKEN, proxies).

    Raises:
      UserError: it cannot be had, with the URL and where it may be put; or it is not what it was.
    """
    name = f"{repository.rpartition('/')[2]}.safetensors"
    file = writable_folder(folder, "the folder of weights") / name
    with locked(folder / f".{name}.lock", wait=True):
        if not file.is_file():
            _fetch_from_hub(repository, file, most_bytes)
        _compare(file)
    return file


def _fetch_from_hub(repository: str, file: Path, most_bytes: int) -> None:
    url = f"https://huggingface.co/{repository}/resolve/main/{HUB_FILE}"
    by_hand = f"or download {url} with a browser and put it there: {file}"
    staging = file.with_name(f".{file.name}.hub")  # kept: the next try goes on from it
    with one_error(f"{url}: cannot be had", by_hand):
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        size = get_hf_file_metadata(hf_hub_url(repository, HUB_FILE)).size
        if size is None or size > most_bytes:
            raise _too_large(url, size or most_bytes, most_bytes)
        os.replace(hf_hub_download(repository, HUB_FILE, local_dir=staging), file)
    shutil.rmtree(staging, ignore_errors=True)


def _fetch(url: str, part: Path, most_bytes: int) -> None:
    """Download into `part`, from its end on."""
    help_ = f"download {url} with a browser and put it there: {part.with_suffix('')}"
    for attempt in range(TRIES):
        try:
            if _go_on(url, part, most_bytes):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # more is there than the server has: another file
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise UserError(f"{url}: the server says {error.code} ({error.reason})") from error
            reason = f"the server says {error.code} ({error.reason})"
        except FAULTS as error:
            if isinstance(error, OSError) and error.errno in (28, 122):  # no room, over quota
                raise UserError(f"{part}: {error.strerror}; make room and try again") from error
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if not part.is_file():  # nobody answers
                break
        time.sleep(PAUSE * attempt)
    raise UserError(f"{url}: {reason}; the same command goes on. Without a network: {help_}")


def _go_on(url: str, part: Path, most_bytes: int) -> bool:
    """Append what follows the bytes that are there; whether the file is complete."""
    there = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "deeplab_jax"})
    if there:
        request.add_header("Range", f"bytes={there}-")
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        if "html" in answer.headers.get("Content-Type", ""):
            raise UserError(f"{url}: the answer is a web page, no file (a login, a proxy?)")
        if answer.status != 206:  # the server starts at the beginning
            there = 0
        rest = answer.headers.get("Content-Length")
        total = there + int(rest) if rest and rest.isdigit() else None
        if total is not None and total > most_bytes:
            raise _too_large(url, total, most_bytes)
        with part.open("ab") as file:
            file.truncate(there)
            done = _copy(answer, file, url, there, total, most_bytes)
    return total is None or done == total


def _copy(answer: Any, file: IO[bytes], url: str, there: int, total: int | None, most: int) -> int:
    """Write the answer's bytes as they come; how many the file then has."""
    done, shown = there, -(-(total or most) // BLOCK)
    with Ticker(url.rpartition("/")[2], shown, there // BLOCK, unit="MB") as ticker:
        while block := answer.read(BLOCK):
            done += len(block)
            if done > most:
                raise _too_large(url, done, most)
            file.write(block)
            ticker.tick(min(shown, -(-done // BLOCK)))
    return done


def _too_large(url: str, size: int, most: int) -> UserError:
    return UserError(
        f"{url}: {size / 1e6:.0f} MB or more; expected are at most {most / 1e6:.0f} MB"
    )


def _check_kind(part: Path, url: str) -> None:
    """Raise UserError where an archive is none, and throw it away."""
    with part.open("rb") as file:
        start = file.read(2)
    if url.endswith((".tar.gz", ".tgz")) and start != b"\x1f\x8b":
        part.unlink()
        raise UserError(f"{url}: what the server gave is no .tar.gz")


def _compare(file: Path) -> None:
    """Note a file's checksum the first time; raise UserError where it has become another."""
    listed = file.with_name(CHECKSUMS)
    try:
        known = json.loads(listed.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if known.setdefault(file.name, found) != found:
        raise UserError(
            f"{file}: its checksum is not the one that it had at first ({listed}): delete the file"
            " to download it again, or its line there if the change is known to be right"
        )
    write_atomically(listed, json.dumps(known, indent=1, sort_keys=True) + "\n")
