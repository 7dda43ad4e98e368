"""Requests that a replica of Ray Serve gave no answer to are asked once more; needs no Ray."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentzoo.runtime.errors import MissingExtraError
from agentzoo.runtime.server import ModelSettings, ServerSettings
from agentzoo.runtime.server.asgi_form import AsgiApp
from agentzoo.runtime.server.models import local_folder
from agentzoo.runtime.server.ray_proxy import LIMIT, AskAgain, middlewares
from agentzoo.runtime.server.service import Service
from tests.unit_runtime.server.wires import tensor

INFER = "/v2/models/a/infer"
PARTS = [
    {"type": "http.request", "body": b"one ", "more_body": True},
    {"type": "http.request", "body": b"two", "more_body": False},
]
LEFT = {"type": "http.disconnect"}
App = Callable[[Any, Any, Any], Awaitable[None]]


def http(method: str = "POST", path: str = INFER, **headers: str) -> dict[str, Any]:
    pairs = [(key.encode().replace(b"_", b"-"), one.encode()) for key, one in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": pairs}


def told(app: App, scope: Mapping[str, Any], messages: Sequence[Any] = PARTS) -> list[Any]:
    """The messages that a client gets for its own."""
    given, sent = iter(messages), list[Any]()

    async def receive() -> Any:
        return next(given)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return sent


async def answer(send: Any, body: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Mortal:
    """An application that dies `deaths` times after it has read `reads` messages."""

    def __init__(self, *, deaths: int = 1, reads: int = 1, begins: bool = False) -> None:
        self.deaths, self.reads, self.begins = deaths, reads, begins
        self.asked: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope)
        if len(self.asked) <= self.deaths:
            for _ in range(self.reads):
                await receive()
            if self.begins:
                await send({"type": "http.response.start", "status": 201, "headers": []})
            return
        if scope["type"] == "websocket":
            assert await receive() == {"type": "websocket.connect"}
            await send({"type": "websocket.accept"})
            return
        body, has_more = b"", True
        while has_more:
            message = await receive()
            body, has_more = body + message["body"], message["more_body"]
        await answer(send, body)


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_another_one_is_asked_with_the_whole_body(reads: int) -> None:
    start, body = told(AskAgain(Mortal(reads=reads)), http())
    assert (start["status"], body["body"]) == (200, b"one two")


def test_an_answer_that_had_no_body_yet_is_none() -> None:
    start, body = told(AskAgain(Mortal(begins=True)), http())
    assert (start["status"], body["body"]) == (200, b"one two")


def test_it_is_asked_again_once() -> None:
    mortal = Mortal(deaths=2)
    assert told(AskAgain(mortal), http()) == []
    assert len(mortal.asked) == 2


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_only_looks_is_asked_again(method: str) -> None:
    start, _ = told(AskAgain(Mortal()), http(method, "/any"))
    assert start["status"] == 200


@pytest.mark.parametrize("path", ["/v2", "/v2/models/a/infer/b", "/generate"])
def test_what_may_change_something_is_not_asked_again(path: str) -> None:
    mortal = Mortal()
    assert told(AskAgain(mortal), http("POST", path)) == []
    assert len(mortal.asked) == 1


def test_what_was_answered_is_not_asked_again_whatever_it_said() -> None:
    asked = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope)
        await answer(send, b"no", 500)

    start, body = told(AskAgain(app), http())
    assert (start["status"], body["body"], len(asked)) == (500, b"no", 1)


def test_nobody_is_asked_for_a_client_that_has_left() -> None:
    mortal = Mortal(reads=2)
    assert told(AskAgain(mortal), http(), [PARTS[0], LEFT]) == []
    assert len(mortal.asked) == 1


@pytest.mark.parametrize("over", [0, 1])
def test_a_body_is_kept_up_to_a_limit(over: int) -> None:
    body = {"type": "http.request", "body": bytes(LIMIT + over), "more_body": False}
    mortal = Mortal()
    assert len(told(AskAgain(mortal), http(), [body])) == (0 if over else 2)
    assert len(mortal.asked) == (1 if over else 2)


def test_a_websocket_is_asked_again_before_its_handshake_is_answered() -> None:
    scope = {"type": "websocket", "path": "/openpi", "headers": []}
    connect = [{"type": "websocket.connect"}]
    assert told(AskAgain(Mortal()), scope, connect) == [{"type": "websocket.accept"}]

    async def later(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    assert told(AskAgain(later), scope, connect) == [{"type": "websocket.accept"}]


@pytest.mark.parametrize(
    ("parameters", "status", "reason"),
    [
        ({"sequence_id": 1}, 409, "session_lost"),
        ({"sequence_id": 1, "sequence_start": True}, 200, ""),
        ({}, 200, ""),
    ],
    ids=["a step", "a start", "stateless"],
)
def test_a_sequence_is_lost_even_if_its_replica_lives(
    bundles: Any, parameters: dict[str, Any], status: int, reason: str
) -> None:
    """The replica may have taken the step, so another step would be the second."""
    folder: Path = bundles("vector")[0]
    model = ModelSettings(name="a", source=str(folder), provider="cpu")
    service = Service(ServerSettings(), [model], local_folder)
    service.replica = "left"
    app, attempts = AsgiApp(service), 0

    async def cut_off(scope: Any, receive: Any, send: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            await app(scope, receive, send)

    async def ask(door: Any, session: str, **parameters: Any) -> tuple[dict[str, str], Any]:
        obs = np.zeros((1, 3), np.float32)
        content = {"inputs": [tensor("observation", obs)], "parameters": parameters}
        parts = iter([{"type": "http.request", "body": json.dumps(content).encode()}])
        sent = list[Any]()

        async def receive() -> Any:
            return next(parts)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = {"x_session_id": session} if session else {}
        await door(http(**headers, host="localhost"), receive, send)
        start, body = sent
        named = {key.decode(): one.decode() for key, one in start["headers"]}
        return {**named, "status": start["status"]}, json.loads(body["body"])

    async def play() -> tuple[Any, Any]:
        await service.load()
        begun, _ = await ask(app, "", sequence_id=1, sequence_start=True)
        found = await ask(AskAgain(cut_off), begun["x-session-id"], **parameters)
        await service.close()
        return found

    found, said = asyncio.run(play())
    assert (found["status"], said.get("reason", "")) == (status, reason)
    assert attempts == 2


def test_without_starlette_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starlette.middleware", None)
    with pytest.raises(MissingExtraError, match=r"starlette.*agentzoo-rl\[ray\]"):
        middlewares()
