"""Models of the Hugging Face Hub: there and back by huggingface_hub, and all that may be wrong.

A server on the loopback has the part of the Hub's interface that is asked.
"""

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import TINY_UNET
from synthetic import random_variables, square_image

import deeplab_jax
from deeplab_jax import UserError
from deeplab_jax.__main__ import main
from deeplab_jax.config import TaskConfig
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.weights.files import Weights, load_weights
from deeplab_jax.weights.hub import MOST, check_files

TASK = TaskConfig(classes=("a", "b", "c"), colors=((0, 0, 0), (1, 2, 3), (4, 5, 6)))


class Hub(BaseHTTPRequestHandler):
    """Models by name, each its files by name; what is asked for is counted."""

    models: ClassVar[dict[str, dict[str, bytes]]] = {}
    private: ClassVar[dict[str, bool]] = {}
    claims: ClassVar[dict[str, int]] = {}  # sizes of files that need not be theirs
    fetched: ClassVar[list[str]] = []
    down = False
    token = "hf_right"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: Any, code: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, code: int, kind: str, message: str) -> None:
        self.answer(b"", code, X_Error_Code=kind, X_Error_Message=message)

    def do_GET(self) -> None:
        api, *rest = self.path.partition("?")[0].strip("/").split("/")
        name = "/".join(rest[1:3]) if api == "api" else f"{api}/{rest[0]}"
        if self.down:
            return self.refuse(503, "", "Down")
        files = self.models.get(name)
        if files is None:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        at = rest[4] if api == "api" and len(rest) > 4 else "main"
        if at not in ("main", "v1", sha):
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        if api != "api":
            content, path = files[rest[-1]], rest[-1]
            if self.command == "GET":
                self.fetched.append(path)
            return self.answer(content, X_Repo_Commit=sha, ETag=f'"{hash(content):x}"')
        sizes = {path: self.claims.get(path, len(content)) for path, content in files.items()}
        if "tree" in rest:
            entries = [{"type": "file", "path": p, "size": n, "oid": p} for p, n in sizes.items()]
            return self.answer(entries)
        siblings = [{"rfilename": path, "size": size} for path, size in sizes.items()]
        self.answer({"id": name, "sha": sha, "siblings": siblings, "private": False})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.strip("/").split("/")
        if parts[1] == "validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            return self.refuse(401, "", "Invalid username or password.")
        if parts[1] == "repos":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.models.setdefault(name, {})
            self.private[name] = asked.get("visibility") == "private" or asked.get("private", False)
            return self.answer({"url": f"https://huggingface.co/{name}"})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            return self.answer({"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.models[name][line["value"]["path"]] = base64.b64decode(
                    line["value"]["content"]
                )
        url = f"https://huggingface.co/{name}/commit/0"
        self.answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(Hub, "down", False)
    for kept in (Hub.models, Hub.private, Hub.claims, Hub.fetched):
        kept.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = partial(library.HfApi, endpoint=f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("huggingface_hub.HfApi", client)
        yield Hub
        server.shutdown()


@pytest.fixture(scope="module")
def network() -> Predictor:
    return Predictor(Weights(TINY_UNET, TASK, random_variables(TINY_UNET)))


@pytest.fixture
def files(network: Predictor, tmp_path: Path) -> dict[str, bytes]:
    """What the Hub has of a model."""
    network.save_pretrained(tmp_path / "made")
    return {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}


def test_there_and_back(hub: type[Hub], network: Predictor) -> None:
    url = network.push_to_hub("alice/leaves", token=hub.token, licence="cc-by-4.0", private=True)
    assert url.endswith("alice/leaves") and hub.private == {"alice/leaves": True}
    assert sorted(hub.models["alice/leaves"]) == sorted(MOST)
    card = hub.models["alice/leaves"]["README.md"].decode()
    assert "license: cc-by-4.0" in card and 'from_pretrained("alice/leaves")' in card
    back, image = deeplab_jax.from_pretrained("alice/leaves"), square_image(0)[0]
    np.testing.assert_array_equal(back.predict(image), network.predict(image))
    assert (back.model, back.task) == (network.model, network.task)
    back.save_pretrained("here")
    assert Path("here/README.md").read_text() == card.replace("alice/leaves", "here")


def test_the_command(
    hub: type[Hub], files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    line = "deeplab push made alice/leaves --private --licence mit"
    monkeypatch.setattr(sys, "argv", line.split())
    main()
    sent = hub.models["alice/leaves"]
    assert sent["model.safetensors"] == files["model.safetensors"]
    assert hub.private["alice/leaves"] and b"license: mit" in sent["README.md"]


def test_nothing_else_is_fetched_and_no_file_twice(
    hub: type[Hub], files: dict[str, bytes], capsys: pytest.CaptureFixture
) -> None:
    others = ("pytorch_model.bin", "model.py", "sub/model.json", "model.safetensors.index.json")
    hub.models["a/b"] = files | dict.fromkeys(others, b"x")
    for name in ("a/b", "a/b", "a/b@v1"):
        assert load_weights(name)[:2] == (TINY_UNET, TASK)
    assert sorted(hub.fetched) == sorted(MOST)
    capsys.readouterr()
    hub.models.clear()
    hub.down = True
    assert load_weights("a/b")[:2] == (TINY_UNET, TASK)
    assert "a/b is what was fetched before: the Hugging Face Hub cannot" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"a/c: no such folder here; .*cannot be asked.*; or put"):
        load_weights("a/c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.safetensors": None, "x.bin": b""}, "has no model.safetensors; a pickle can run"),
        ({"model.json": None}, "has no model.json; download it: `deeplab convert model.safetens"),
        ({"model.json": None, "model.safetensors": None}, "has no model.json and no model.safet"),
        ({"model.json": b"{"}, "model.json: not a readable"),
        ({"model.json": b"[]"}, "model.json: format = None"),
        ({"model.safetensors": b"junk" * 9}, "model.safetensors: not a readable"),
    ],
)
def test_what_is_no_folder_of_weights(
    change: dict[str, bytes | None], message: str, hub: type[Hub], files: dict[str, bytes]
) -> None:
    hub.models["a/b"] = {k: v for k, v in (files | change).items() if v is not None}
    with pytest.raises(UserError, match=message):
        load_weights("a/b")


