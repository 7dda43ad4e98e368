"""Requests that a killed replica was at, asked once more, by Ray Serve's proxies.

A proxy of Serve's answers them with 500. Its nodes' environment names this module, before Ray
starts there:

    export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=agentzoo.runtime.server.ray_proxy:middlewares

Source: `ray/serve/_private/http_util.py` in Ray 2.60, `configure_http_middlewares`.
"""

import re
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from ..errors import MissingExtraError
from .asgi_form import Message, Receive, Scope, Send
from .replica import MARK, SESSION

MiB = 1 << 20
LIMIT = 16 * MiB  # of a body that is kept
INFER = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer\Z")  # of the Open Inference Protocol
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AskAgain:
    """An ASGI application that asks another one again, once, where that gave no answer.

    It asks again where nothing can happen twice: GET and HEAD, websockets before their handshake is
    answered, and inference over REST. The second time the session id names no replica: a replica
    that is cut off, not gone, might have taken the step. So a sequence's request is answered with
    "session_lost", by whichever replica it comes to.
    """

    def __init__(self, app: App) -> None:
        """Around the application of a proxy, which serves others as well."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if not _may_be_repeated(scope):
            await self._app(scope, receive, send)
            return
        attempt = _Attempt(receive, send)
        await self._app({**scope, "headers": [*scope["headers"]]}, attempt.receive, attempt.send)
        if attempt.can_be_repeated:
            await self._app({**scope, "headers": _of_no_replica(scope)}, attempt.replay(), send)


class _Attempt:
    """The first attempt at a request, with what has come of it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._kept, self._size = list[Message](), 0
        self._is_answered = self._has_left = False
        self._head: Message | None = None  # of an answer; it waits for its body

    @property
    def can_be_repeated(self) -> bool:
        """Whether there was no answer, the client still waits, and its body was kept."""
        return not self._is_answered and not self._has_left and self._size <= LIMIT

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self._has_left = True
        elif not self._is_answered:
            self._keep(message)
        return message

    def _keep(self, message: Message) -> None:
        self._size += len(message.get("body", b""))
        self._kept.append(message)
        if self._size > LIMIT:
            self._kept.clear()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        self._is_answered = True
        self._kept.clear()
        if self._head is not None:
            head, self._head = self._head, None
            await self._send(head)
        await self._send(message)

    def replay(self) -> Receive:
        """The messages that came so far, and then those that come."""
        kept = iter(self._kept)

        async def receive() -> Message:
            for message in kept:
                return message
            return await self._receive()

        return receive


def _may_be_repeated(scope: Scope) -> bool:
    match scope["type"], scope.get("method"):
        case ("websocket", _) | ("http", "GET" | "HEAD"):
            return True
        case "http", "POST":
            return INFER.search(scope["path"]) is not None
        case _:
            return False


def _of_no_replica(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers, with a session id whose replica's name is empty, if there is one."""
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    mark = MARK.encode()
    return [(key, mark + one if key.lower() == SESSION.encode() else one) for key, one in pairs]


def middlewares() -> list[Any]:
    """The middlewares of a proxy, which Serve asks for when one starts.

    Raises:
        MissingExtraError: if Ray Serve's own requirement Starlette is not installed.
    """
    try:
        middleware = import_module("starlette.middleware").Middleware
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "ray") from error
    return [middleware(AskAgain)]
