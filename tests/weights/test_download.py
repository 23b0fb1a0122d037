"""Downloads from a server on the loopback that cuts, lies, and serves web pages."""

import contextlib
import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from deeplab_jax.errors import UserError
from deeplab_jax.weights.download import download

CONTENT = gzip.compress(np.random.default_rng(0).bytes(300_000), 1)
MOST = 10**6


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT in the manner that the path's folder says; counts what it is asked."""

    asked: ClassVar[list[str]] = []
    cut_after = 100_000

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        manner = self.path.split("/")[1]
        Server.asked.append(manner)
        if manner == "missing":
            self.send_error(404)
            return
        if manner == "busy" and Server.asked.count("busy") < 3:
            self.send_error(503)
            return
        begin = 0
        if (ranges := self.headers.get("Range")) and manner != "whole":
            begin = int(ranges.removeprefix("bytes=").rstrip("-"))
            if begin >= len(CONTENT):
                self.send_error(416)
                return
        body = b"<html>log in</html>" if manner in ("page", "liar") else CONTENT[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", "text/html" if manner == "page" else "application/gzip")
        size = {"huge": 10**10, "unknown": None}.get(manner, len(body))
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[: self.cut_after] if manner in ("cut", "whole") else body)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def forget() -> None:
    Server.asked.clear()


@pytest.mark.parametrize(
    ("manner", "asked"), [("plain", 1), ("cut", 4), ("unknown", 1), ("busy", 3)]
)
def test_a_file_arrives_whole(url: str, manner: str, asked: int, tmp_path: Path) -> None:
    file = download(f"{url}/{manner}/a.tar.gz", tmp_path, MOST)
    assert file.read_bytes() == CONTENT and len(Server.asked) == asked
    assert download(f"{url}/{manner}/a.tar.gz", tmp_path, MOST) == file
    assert len(Server.asked) == asked  # it is there
    assert not list(tmp_path.glob("*.part"))


def test_what_was_cut_is_gone_on_with_at_the_next_call(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz.part").write_bytes(CONTENT[:250_000])
    assert download(f"{url}/cut/a.tar.gz", tmp_path, MOST).read_bytes() == CONTENT
    assert len(Server.asked) == 1
    (tmp_path / "b.tar.gz.part").write_bytes(CONTENT + b"of another file")
    assert download(f"{url}/plain/b.tar.gz", tmp_path, MOST).read_bytes() == CONTENT


def test_a_server_that_cannot_go_on_starts_again_until_it_is_given_up(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"cut; the same command goes on\. Without a network: down"):
        download(f"{url}/whole/a.tar.gz", tmp_path, MOST)
    assert not (tmp_path / "a.tar.gz").exists()


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ("missing", "the server says 404"),
        ("huge", "10000 MB or more; expected are at most 1 MB"),
        ("page", "a web page, no file"),
        ("liar", r"no \.tar\.gz"),
    ],
)
def test_what_is_no_such_file_is_said_and_not_kept(
    url: str, manner: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        download(f"{url}/{manner}/a.tar.gz", tmp_path, MOST)
    assert not (tmp_path / "a.tar.gz").exists()


def test_without_a_network_the_url_and_the_place_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/a\.tar\.gz with .*a\.tar\.gz"):
        download("http://127.0.0.1:9/a.tar.gz", tmp_path, MOST)


def test_a_file_that_changed_is_refused(url: str, tmp_path: Path) -> None:
    file = download(f"{url}/plain/a.tar.gz", tmp_path, MOST)
    assert hashlib.sha256(CONTENT).hexdigest() in (tmp_path / "checksums.json").read_text()
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="its checksum is not the one that it had"):
        download(f"{url}/plain/a.tar.gz", tmp_path, MOST)
    file.unlink()
    assert download(f"{url}/plain/a.tar.gz", tmp_path, MOST) == file
