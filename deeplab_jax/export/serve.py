"""`deeplab serve`: a folder on this machine alone, as the page of a network wants it."""

import functools
import http.server
from http import HTTPStatus
from pathlib import Path
from typing import Any

from deeplab_jax.errors import UserError

HOST = "127.0.0.1"  # no other machine is answered
# Threads of WebAssembly share memory, which browsers allow only pages that let nothing else in.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # an export may write the folder again at any time
}


# Not the system's own table, which may lack WebAssembly or call JavaScript plain text.
TYPES = {
    "": "application/octet-stream",
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}


class Files(http.server.SimpleHTTPRequestHandler):
    """Answers with the files of one folder: no listings, nothing that a link leads to outside."""

    extensions_map = TYPES

    def send_head(self) -> Any:
        """The file of a path, if it lies in the folder."""
        if Path(self.translate_path(self.path)).resolve().is_relative_to(self.directory):
            return super().send_head()
        self.send_error(HTTPStatus.NOT_FOUND)
        return None

    def list_directory(self, path: Any) -> None:
        """No listing."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed of each request."""


def open_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of a folder, on a port or, for 0, a free one; `serve_forever` runs it.

    Raises:
      UserError: the folder has no index.html; the port is taken.
    """
    if not (folder / "index.html").is_file():
        raise UserError(f"{folder}: no index.html there; `deeplab export WEIGHTS --to web` writes")
    handler = functools.partial(Files, directory=str(folder.resolve()))
    try:
        return http.server.ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "it must be 0 to 65535"
        raise UserError(f"--port={port}: {why}; 0 takes one that is free") from error


def serve_folder(folder: Path, port: int) -> None:
    """Serve a folder until Ctrl-C, and print its address."""
    with open_server(folder, port) as server:
        print(f"http://localhost:{server.server_port}  (Ctrl-C ends)", flush=True)
        server.serve_forever()
