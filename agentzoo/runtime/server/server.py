"""The policy server: its start, its signals and its end."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from ..errors import AgentZooError, ConfigError
from .aiohttp_form import application
from .connections import Connections
from .models import Locate, local_folder
from .page.door import Page
from .service import Service
from .settings import ModelSettings, ServerSettings, check_names, read_models

if sys.platform == "win32":  # uvloop is not for it
    new_event_loop = asyncio.new_event_loop
else:
    from uvloop import new_event_loop

log = logging.getLogger(__name__)
http_log = logging.getLogger("agentzoo.http")  # gets a traceback for every broken request
http_log.setLevel(logging.CRITICAL)

SWEEP_S = 0.5  # between looks for idle sessions


class Server:
    """Policies on one port of this machine.

    Attributes:
        service: what it serves.
        port: what it listens on, once started.
        listener: the socket of that port; connections inherit the options that are set on it.
        page: the page's view of what is served, if there is a page.
    """

    def __init__(
        self,
        models: Sequence[ModelSettings],
        settings: ServerSettings | None = None,
        *,
        locate: Locate = local_folder,
        config: Path | None = None,
    ) -> None:
        """Begin with no socket open.

        Args:
            models: what to serve; the first is what paths without a name mean.
            settings: where to listen, and limits.
            locate: a model's source as a folder on this machine; may download.
            config: the models.toml that `models` came from, read again on SIGHUP.

        Raises:
            ConfigError: if there is no model, or two have one name.
        """
        if not models:
            raise ConfigError("there is no policy to serve; name a bundle or a Hub id")
        check_names(list(models))
        self.settings = settings or ServerSettings()
        self._names, self._locate, self._config = list(models), locate, config
        self.service: Service
        self.port = 0
        self.listener: socket.socket
        self.page: Page | None = None
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, then load; ready once every model's golden trace is checked.

        Raises:
            ConfigError: if the address cannot be bound.
            AgentZooError: if a model cannot be opened.
        """
        self.service = Service(self.settings, self._names, self._locate)
        self.listener = _bind(self.settings.host, self.settings.port)
        self.port = self.listener.getsockname()[1]
        self.page = Page(self.service) if self.settings.shows_page else None
        self._runner = web.AppRunner(
            application(self.service, self.page),
            access_log=None,
            shutdown_timeout=1.0,
            logger=http_log,
            # ours, which count and say why, come first: see connections.py
            keepalive_timeout=60 + 4 * self.settings.idle_timeout_s,
            auto_decompress=False,  # see request_body.py
        )
        await self._runner.setup()
        assert self._runner.server is not None
        connections = Connections(self._runner.server, self.settings, self.service.metrics)
        self.service.connections = connections
        loop = asyncio.get_running_loop()
        self._acceptor = await loop.create_server(connections, sock=self.listener)
        self._spawn(self._sweep())
        try:
            await self.service.load()
        except BaseException:
            await self._end()
            raise

    async def stop(self) -> bool:
        """Drain, then end; bounded by the settings' `drain_s` and `deadline_s`.

        Returns:
            Whether every step has come to its end.
        """
        await self.service.drain()
        return await self._end()

    async def run(self) -> bool:
        """Start, and end on SIGTERM or SIGINT; a second one ends at once. SIGHUP loads again.

        Returns:
            Whether nothing is computed or loaded any more.
        """
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # Windows has no such signals; Ctrl-C ends it there
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, self._signalled)
            loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))
        if not await self._started():
            log.info("told to end while loading")
            return False
        log.info("ready on http://%s:%d", self.settings.host, self.port)
        await self._stop.wait()
        return await self.stop()

    async def _started(self) -> bool:
        """Start, unless told to end before that is done."""
        starting = asyncio.ensure_future(self.start())
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if starting.done():
            await starting
            return True
        starting.cancel()  # what a thread is opening cannot be stopped; `serve` leaves it behind
        with suppress(asyncio.CancelledError):
            await starting
        return False

    async def reload(self) -> None:
        """Load every model again, from the models.toml as it is now; failures change nothing."""
        try:
            models = read_models(self._config) if self._config else ()
            await self.service.load(models)
        except AgentZooError as error:
            log.error("the reload failed and changed nothing: %s", error)
        except Exception:  # whatever a damaged file brings about, what is served goes on
            log.exception("the reload failed and changed nothing")

    def _signalled(self) -> None:
        if self._stop.is_set():
            os._exit(1)
        self._stop.set()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_S, self.settings.session_ttl_s / 2))
            self.service.expire()

    async def _end(self) -> bool:
        for task in list(self._tasks):
            task.cancel()
        if self.page is not None:
            await self.page.close()
        self._acceptor.close()
        await self._runner.cleanup()
        if self.service.connections is not None:
            await self.service.connections.end()
        return await self.service.close()


def serve(
    models: Sequence[ModelSettings],
    settings: ServerSettings | None = None,
    *,
    locate: Locate = local_folder,
    config: Path | None = None,
) -> None:
    """Serve policies until told to end; see `Server`.

    Raises:
        AgentZooError: if it cannot start.
    """
    # a tenth less between a request and its answer than asyncio's own loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        server = Server(models, settings, locate=locate, config=config)
        if not runner.run(server.run()):
            _leave(server)


def _leave(server: Server) -> None:
    """End although a thread is inside ONNX Runtime, which aborts a process that waits for none."""
    is_stuck = server.service.is_ending
    if is_stuck:
        log.error("a step did not come to its end and was left")
    logging.shutdown()
    os._exit(1 if is_stuck else 0)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror}); choose another --port"
        ) from error
