"""One websocket: messages in and out within limits, counted."""

import asyncio
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field

from ..client.msgpack_arrays import malformed
from ..errors import ServingError
from .access_log import record
from .error_codes import REFUSALS
from .models import Version
from .service import GOING_AWAY, Service
from .transport import CLOSE_S, Call, Ping, Socket, SocketEnd

MESSAGE_TOO_BIG = 1009  # RFC 6455, section 7.4.1
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
    socket: Socket = field(init=False)
    keys: set[object] = field(default_factory=set[object])
    steps: int = 0
    is_answering: bool = False
    waiting_since: float = math.inf
    closed: int = 0
    reason: str = ""
    received: int = 0
    sent: int = 0
    _closing: asyncio.Future[None] | None = None
    opened: float = field(default_factory=time.monotonic)

    async def open(self, call: Call) -> None:
        """Accept the handshake."""
        self.socket = call.socket(self.limit)
        await self.socket.accept()
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
            await self.close(GOING_AWAY, "the server ends")
            return None
        self.waiting_since = time.monotonic()
        while isinstance(message := await self.socket.receive(), Ping):
            await self._in_time(message.answer())
        self.waiting_since = math.inf
        self.is_answering = True
        match message:
            case bytes():
                self.received += len(message)
                self.service.metrics.traffic(self.protocol, "received", len(message))
                return message
            case str():
                raise malformed("messages are binary msgpack; this one was text")
            case SocketEnd(code):
                if code:
                    self.closed = self.closed or code
                    self.reason = "too_large" if code == MESSAGE_TOO_BIG else "malformed"
                    self.service.metrics.request(
                        self.protocol, self.version, "refused", self.reason
                    )
                return None

    async def send(self, content: bytes | str) -> None:
        """Send one message; a client that does not read in time is dropped.

        Raises:
            ConnectionError: if it has gone, or was dropped.
        """
        if len(content) < SMALL and not self.socket.has_backlog:
            await self.socket.send(content)  # nothing can keep it waiting; a timer costs 5 us
        else:
            await self._in_time(self.socket.send(content))
        self.sent += len(content)
        self.service.metrics.traffic(self.protocol, "sent", len(content))

    async def _in_time(self, writing: Coroutine[None, None, None]) -> None:
        try:
            async with asyncio.timeout(self.service.settings.write_timeout_s):
                await writing
        except TimeoutError as error:
            self.socket.abort()  # a goodbye would wait behind what was not read
            self.reason = "slow_client"
            self.service.metrics.request(self.protocol, self.version, "refused", self.reason)
            raise ConnectionError("the client did not read its answer in time") from error

    async def close(self, code: int, reason: str = "") -> None:
        """Close it; a client that does not take the goodbye is dropped without one."""
        self.closed = self.closed or int(code)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.socket.close(int(code), reason)
        except TimeoutError:
            self.socket.abort()

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
        task = asyncio.ensure_future(self.close(GOING_AWAY, "idle"))
        self._closing = task  # kept, or the loop forgets it

    def forget_ended(self) -> None:
        """Drop the keys of sessions that have expired; a connection may outlive many of them."""
        self.keys = {key for key in self.keys if self.service.sessions.has(key)}

    def end(self, call: Call) -> None:
        """Free its sessions and write its line of the access log."""
        was_open = self.is_open
        self.service.channels.discard(self)
        for key in self.keys:
            self.service.sessions.end(key)
        if not was_open:
            return  # the request's own line says how it ended
        record(
            call,
            protocol=self.protocol,
            model=self.version.model,
            close=self.closed or self.socket.close_code,
            reason=self.reason,
            steps=self.steps,
            received=self.received,
            sent=self.sent,
            seconds=time.monotonic() - self.opened,
        )