@pytest.mark.parametrize("name", MOST)
def test_what_is_too_large_is_not_fetched(
    name: str, hub: type[Hub], files: dict[str, bytes]
) -> None:
    hub.models["a/b"] = files
    hub.claims[name] = MOST[name] + 1
    with pytest.raises(UserError, match=rf"a/b: {name} on the Hub is [\d,]+ MB; at most"):
        load_weights("a/b")
    assert hub.fetched == []


def test_what_is_not_there(hub: type[Hub], files: dict[str, bytes]) -> None:
    hub.models["a/b"] = files
    with pytest.raises(UserError, match=r"a/c: no such folder here; no such model .*HF_"):
        load_weights("a/c")
    with pytest.raises(UserError, match=r"a/b@v2: .* no such revision"):
        deeplab_jax.from_pretrained("a/b", revision="v2")
    with pytest.raises(UserError, match=r"a--b/c: .*; or put the model's"):
        load_weights("a--b/c")


def test_a_folder_here_comes_first(hub: type[Hub], files: dict[str, bytes]) -> None:
    hub.models["made/leaves"] = files
    with pytest.raises(UserError, match=r"made/leaves: no model\.safetensors there"):
        load_weights("made/leaves")  # a slip of the pen


def test_nobody_is_logged_in(hub: type[Hub], network: Predictor) -> None:
    for token in (None, "hf_wrong"):
        with pytest.raises(UserError, match=r"a/b: nothing was sent; .*Invalid username.*hf auth"):
            network.push_to_hub("a/b", token=token)
    assert hub.models == {}


def test_an_evaluation_leaves_no_folder_of_the_name(
    hub: type[Hub], files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for the weights from then on."""
    hub.models["a/b"] = files
    outs = []
    work = "deeplab_jax.inference.results.evaluate_weights"
    monkeypatch.setattr(work, lambda weights, config, out, name, runtime: outs.append(out))
    monkeypatch.setattr(sys, "argv", ["deeplab", "evaluate", "--weights", "a/b"])
    main()
    assert outs == [Path("runs/evaluation-b")]


@pytest.mark.parametrize("name", ["leaves", "a/b/c", "a/b@v1", "a /b", ""])
def test_what_is_no_name(name: str, network: Predictor) -> None:
    with pytest.raises(UserError, match="is no name on the Hub, which is user/model"):
        network.push_to_hub(name)


def test_without_the_package(network: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (load_weights, network.push_to_hub):
        with pytest.raises(UserError, match=r"a/b: .*pip install huggingface_hub; "):
            ask("a/b")


def test_sizes_that_are_not_said_are_refused() -> None:
    with pytest.raises(UserError, match=r"a/b: model.json on the Hub is of unknown size"):
        check_files("a/b", {"model.json": None, "model.safetensors": 9})
