"""One websocket: messages in and out within limits, counted."""

import asyncio
import time
from dataclasses import dataclass, field

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from ..client.msgpack_arrays import malformed
from ..errors import ServingError
from .access_log import record
from .error_codes import REFUSALS
from .service import Service

CLOSE_S = 1.0  # for saying goodbye
SMALL = 1 << 15  # bytes that an empty buffer takes without waiting; asyncio's high water is 64 KiB


@dataclass(eq=False)
class Channel:
    """A websocket that is open.

    Attributes:
        service: whose limits hold.
        protocol: "openpi" or "vla-eval".
        limit: bytes of a message.
        keys: of the sessions that end with it.
        steps: how many observations were answered.
        is_answering: whether a message is being worked on.
    """

    service: Service
    protocol: str
    limit: int
    socket: web.WebSocketResponse = field(init=False)
    keys: set[object] = field(default_factory=set[object])
    steps: int = 0
    is_answering: bool = False
    received: int = 0
    sent: int = 0
    _transport: asyncio.Transport | None = None
    opened: float = field(default_factory=time.monotonic)

    async def open(self, request: web.Request) -> None:
        """Accept the handshake."""
        # compression would cost more than it saves, and a bomb would unpack inside it
        self.socket = web.WebSocketResponse(
            compress=False, max_msg_size=self.limit, timeout=CLOSE_S, autoping=True
        )
        await self.socket.prepare(request)
        self._transport = request.transport
        self.service.channels.add(self)

    async def receive(self) -> bytes | None:
        """The next message; None once the client has left or was closed.

        Raises:
            ServingError: "malformed", for a text message.
        """
        self.is_answering = False
        if self.service.is_ending:
            await self.close(WSCloseCode.GOING_AWAY, "the server ends")
            return None
        message: WSMessage = await self.socket.receive()
        self.is_answering = True
        if message.type is WSMsgType.BINARY:
            content: bytes = message.data
            self.received += len(content)
            self.service.metrics.traffic(self.protocol, "received", len(content))
            return content
        if message.type is WSMsgType.TEXT:
            raise malformed("messages are binary msgpack; this one was text")
        if message.type is WSMsgType.ERROR:
            self.service.metrics.request(self.protocol, None, "refused", self._reason())
        return None

    async def send(self, content: bytes | str) -> None:
        """Send one message; a client that does not read in time is dropped.

        Raises:
            ConnectionError: if it has gone, or was dropped.
        """
        try:
            if len(content) < SMALL and not self._has_backlog():
                await self._write(content)  # nothing can keep it waiting; a timer costs 5 us
            else:
                async with asyncio.timeout(self.service.settings.write_timeout_s):
                    await self._write(content)
        except TimeoutError as error:
            self._drop()  # a goodbye would wait behind what was not read
            self.service.metrics.request(self.protocol, None, "refused", "slow_client")
            raise ConnectionError("the client did not read its answer in time") from error
        self.sent += len(content)
        self.service.metrics.traffic(self.protocol, "sent", len(content))

    def _has_backlog(self) -> bool:
        return self._transport is None or self._transport.get_write_buffer_size() > 0

    async def _write(self, content: bytes | str) -> None:
        if isinstance(content, str):
            await self.socket.send_str(content)
        else:
            await self.socket.send_bytes(content)

    async def close(self, code: int, reason: str = "") -> None:
        """Close it; a client that does not take the goodbye is dropped without one."""
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
            await self.close(code, error.reason)
        return code is not None

    def forget_ended(self) -> None:
        """Drop the keys of sessions that have expired; a connection may outlive many of them."""
        self.keys = {key for key in self.keys if self.service.sessions.has(key)}

    def end(self, request: web.Request) -> None:
        """Free its sessions and write its line of the access log."""
        self.service.channels.discard(self)
        for key in self.keys:
            self.service.sessions.end(key)
        record(
            request,
            protocol=self.protocol,
            close=self.socket.close_code,
            steps=self.steps,
            received=self.received,
            sent=self.sent,
            seconds=time.monotonic() - self.opened,
        )

    def _reason(self) -> str:
        too_big = self.socket.close_code == WSCloseCode.MESSAGE_TOO_BIG
        return "too_large" if too_big else "malformed"
