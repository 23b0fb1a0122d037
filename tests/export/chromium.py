"""Headless Chromium, driven by the DevTools protocol over a pipe."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--no-first-run", "--hide-scrollbars")
# The browser reads commands from descriptor 3 and writes answers to 4.
PIPED = """import os, sys
ends = [os.dup(int(end)) for end in sys.argv[1:3]]
[os.dup2(end, at) for end, at in zip(map(os.dup, ends), (3, 4))]
os.execv(sys.argv[3], sys.argv[3:])"""


class Page:
    """A page of a browser of its own, which leaving the `with` ends."""

    def __init__(self, profile: Path, *flags: str) -> None:
        (command, self._commands), (self._answers, answer) = os.pipe(), os.pipe()
        told = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", *flags]
        self._browser = subprocess.Popen(
            [sys.executable, "-c", PIPED, str(command), str(answer), str(CHROMIUM), *told],
            pass_fds=(command, answer),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command)
        os.close(answer)
        self._buffer, self._session, self._last = b"", "", 0
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.kill()
        self._browser.wait()
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **arguments: Any) -> Any:
        """The answer to a command; uncaught errors of the page are noted."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": arguments}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _read(self) -> Any:
        while b"\0" not in self._buffer:
            part = os.read(self._answers, 2**20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"])[:600])
        return message

    def run(self, script: str) -> Any:
        """The value of an expression on the page, awaited."""
        told = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", **told)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 120) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                text = self.run("document.body.innerText")
                raise TimeoutError(f"{condition}; the page says {text!r}; {self.errors}")
            time.sleep(0.1)

    def open(self, address: str) -> None:
        for url in ("about:blank", address):  # so that it is seen when the old page is gone
            self.call("Page.navigate", url=url)
            blank = "===" if url == "about:blank" else "!=="
            loaded = "document.readyState === 'complete'"
            self.wait(f"location.href {blank} 'about:blank' && {loaded}")

    def drop(self, file: Path) -> None:
        """Drag a file onto the middle of the page and let it go."""
        x, y = self.run("[innerWidth / 2, innerHeight / 2]")
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screenshot(self, file: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))
