"""The client's side of a websocket reads when it is asked to, whatever the other side does."""

import threading
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.server import serve

from agentzoo.runtime import RemotePolicy
from agentzoo.runtime.client.msgpack_arrays import pack
from agentzoo.runtime.client.websocket import Connection
from agentzoo.runtime.errors import ServingError


@contextmanager
def peer(handler, **settings):
    """A server of the websockets package, and its address."""
    with serve(handler, "127.0.0.1", 0, compression=None, max_size=None, **settings) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(30)


@contextmanager
def connected(handler, headers=None):
    with peer(handler) as url:
        connection = Connection(url, headers=headers or {}, timeout_s=30)
        try:
            yield connection
        finally:
            connection.close()


def echo(socket):
    for message in socket:
        socket.send(message)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 1 << 20])
def test_messages_of_any_size_come_back(size):
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with connected(echo) as connection:
        for _ in range(2):
            connection.send(content)
            assert connection.receive(30) == content


def test_texts_and_parts_are_put_together():
    def handler(socket):
        socket.send("a sentence")
        socket.send([b"in ", b"three ", b"parts"])
        socket.send(["a text ", "in two"])

    with connected(handler) as connection:
        found = [connection.receive(30) for _ in range(3)]
    assert found == ["a sentence", b"in three parts", "a text in two"]


def test_a_ping_is_answered_by_whoever_waits():
    answered = []

    def handler(socket):
        answered.append(socket.ping().wait(30))
        socket.send(b"after the ping")

    with connected(handler) as connection:
        assert connection.receive(30) == b"after the ping"
    assert answered == [True]


def test_headers_are_sent():
    def handler(socket):
        socket.send(socket.request.headers["X-Key"])

    with connected(handler, {"X-Key": "value"}) as connection:
        assert connection.receive(30) == "value"


def test_a_goodbye_is_an_exception_with_its_reason_again_and_again():
    with connected(lambda socket: socket.close(1001, "it ends")) as connection:
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match=r"1001 .*it ends"):
                connection.receive(30)
        with pytest.raises(WebSocketException):
            connection.send(b"x")


def test_silence_ends_with_the_timeout_and_harms_nothing():
    go = threading.Event()

    def handler(socket):
        assert go.wait(30)
        socket.send(b"late")

    with connected(handler) as connection:
        with pytest.raises(TimeoutError):
            connection.receive(0.01)
        go.set()
        assert connection.receive(30) == b"late"


def test_a_refused_handshake_is_an_exception():
    def reject(connection, request):
        return connection.respond(403, "not you\n")

    with peer(echo, process_request=reject) as url, pytest.raises(InvalidStatus, match="403"):
        Connection(url, headers={}, timeout_s=30)


def test_leaving_twice_is_no_error():
    seen = []

    def handler(socket):
        with pytest.raises(ConnectionClosed):
            socket.recv(30)
        seen.append(socket.protocol.close_code)

    with connected(handler) as connection:
        connection.close()
    assert seen == [1000]


def test_a_server_of_another_kind_is_a_sentence():
    def stock(socket):
        socket.send(pack({"robot": "arm"}, "openpi"))
        echo(socket)

    with peer(stock) as url, pytest.raises(ServingError, match="does not describe its policy"):
        RemotePolicy(url)


def test_a_server_that_leaves_before_it_speaks_is_a_sentence():
    with (
        peer(lambda socket: socket.close(1013, "full")) as url,
        pytest.raises(ServingError, match=r"was lost .*1013.*full"),
    ):
        RemotePolicy(url)


def test_a_message_has_all_its_time_whatever_was_waited_for_before():
    go = threading.Event()

    def late(socket):
        go.wait(30)
        for message in socket:
            socket.send(str(len(message)))

    with connected(late) as connection:
        with pytest.raises(TimeoutError):
            connection.receive(1e-3)
        threading.Timer(0.2, go.set).start()
        connection.send(bytes(50 << 20))  # more than the system takes before anybody reads
        assert connection.receive(30) == str(50 << 20)
