"""The seam between the protocols and whatever carries HTTP and websockets.

There are two forms: `aiohttp_form`, which `agentzoo serve` runs, and `asgi_form`, which any ASGI
server can run, Ray Serve's replicas among them. Protocols and paths are the same in both.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Protocol

CLOSE_S = 1.0  # for saying goodbye


@dataclass(frozen=True)
class Ping:
    """A websocket's ping that has to be answered.

    Attributes:
        answer: does so; a client that does not read may keep it waiting.
    """

    answer: Callable[[], Coroutine[None, None, None]]


@dataclass(frozen=True)
class SocketEnd:
    """A websocket that gives no further message.

    Attributes:
        code: of what the client broke; 0 where it has left.
    """

    code: int = 0


class Socket(Protocol):
    """One websocket."""

    @property
    def close_code(self) -> int | None:
        """The code it was closed with; None while it is open, or where there was none."""
        ...

    @property
    def has_backlog(self) -> bool:
        """Whether something sent has not left yet, so that sending may wait."""
        ...

    async def accept(self) -> None:
        """Shake hands."""
        ...

    async def receive(self) -> bytes | str | Ping | SocketEnd:
        """The next message."""
        ...

    async def send(self, content: bytes | str) -> None:
        """Send one message.

        Raises:
            ConnectionError: if the client has gone.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, and wait for the answer."""
        ...

    def abort(self) -> None:
        """Leave at once and without a goodbye."""
        ...


class Call(Protocol):
    """One request, or one handshake of a websocket.

    Attributes:
        id: names it in the log and in the answer.
        route: the pattern of its path; "" if there is none.
        named: the parts of the path that the pattern names.
    """

    id: str
    route: str
    named: Mapping[str, str]

    @property
    def method(self) -> str:
        """GET, POST, ..."""
        ...

    @property
    def path(self) -> str:
        """The path, unquoted."""
        ...

    @property
    def peer(self) -> str | None:
        """The address that it came from."""
        ...

    @property
    def wants_socket(self) -> bool:
        """Whether it is the handshake of a websocket."""
        ...

    def headers(self, name: str) -> list[str]:
        """All values of a header."""
        ...

    def body(self) -> AsyncIterator[bytes]:
        """Its body in parts; raises OSError or ValueError if it cannot be read."""
        ...

    def socket(self, limit: int) -> Socket:
        """Its websocket, still to be accepted; messages have at most `limit` bytes."""
        ...


def header(call: Call, name: str) -> str | None:
    """The first value of a header, if there is one."""
    found = call.headers(name)
    return found[0] if found else None


@dataclass
class HttpResponse:
    """An answer in HTTP.

    Attributes:
        status: its code.
        body: its bytes.
        kind: the header Content-Type; "" for none.
        headers: all others.
        reason: why it is a refusal; "" if it is none.
    """

    status: int = 200
    body: bytes = b""
    kind: str = "application/json; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    reason: str = ""
