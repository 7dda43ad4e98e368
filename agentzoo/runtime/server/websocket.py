"""One websocket: messages in and out within limits, counted."""

import asyncio
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web

from ..client.msgpack_arrays import malformed
from ..errors import ServingError
from .access_log import record
from .error_codes import REFUSALS
from .models import Version
from .service import Service

CLOSE_S = 1.0  # for saying goodbye
SMALL = 1 << 15  # bytes that an empty buffer takes without waiting; asyncio's high water is 64 KiB


@dataclass(eq=False)
class Channel:
    """A websocket that is open.

    Attributes:
        service: whose limits hold.
        protocol: "openpi" or "vla-eval".
        version: what it was opened for.
        limit: bytes of a message.
        keys: of the sessions that end with it.
        steps: how many observations were answered.
        is_answering: whether a message is being worked on.
        waiting_since: when the wait for a message began; infinite while there is none.
        closed: the code that was sent first, or 0.
        reason: why it was closed, where the server did so.
    """

    service: Service
    protocol: str
    version: Version
    limit: int
    socket: web.WebSocketResponse = field(init=False)
    keys: set[object] = field(default_factory=set[object])
    steps: int = 0
    is_answering: bool = False
    waiting_since: float = math.inf
    closed: int = 0
    reason: str = ""
    received: int = 0
    sent: int = 0
    _transport: asyncio.Transport | None = None
    _closing: asyncio.Future[None] | None = None
    opened: float = field(default_factory=time.monotonic)

    async def open(self, request: web.Request) -> None:
        """Accept the handshake."""
        # compression would cost more than it saves, and a bomb would unpack inside it
        self.socket = web.WebSocketResponse(
            compress=False, max_msg_size=self.limit, timeout=CLOSE_S, autoping=False
        )
        await self.socket.prepare(request)
        self._transport = request.transport
        self.service.channels.add(self)

    @property
    def is_open(self) -> bool:
        """Whether the handshake was accepted."""
        return self in self.service.channels

    async def receive(self) -> bytes | None:
        """The next message; None once the client has left or was closed.

        Raises:
            ServingError: "malformed", for a text message.
        """
        self.is_answering = False
        if self.service.is_ending:
            await self.close(WSCloseCode.GOING_AWAY, "the server ends")
            return None
        self.waiting_since = time.monotonic()
        message: WSMessage = await self.socket.receive()
        while message.type in (WSMsgType.PING, WSMsgType.PONG):
            if message.type is WSMsgType.PING:
                await self._in_time(self.socket.pong(message.data))
            message = await self.socket.receive()
        self.waiting_since = math.inf
        self.is_answering = True
        if message.type is WSMsgType.BINARY:
            content: bytes = message.data
            self.received += len(content)
            self.service.metrics.traffic(self.protocol, "received", len(content))
            return content
        if message.type is WSMsgType.TEXT:
            raise malformed("messages are binary msgpack; this one was text")
        if message.type is WSMsgType.ERROR:
            error = message.data
            code = error.code if isinstance(error, WebSocketError) else WSCloseCode.PROTOCOL_ERROR
            self.closed = self.closed or int(code)
            too_big = code == WSCloseCode.MESSAGE_TOO_BIG
            self.reason = "too_large" if too_big else "malformed"
            self.service.metrics.request(self.protocol, self.version, "refused", self.reason)
        return None

    async def send(self, content: bytes | str) -> None:
        """Send one message; a client that does not read in time is dropped.

        Raises:
            ConnectionError: if it has gone, or was dropped.
        """
        if len(content) < SMALL and not self._has_backlog():
            await self._write(content)  # nothing can keep it waiting; a timer costs 5 us
        else:
            await self._in_time(self._write(content))
        self.sent += len(content)
        self.service.metrics.traffic(self.protocol, "sent", len(content))

    async def _in_time(self, writing: Coroutine[None, None, None]) -> None:
        try:
            async with asyncio.timeout(self.service.settings.write_timeout_s):
                await writing
        except TimeoutError as error:
            self._drop()  # a goodbye would wait behind what was not read
            self.reason = "slow_client"
            self.service.metrics.request(self.protocol, self.version, "refused", self.reason)
            raise ConnectionError("the client did not read its answer in time") from error

    def _has_backlog(self) -> bool:
        return self._transport is None or self._transport.get_write_buffer_size() > 0

    async def _write(self, content: bytes | str) -> None:
        if isinstance(content, str):
            await self.socket.send_str(content)
        else:
            await self.socket.send_bytes(content)

    async def close(self, code: int, reason: str = "") -> None:
        """Close it; a client that does not take the goodbye is dropped without one."""
        self.closed = self.closed or int(code)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.socket.close(code=code, message=reason.encode()[:120])
        except TimeoutError:
            self._drop()

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def refuse(self, error: ServingError) -> bool:
        """Close it if the reason asks for that, and say whether it did."""
        code = REFUSALS[error.reason].close
        if code is not None:
            self.reason = error.reason
            await self.close(code, error.reason)
        return code is not None

    def expire(self) -> None:
        """Close it, since nothing came for long after its sessions have ended."""
        self.waiting_since, self.reason = math.inf, "idle"
        task = asyncio.ensure_future(self.close(WSCloseCode.GOING_AWAY, "idle"))
        self._closing = task  # kept, or the loop forgets it

    def forget_ended(self) -> None:
        """Drop the keys of sessions that have expired; a connection may outlive many of them."""
        self.keys = {key for key in self.keys if self.service.sessions.has(key)}

    def end(self, request: web.Request) -> None:
        """Free its sessions and write its line of the access log."""
        was_open = self.is_open
        self.service.channels.discard(self)
        for key in self.keys:
            self.service.sessions.end(key)
        if not was_open:
            return  # the request's own line says how it ended
        record(
            request,
            protocol=self.protocol,
            model=self.version.model,
            close=self.closed or self.socket.close_code,
            reason=self.reason,
            steps=self.steps,
            received=self.received,
            sent=self.sent,
            seconds=time.monotonic() - self.opened,
        )
