"""A real Chromium without a window, driven over the WebDriver protocol (W3C, June 2018)."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError, URLError

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference
KEYS = {"ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015"}
FLAGS = (
    "--headless",
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_S = 240.0  # a dream starts in a process of low priority, which two busy cores hold up


class Browser:
    """One window of Chromium, closed at the block's end."""

    def __init__(self, profile: Path, *, width: int = 1100, height: int = 900) -> None:
        self._profile, self._size = profile, (width, height)

    def __enter__(self) -> Self:
        assert CHROMIUM is not None
        assert DRIVER is not None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._process = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._base = f"http://127.0.0.1:{port}"
        until(self._is_up)
        flags = [*FLAGS, f"--user-data-dir={self._profile}"]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags, "binary": CHROMIUM},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{made['sessionId']}"
        self.resize(*self._size)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._process.terminate()
            self._process.wait(10)

    def resize(self, width: int, height: int) -> None:
        """Show pages as on a screen of this many pixels, a telephone's too.

        A window cannot be narrower than 500 pixels, so the screen is what is set.
        """
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call(
            "POST",
            "/goog/cdp/execute",
            {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics},
        )

    def open(self, url: str) -> None:
        """Load a page."""
        self._call("POST", "/url", {"url": url})

    def run(self, script: str, *args: object) -> Any:
        """Run a script, and give the value of its `return`."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def click(self, css: str) -> None:
        """Click an element as a person does."""
        self._call("POST", f"/element/{self._find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Type into an element."""
        self._call("POST", f"/element/{self._find(css)}/value", {"text": text})

    def text(self, css: str) -> str:
        """Text of an element."""
        return str(self._call("GET", f"/element/{self._find(css)}/text"))

    def key(self, name: str, *, down: bool) -> None:
        """Press a key, or let go of it."""
        action = {"type": "keyDown" if down else "keyUp", "value": KEYS.get(name, name)}
        self._call(
            "POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": [action]}]}
        )

    def screenshot(self, path: Path) -> Path:
        """The page as a PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))
        return path

    def complaints(self) -> list[str]:
        """Lines that the browser wrote to its console since it was asked last."""
        return [str(one["message"]) for one in self._call("POST", "/se/log", {"type": "browser"})]

    def wait(self, script: str, *args: object) -> Any:
        """Wait until a script gives something true, and give that."""
        return until(lambda: self.run(script, *args))

    def _find(self, css: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": css})
        return str(found[ELEMENT])

    def _is_up(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except URLError:
            return False

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._base + path,
            data,
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
                return json.load(reply)["value"]
        except HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.read().decode()[:500]}") from error


def until(condition: Callable[[], Any]) -> Any:
    """Wait until a condition is true, and return its value."""
    limit = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < limit, f"waited {PATIENCE_S:.0f} s in vain"
        time.sleep(0.05)
    return found
