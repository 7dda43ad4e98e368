"""A server on loopback, in a thread of the test's own process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentzoo.runtime.server import ModelSettings, Server, ServerSettings
from agentzoo.runtime.server.server import new_event_loop


class Live:
    """A running server and the loop it runs in."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop
        self.service = server.service
        self.ws = f"ws://127.0.0.1:{server.port}"
        self.http = f"http://127.0.0.1:{server.port}"

    def call(self, coroutine: Any) -> Any:
        """Run something in the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as Prometheus reads them."""

        async def text() -> str:
            self.service.observe()
            return self.service.metrics.text().decode()

        lines = [line for line in self.call(text()).splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@contextmanager
def serving(
    *folders: Path, models: list[ModelSettings] | None = None, locate: Any = None, **settings: Any
) -> Iterator[Live]:
    """A server of bundles, called a, b, ... unless `models` says otherwise, on a free port."""
    named = models or [
        ModelSettings(name=chr(ord("a") + i), source=str(folder), provider="cpu")
        for i, folder in enumerate(folders)
    ]
    loop = new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server")
    thread.start()

    async def start() -> Server:
        options = {"locate": locate} if locate else {}
        server = Server(named, ServerSettings(port=0, drain_s=0.0, **settings), **options)
        await server.start()
        return server

    def wait(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    try:
        server = wait(start())
        try:
            yield Live(server, loop)
        finally:
            wait(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
