"""Every TCP connection of a server: how many there are, and how long each may keep it waiting.

A connection costs a file, and a process has only so many. One that sends no request, or never reads
its answers, is closed after a time. Where there are as many as there may be, a newcomer takes the
place of whoever has waited longest without a request; where all are at work, a few more are let in
who may ask for the server's health and nothing else.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from typing import Literal, cast

from aiohttp import web

from .access_log import record_connection
from .metrics import Metrics
from .settings import ServerSettings

if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

RESERVE = 16  # connections beyond the limit, for health checks
FILES = 128  # for all else: models, logs, libraries
FLUSH_S = 1.0  # for the last answers of a server that ends
POLL_S = 0.02
Reason = Literal["silent", "slow_headers", "idle", "slow_client", "evicted", "full"]


class ClientConnection(asyncio.Protocol):
    """One TCP connection, in front of the HTTP protocol that speaks on it.

    Attributes:
        is_extra: whether it was let in beyond the limit.
        is_busy: whether a request is being answered; a websocket is one for as long as it lives.
        since: when that began, or the wait for a request.
    """

    def __init__(self, inner: web.RequestHandler, all_: "Connections") -> None:
        """Begin unconnected."""
        self.inner, self._all = inner, all_
        self.is_extra = self.is_busy = self._has_asked = self._has_part = False
        self.opened = self.since = time.monotonic()
        self._backlog_since: float | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or not."""
        self._transport = cast(asyncio.Transport, transport)
        self.inner.connection_made(transport)
        self._all.enter(self)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        if not self.is_busy and not self._has_part:
            self._has_part, self.since = True, time.monotonic()
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        """The other side sends nothing more."""
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        """Note that its answers are not being read."""
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Note that its answers are being read again."""
        self.inner.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave the others: the connection has gone."""
        self._all.leave(self)
        self.inner.connection_lost(exc)

    def begin(self) -> None:
        """A request has come."""
        self.is_busy = self._has_asked = True
        self._has_part = False

    def end(self) -> None:
        """Note that its request is answered."""
        self.is_busy, self.since = False, time.monotonic()

    def overdue(self, settings: ServerSettings, now: float) -> Reason | None:
        """Reason to close it, if there is one."""
        transport = self._transport
        if transport is None or not transport.get_write_buffer_size():
            self._backlog_since = None
        elif self._backlog_since is None:
            self._backlog_since = now
        elif now - self._backlog_since > settings.write_timeout_s:
            return "slow_client"
        if self.is_busy:
            return None
        waited = now - self.since
        if self._has_part or not self._has_asked:
            late = waited > settings.header_timeout_s
            return ("slow_headers" if self._has_part else "silent") if late else None
        return "idle" if waited > settings.idle_timeout_s else None

    def abort(self) -> None:
        """Close it at once, with what it has not read."""
        if self._transport is not None:
            self._transport.abort()

    def drop(self, reason: Reason) -> None:
        """Close it at once, and say so in the log and the metrics."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._all.metrics.dropped.labels(reason).inc()
        peer = transport.get_extra_info("peername")
        seconds = time.monotonic() - self.opened
        record_connection(str(peer[0]) if peer else "", reason, seconds)
        transport.abort()


class Connections:
    """All connections of a server; makes one for each that is accepted.

    Attributes:
        settings: the limits.
        metrics: what is counted.
    """

    def __init__(
        self, make: Callable[[], web.RequestHandler], settings: ServerSettings, metrics: Metrics
    ) -> None:
        """Make room for files, as far as the system lets.

        Args:
            make: the HTTP protocol for one connection.
            settings: the limits.
            metrics: what is counted.
        """
        self.settings, self.metrics, self._make = settings, metrics, make
        self.limit = _with_files(settings.connection_limit)
        self._open: dict[web.RequestHandler, ClientConnection] = {}

    def __call__(self) -> ClientConnection:
        """Make a connection for one that was accepted."""
        return ClientConnection(self._make(), self)

    def __len__(self) -> int:
        """Number of open ones."""
        return len(self._open)

    def of(self, request: web.Request) -> ClientConnection | None:
        """Connection of a request; None once it has gone."""
        return self._open.get(request.protocol)

    def enter(self, one: ClientConnection) -> None:
        """Make room for it, or let it in for health alone, or close it."""
        if len(self._open) >= self.limit:
            waiting = [other for other in self._open.values() if not other.is_busy]
            if waiting:
                min(waiting, key=lambda other: other.since).drop("evicted")
            elif len(self._open) >= self.limit + RESERVE:
                one.drop("full")
            one.is_extra = not waiting
        self._open[one.inner] = one

    def leave(self, one: ClientConnection) -> None:
        """Forget a connection that has gone."""
        self._open.pop(one.inner, None)

    async def end(self) -> None:
        """Let go of all: closing may wait for a client that reads no answer."""
        limit = time.monotonic() + FLUSH_S
        while self._open and time.monotonic() < limit:
            await asyncio.sleep(POLL_S)
        for one in list(self._open.values()):
            one.abort()

    def sweep(self) -> None:
        """Close those that have kept the server waiting for too long; called now and then."""
        now = time.monotonic()
        for one in list(self._open.values()):
            if (reason := one.overdue(self.settings, now)) is not None:
                one.drop(reason)


def _with_files(wanted: int) -> int:
    """Limit of connections, by the files that a process may open."""
    if sys.platform == "win32":
        return wanted
    needed = wanted + RESERVE + FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    allowed = max(1, raised - RESERVE - FILES)
    if allowed < wanted:
        log.warning(
            "a process may open %d files here, so %d connections instead of %d; raise ulimit -n",
            raised, allowed, wanted,
        )  # fmt: skip
    return min(allowed, wanted)
