"""A headless Chromium, spoken to over a pipe in its own protocol: no driver is needed."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRAWN = "document.getElementById('panel')?.dataset.done"  # a page of attention
KEYS = {
    "ArrowDown": 40,
    "ArrowUp": 38,
    "ArrowLeft": 37,
    "ArrowRight": 39,
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
}


class Tab:
    """One page: it is opened, pointed at and asked, and notes every request and every error.

    Attributes:
        requests: the addresses that it asked for, but for its own file.
        errors: what the console was told as an error or warning, and exceptions.
    """

    def __init__(self, to: int, back: BinaryIO):
        self._to, self._back = to, back
        self._number = 0
        self._session: dict[str, str] = {}
        self.address = ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters):
        """The result of a command; what happens meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self._note(found)

    def _read(self) -> dict:
        data = bytearray()
        while (byte := self._back.read(1)) != b"\0":
            assert byte, "the browser has ended"
            data += byte
        return json.loads(data)

    def _note(self, event: dict) -> None:
        method, about = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent" and about["request"]["url"] != self.address:
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(about["exceptionDetails"])[:400])
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(about["args"])[:400])
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(about["entry"]["text"])

    def open(
        self, page: Path | str, width: int = 1000, height: int = 800, dark: bool = False, ready: str = DRAWN
    ) -> None:
        """Open a file or an address, and wait until some JavaScript says that it has drawn."""
        self.address = page if isinstance(page, str) else page.resolve().as_uri()
        self.requests.clear()
        self.errors.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = "dark" if dark else "light"
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=self.address)
        self.wait(f"location.href === {json.dumps(self.address)} && ({ready})")

    def ask(self, expression: str):
        """The value of some JavaScript."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20.0):
        """Its value, once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.ask(expression)):
            assert time.monotonic() < end, f"still not so: {expression}"
            time.sleep(0.02)
        return value

    def point(self, selector: str, click: bool = False) -> None:
        """Move the mouse to the middle of an element, and click there."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.ask(f"{element}.scrollIntoView({{block: 'center'}})")
        box = json.loads(self.ask(f"JSON.stringify({element}.getBoundingClientRect())"))
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **named, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser() -> Generator[Tab]:
    """A tab of a browser that ends with it; a test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: on Debian, apt-get install chromium")
    there, to = os.pipe()
    back, here = os.pipe()
    with tempfile.TemporaryDirectory() as profile:
        flags = (
            "--headless=new --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe --disable-sync "
            "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
            f"--user-data-dir={profile}"
        )
        command = f'exec "{CHROMIUM}" {flags} about:blank 3<&{there} 4>&{here} 2>/dev/null'
        process = subprocess.Popen(["/bin/bash", "-c", command], pass_fds=(there, here))
        os.close(there)
        os.close(here)
        try:
            with os.fdopen(back, "rb") as answers:
                yield Tab(to, answers)
        finally:
            os.close(to)  # it ends when nobody speaks to it
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
