"""The transport that `agentzoo serve` runs: aiohttp, with a watch over each connection."""

import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web

from ..errors import ServingError
from .app import OPEN_PATHS, ROUTES, Route, Routes, answer, check_caller, check_host, speak_openpi
from .page.door import Page, check_visitor, is_page
from .service import Service
from .settings import LOOPBACK
from .transport import CLOSE_S, Call, HttpResponse, Ping, SocketEnd

PART = 1 << 16  # bytes read at once


class AiohttpSocket:
    """A websocket of aiohttp's."""

    def __init__(self, request: web.Request, limit: int) -> None:
        """Not accepted yet."""
        self._request = request
        # compression would cost more than it saves, and a bomb would unpack inside it
        self.response = web.WebSocketResponse(
            compress=False, max_msg_size=limit, timeout=CLOSE_S, autoping=False
        )

    @property
    def close_code(self) -> int | None:
        """The code it was closed with."""
        return self.response.close_code

    @property
    def has_backlog(self) -> bool:
        """Whether something sent has not left yet."""
        transport = self._request.transport
        return transport is None or transport.get_write_buffer_size() > 0

    async def accept(self) -> None:
        """Shake hands."""
        await self.response.prepare(self._request)

    async def receive(self) -> bytes | str | Ping | SocketEnd:
        """The next message."""
        message: WSMessage = await self.response.receive()
        while message.type is WSMsgType.PONG:
            message = await self.response.receive()
        match message.type:
            case WSMsgType.BINARY | WSMsgType.TEXT:
                return cast("bytes | str", message.data)
            case WSMsgType.PING:
                return Ping(partial(self.response.pong, message.data))
            case WSMsgType.ERROR:
                error = message.data
                is_known = isinstance(error, WebSocketError)
                return SocketEnd(int(error.code if is_known else WSCloseCode.PROTOCOL_ERROR))
            case _:
                return SocketEnd()

    async def send(self, content: bytes | str) -> None:
        """Send one message."""
        if isinstance(content, str):
            await self.response.send_str(content)
        else:
            await self.response.send_bytes(content)

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, and wait for the answer."""
        await self.response.close(code=code, message=reason.encode()[:120])

    def abort(self) -> None:
        """Leave at once and without a goodbye."""
        if self._request.transport is not None:
            self._request.transport.abort()


@dataclass(eq=False)
class AiohttpCall:
    """A request of aiohttp's.

    Attributes:
        request: it.
        id: names it in the log and in the answer.
        route: the pattern of its path.
        named: the parts of the path that the pattern names.
        opened: its websocket, once there is one.
    """

    request: web.Request
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    route: str = ""
    named: Mapping[str, str] = field(default_factory=dict[str, str])
    opened: web.StreamResponse | None = None

    @property
    def method(self) -> str:
        """GET, POST, ..."""
        return self.request.method

    @property
    def path(self) -> str:
        """The path, unquoted."""
        return self.request.path

    @property
    def peer(self) -> str | None:
        """The address that it came from."""
        return self.request.remote

    @property
    def wants_socket(self) -> bool:
        """Whether it is the handshake of a websocket."""
        return bool(web.WebSocketResponse().can_prepare(self.request))

    def headers(self, name: str) -> list[str]:
        """All values of a header."""
        return self.request.headers.getall(name, [])

    async def body(self) -> AsyncIterator[bytes]:
        """Its body in parts."""
        try:
            async for part in self.request.content.iter_chunked(PART):
                yield part
        except web.RequestPayloadError as error:
            raise ValueError("the body is damaged") from error

    def socket(self, limit: int) -> AiohttpSocket:
        """Its websocket, still to be accepted."""
        found = AiohttpSocket(self.request, limit)
        self.opened = found.response
        return found


class _Door:
    """Every request comes through here."""

    def __init__(self, service: Service, page: Page | None) -> None:
        self.service, self.page = service, page
        self.routes = Routes(ROUTES if page is None else [*_page_routes(page), *ROUTES])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        connections = self.service.connections
        connection = connections.of(request) if connections else None
        is_extra = connection is not None and connection.is_extra
        call = AiohttpCall(request)
        if connection is not None:
            connection.begin()
        try:
            check = partial(self._check, is_extra=is_extra)
            response = await answer(self.service, self.routes, call, check)
        finally:
            if connection is not None:
                connection.end()
        if response is None:
            assert call.opened is not None, "whoever gives no answer has opened a websocket"
            return call.opened
        sent = _sent(response)
        if is_extra:
            sent.force_close()
        return sent

    def _check(self, service: Service, call: Call, *, is_extra: bool) -> str:
        if is_extra and call.path not in OPEN_PATHS:
            raise ServingError("all connections are in use; come back later", "overloaded")
        request = _request(call)
        if self.page is None or not is_page(request):
            return check_caller(service, call)
        check_visitor(request)
        if not service.settings.api_key or service.settings.host in LOOPBACK:
            check_host(service, call)
        return ""  # its websocket asks for the key itself


def _request(call: Call) -> web.Request:
    assert isinstance(call, AiohttpCall)
    return call.request


def _page_routes(page: Page) -> list[Route]:
    async def root(service: Service, call: Call) -> HttpResponse | None:
        if is_page(_request(call)):
            return page.file("index.html")
        return await speak_openpi(service, call)

    async def file(_: Service, call: Call) -> HttpResponse:
        return page.file(call.named["file"])

    async def socket(_: Service, call: Call) -> None:
        assert isinstance(call, AiohttpCall)
        call.opened = await page.socket(call.request)

    return [
        Route("GET", "/", root),
        Route("GET", "/page/socket", socket),
        Route("GET", "/page/{file}", file),
    ]


def _sent(response: HttpResponse) -> web.Response:
    headers = {**response.headers, "Content-Type": response.kind} if response.kind else None
    return web.Response(
        status=response.status, body=response.body, headers=headers or response.headers
    )


def application(service: Service, page: Page | None = None) -> web.Application:
    """Every path of the server, and of its page if it has one."""
    door = _Door(service, page)

    @web.middleware
    async def everything(request: web.Request, handler: object) -> web.StreamResponse:
        return await door.answer(request)

    return web.Application(middlewares=[everything])
