"""The server of a page: its headers, its types, and that nothing but the folder is served."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from deeplab_jax.errors import UserError
from deeplab_jax.export.serve import open_server


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The port of a running server of a folder."""
    with open_server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("around") / "page"
    (folder / "ort").mkdir(parents=True)
    for name in ("index.html", "app.js", "style.css", "model.json", "model.onnx", "ort/a.wasm"):
        (folder / name).write_text(name, encoding="utf-8")
    (folder.parent / "secret.txt").write_text("secret", encoding="utf-8")
    (folder / "way_out").symlink_to(folder.parent)
    with serving(folder) as port:
        yield port


def ask(port: int, path: str) -> HTTPResponse:
    """The answer to a path as it is given: nothing in it is tidied up on the way."""
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    return connection.getresponse()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/app.js?runtime=wasm", "text/javascript"),
        ("/style.css", "text/css"),
        ("/model.json", "application/json"),
        ("/model.onnx", "application/octet-stream"),
        ("/ort/a.wasm", "application/wasm"),
    ],
)
def test_files_have_their_types_and_the_headers_that_threads_need(
    port: int, path: str, kind: str
) -> None:
    answer = ask(port, path)
    assert (answer.status, answer.headers.get_content_type()) == (200, kind)
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/ort/..%2f..%2fsecret.txt",
        "//secret.txt",
        "/way_out/secret.txt",
        "/ort/",
        "/absent",
    ],
)
def test_nothing_else_is_served(port: int, path: str) -> None:
    answer = ask(port, path)
    assert answer.status == 404
    assert b"secret\n" not in answer.read() + b"\n"


def test_other_machines_are_not_answered(tmp_path: Path) -> None:
    (tmp_path / "index.html").touch()
    with open_server(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_what_cannot_be_served_is_said(tmp_path: Path, port: int) -> None:
    with pytest.raises(UserError, match="no index"):
        open_server(tmp_path, 0)
    (tmp_path / "index.html").touch()
    with pytest.raises(UserError, match=rf"--port={port}: .*in use"):
        open_server(tmp_path, port)
    with pytest.raises(UserError, match="0 to 65535"):
        open_server(tmp_path, 70000)
