"""The client's side of a websocket, without a thread.

`websockets.sync` reads in a thread of its own, which hands each message to the one that waits for
it. Here who waits reads, which saves three tenths of a round trip on loopback. Between two
calls nothing is read or sent, so a ping of the server is answered with the next message.
"""

import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

from ..errors import MissingExtraError

try:
    from websockets.client import ClientProtocol
    from websockets.exceptions import WebSocketException
    from websockets.frames import CloseCode, Frame, Opcode
    from websockets.protocol import State
    from websockets.uri import WebSocketURI, parse_uri
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "websockets", "serve") from error

CLOSE_S = 1.0  # for saying goodbye
GiB = 1 << 30  # the most that a message may have, here and on the server
PART = 1 << 16  # bytes read at once
MESSAGES = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class Connection:
    """One open websocket, uncompressed, for messages in turns."""

    def __init__(self, url: str, *, headers: Mapping[str, str], timeout_s: float) -> None:
        """Connect and shake hands.

        Args:
            url: ws:// or wss://; certificates are checked against the system's.
            headers: of the handshake.
            timeout_s: for all of it.

        Raises:
            WebSocketException: if the URL is none, or the server does not shake hands.
            OSError: if it cannot be reached; a TimeoutError is one.
        """
        uri, limit = parse_uri(url), time.monotonic() + timeout_s
        self._protocol = ClientProtocol(uri, max_size=GiB)
        self._timeout_s = timeout_s
        self._messages: deque[bytes | str] = deque()
        self._parts: list[bytes] = []  # of a message that comes in several frames
        self._is_text = False
        self._socket = socket.create_connection((uri.host, uri.port), timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = _secured(self._socket, uri)
            self._shake_hands(headers, limit)
        except BaseException:
            self._socket.close()
            raise

    def send(self, content: bytes) -> None:
        """Send one binary message.

        Raises:
            WebSocketException: if the connection was closed.
            OSError: if it is gone, or the server does not take it in time (TimeoutError).
        """
        self._socket.settimeout(self._timeout_s)  # the last answer had less time left
        self._protocol.send_binary(content)
        self._flush()

    def receive(self, timeout_s: float) -> bytes | str:
        """The next message.

        Raises:
            WebSocketException: if the connection was closed.
            OSError: if it is gone, or nothing came in time (TimeoutError).
        """
        limit = time.monotonic() + timeout_s
        while not self._messages:
            if self._protocol.state is State.CLOSED:
                raise self._protocol.close_exc
            self._read(limit)
        return self._messages.popleft()

    def close(self) -> None:
        """Say goodbye, wait for the answer but not for long, and leave; again is no error."""
        limit = time.monotonic() + CLOSE_S
        try:
            with suppress(WebSocketException, OSError):  # it is gone already
                self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
                self._flush()
                while self._protocol.state is not State.CLOSED:
                    self._read(limit)
        finally:
            self._socket.close()

    def abort(self) -> None:
        """Leave at once and without a goodbye; again is no error."""
        self._socket.close()

    def _shake_hands(self, headers: Mapping[str, str], limit: float) -> None:
        request = self._protocol.connect()
        for name, value in headers.items():
            request.headers[name] = value
        self._protocol.send_request(request)
        self._flush()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            self._read(limit)
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc

    def _read(self, limit: float) -> None:
        """Take what has come, or wait for it."""
        left = limit - time.monotonic()
        if left <= 0:  # also where bytes come all the time and never make an answer
            raise TimeoutError("no whole answer came in time")
        self._socket.settimeout(left)
        content = self._socket.recv(PART)
        if content:
            self._protocol.receive_data(content)
        else:
            self._protocol.receive_eof()
        self._flush()  # the protocol answers pings and goodbyes by itself
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in MESSAGES:
                self._take(event)

    def _take(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if frame.fin:
            content = b"".join(self._parts)
            self._parts.clear()
            self._messages.append(content.decode(errors="replace") if self._is_text else content)

    def _flush(self) -> None:
        for content in self._protocol.data_to_send():
            if content:
                self._socket.sendall(content)
            else:  # the protocol's sign that nothing more will be sent
                with suppress(OSError):  # it is closed already: the protocol knows how it ended
                    self._socket.shutdown(socket.SHUT_WR)


def _secured(plain: socket.socket, uri: WebSocketURI) -> socket.socket:
    if not uri.secure:
        return plain
    return ssl.create_default_context().wrap_socket(plain, server_hostname=uri.host)
