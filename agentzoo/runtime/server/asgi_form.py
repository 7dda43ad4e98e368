"""The transport for any ASGI server, one behind Ray Serve's proxies among them.

Heads, timeouts and the number of connections are that server's business, and it says nothing about
what a client has not read yet: the limits of `aiohttp_form` on these do not hold here.

Source: asgi.readthedocs.io, "HTTP & WebSocket ASGI Message Format" 2.5 and "Lifespan Protocol" 2.0.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, cast

from ..errors import AgentZooError
from .app import ROUTES, Routes, answer
from .service import Service
from .transport import HttpResponse, SocketEnd
from .websocket import MESSAGE_TOO_BIG

log = logging.getLogger(__name__)

NO_STATUS, ABNORMAL = 1005, 1006  # RFC 6455, section 7.4.1
NORMAL, VIOLATION = 1000, 1008
NO_CONTENT = 204
SWEEP_S = 0.5  # between looks for idle sessions
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiSocket:
    """A websocket of an ASGI server's; it answers pings by itself.

    Attributes:
        close_code: the code it was closed with; None while it is open.
    """

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        """Not accepted yet."""
        self.close_code: int | None = None
        self._receive, self._send, self._limit = receive, send, limit

    @property
    def has_backlog(self) -> bool:
        """An ASGI server does not say."""
        return False

    async def accept(self) -> None:
        """Shake hands."""
        if (await self._receive())["type"] != "websocket.connect":
            self.close_code = ABNORMAL
            raise ConnectionError("the client left before it was let in")
        await self._send({"type": "websocket.accept"})

    async def receive(self) -> bytes | str | SocketEnd:
        """The next message; the server's own limit has let it in, ours may not."""
        if self.close_code is not None:
            return SocketEnd()
        message = await self._receive()
        if message["type"] != "websocket.receive":
            self.close_code = int(message.get("code") or NO_STATUS)
            return SocketEnd()
        raw, text = message.get("bytes"), message.get("text")
        content = cast("bytes | str", text if raw is None else raw)
        if len(content) > self._limit:
            await self.close(MESSAGE_TOO_BIG, "too_large")
            return SocketEnd(MESSAGE_TOO_BIG)
        return content

    async def send(self, content: bytes | str) -> None:
        """Send one message."""
        kind = "text" if isinstance(content, str) else "bytes"
        await self._tell({"type": "websocket.send", kind: content})

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye."""
        if self.close_code is None:
            await self._tell({"type": "websocket.close", "code": code, "reason": reason[:120]})
            self.close_code = code

    def abort(self) -> None:
        """Take no further part; the server closes it when the application has returned."""
        self.close_code = self.close_code or ABNORMAL

    async def _tell(self, message: Message) -> None:
        if self.close_code is not None:
            raise ConnectionError("the websocket is closed")
        try:
            await self._send(message)
        except OSError as error:  # what the specification names for a client that has gone
            raise ConnectionError("the client has gone") from error


@dataclass(eq=False)
class AsgiCall:
    """A request of an ASGI server's.

    Attributes:
        scope: what the server says about it.
        id: names it in the log and in the answer.
        route: the pattern of its path.
        named: the parts of the path that the pattern names.
        opened: its websocket, once there is one.
    """

    scope: Scope
    receive: Receive
    send: Send
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    route: str = ""
    named: Mapping[str, str] = field(default_factory=dict[str, str])
    opened: AsgiSocket | None = None

    @property
    def method(self) -> str:
        """GET, POST, ...; a websocket's handshake is a GET."""
        return str(self.scope.get("method", "GET"))

    @property
    def path(self) -> str:
        """The path, unquoted, below where the application is mounted."""
        path, root = str(self.scope["path"]), str(self.scope.get("root_path", ""))
        return (path.removeprefix(root) or "/") if root else path

    @property
    def peer(self) -> str | None:
        """The address that it came from."""
        client = self.scope.get("client")
        return str(client[0]) if client else None

    @property
    def wants_socket(self) -> bool:
        """Whether it is the handshake of a websocket."""
        return self.scope["type"] == "websocket"

    def headers(self, name: str) -> list[str]:
        """All values of a header."""
        wanted = name.lower().encode()
        pairs = cast("list[tuple[bytes, bytes]]", self.scope["headers"])
        return [value.decode("latin-1") for key, value in pairs if key.lower() == wanted]

    async def body(self) -> AsyncIterator[bytes]:
        """Its body in parts."""
        has_more = True
        while has_more:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ConnectionError("the client left in the middle of its request")
            yield message.get("body", b"")
            has_more = bool(message.get("more_body", False))

    def socket(self, limit: int) -> AsgiSocket:
        """Its websocket, still to be accepted."""
        self.opened = AsgiSocket(self.receive, self.send, limit)
        return self.opened


class AsgiApp:
    """A service as an ASGI application: openpi, vla-eval and REST; the page is not among them.

    Attributes:
        service: what answers. Where the server speaks the lifespan protocol, its models are loaded
            at the start if they are not yet, and it is closed at the end.
    """

    def __init__(self, service: Service) -> None:
        """An application whose models are still to be loaded."""
        self.service, self._routes = service, Routes(ROUTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        call = AsgiCall(scope, receive, send)
        response = await answer(self.service, self._routes, call)
        if response is None:
            if call.opened is not None and call.opened.close_code is None:
                await call.opened.close(NORMAL, "")
        elif call.wants_socket:
            await _deny(call, response)
        else:
            await _respond(send, "http.response", response, call.method)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # its start
        try:
            if any(model.current is None for model in self.service.models.values()):
                await self.service.load()
        except AgentZooError as error:
            log.error("the models cannot be loaded: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        sweeping = asyncio.create_task(self._sweep())
        await send({"type": "lifespan.startup.complete"})
        await receive()  # its end
        sweeping.cancel()
        await self.service.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_S, self.service.settings.session_ttl_s / 2))
            self.service.expire()


async def _deny(call: AsgiCall, response: HttpResponse) -> None:
    """Refuse a handshake with an answer in HTTP, or with 403 where the server knows no other."""
    await call.receive()  # its start
    extensions = cast("Mapping[str, object]", call.scope.get("extensions") or {})
    if "websocket.http.response" in extensions:
        await _respond(call.send, "websocket.http.response", response, call.method)
    else:
        await call.send({"type": "websocket.close", "code": VIOLATION, "reason": response.reason})


async def _respond(send: Send, kind: str, response: HttpResponse, method: str) -> None:
    named = {**response.headers}
    if response.status != NO_CONTENT:
        named["Content-Length"] = str(len(response.body))
    if response.kind:
        named["Content-Type"] = response.kind
    headers = [(key.lower().encode(), value.encode("latin-1")) for key, value in named.items()]
    try:
        await send({"type": f"{kind}.start", "status": response.status, "headers": headers})
        body = b"" if method == "HEAD" else response.body
        await send({"type": f"{kind}.body", "body": body})
    except OSError:
        return  # the client has gone
