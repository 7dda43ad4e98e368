"""One contract over both transports: aiohttp's server, and the ASGI application under uvicorn."""

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvicorn
from websockets.exceptions import InvalidStatus

from agentzoo.runtime import RemotePolicy, load_policy
from agentzoo.runtime.server import ModelSettings, ServerSettings
from agentzoo.runtime.server.asgi_form import AsgiApp
from agentzoo.runtime.server.models import local_folder
from agentzoo.runtime.server.replica import SESSION
from agentzoo.runtime.server.service import Service
from tests.unit_runtime.server.live import serving
from tests.unit_runtime.server.wires import Openpi, Rest, Vla, outputs, tensor

VECTORS = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
Open = Callable[..., AbstractContextManager[Any]]


@contextmanager
def over_asgi(folder: Path, replica: str = "", **settings: Any) -> Iterator[Any]:
    """The same service under uvicorn, in a thread."""
    model = ModelSettings(name="a", source=str(folder), provider="cpu")
    service = Service(ServerSettings(**settings), [model], local_folder)
    service.replica = replica
    config = uvicorn.Config(
        AsgiApp(service), host="127.0.0.1", port=0, log_config=None, lifespan="on",
        timeout_graceful_shutdown=1, ws="websockets-sansio",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        limit = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive(), "it did not start"
            assert time.monotonic() < limit
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        http, ws = (f"{scheme}://127.0.0.1:{port}" for scheme in ("http", "ws"))
        yield SimpleNamespace(service=service, http=http, ws=ws)
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def folder(bundles: Any) -> Path:
    return bundles("vector")[0]


@pytest.fixture(scope="module", params=["aiohttp", "asgi"])
def transport(request: pytest.FixtureRequest, folder: Path) -> Open:
    if request.param == "asgi":
        return lambda **settings: over_asgi(folder, **settings)
    return lambda **settings: serving(folder, page=False, **settings)


@pytest.fixture(scope="module")
def live(transport: Open) -> Iterator[Any]:
    with transport() as live:
        yield live


def alone(folder: Path, seed: int | None = None) -> np.ndarray:
    policy = load_policy(folder, provider="cpu", seed=seed)
    return np.array([policy.act(obs) for obs in VECTORS])


def settled(condition: Callable[[], bool]) -> bool:
    limit = time.monotonic() + 10
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)
    return condition()


# -- the protocols -------------------------------------------------------------------------------


def test_openpi_acts_as_the_policy_here(live: Any, folder: Path) -> None:
    with Openpi(live.ws) as client:
        assert np.array_equal([client.act(obs) for obs in VECTORS], alone(folder))


def test_vla_eval_acts_as_the_policy_here(live: Any, folder: Path) -> None:
    with Vla(live.ws) as client:
        client.tell("episode_start", {"seed": 41})
        assert np.array_equal([client.act(obs) for obs in VECTORS], alone(folder, 41))


def test_a_sequence_acts_as_the_policy_here(live: Any, folder: Path) -> None:
    with Rest(live.http) as client:
        found = [
            client.act(obs, "robot", sequence_start=i == 0, sequence_end=i == 5, seed=5)
            for i, obs in enumerate(VECTORS)
        ]
        assert np.array_equal(found, alone(folder, 5))
        status, body = client.infer({"observation": VECTORS[:1]}, sequence_id="robot")
        assert (status, body["reason"]) == (409, "session_lost")


def test_a_stateless_client_acts_as_the_policy_here(live: Any, folder: Path) -> None:
    expected, _ = load_policy(folder, provider="cpu").predict(VECTORS[:2], None, None, None)
    with Rest(live.http) as client:
        status, body = client.infer({"observation": VECTORS[:2]})
    assert status == 200
    assert np.array_equal(outputs(body)["action"], expected)


def test_a_remote_policy_acts_and_predicts(live: Any, folder: Path) -> None:
    policy, here = RemotePolicy(live.ws, seed=9), load_policy(folder, provider="cpu", seed=9)
    assert np.array_equal([policy.act(obs) for obs in VECTORS], [here.act(obs) for obs in VECTORS])
    state = own = None
    for obs in VECTORS:
        action, state = policy.predict(obs, state)
        expected, own = here.predict(obs, own)
        assert np.array_equal(action, expected)
    policy.close()


def test_binary_tensors_and_a_compressed_body(live: Any, folder: Path) -> None:
    text = json.dumps(
        {
            "inputs": [
                {**tensor("observation", VECTORS[:1]), "parameters": {"binary_data_size": 12}}
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    value = json.loads(text)
    del value["inputs"][0]["data"]
    head = json.dumps(value).encode()
    body = gzip.compress(head + VECTORS[:1].tobytes())
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": str(len(head))}
    with Rest(live.http) as client:
        status, raw, found = client.call("POST", "/v2/models/a/infer", body, headers)
    assert status == 200
    lengths = {key.lower(): one for key, one in found.items()}
    described = json.loads(raw[: int(lengths["inference-header-content-length"])])
    assert described["outputs"][0]["name"] == "action"
    assert lengths["content-type"] == "application/octet-stream"


# -- refusals ------------------------------------------------------------------------------------

REFUSALS = [
    ("GET", "/nowhere", None, {}, 404, "unknown"),
    ("GET", "/v2/models/none", None, {}, 404, "unknown"),
    ("GET", "/v2/models//ready", None, {}, 404, "unknown"),
    ("POST", "/v2", b"", {}, 405, "unknown"),
    ("GET", "/openpi", None, {}, 426, "malformed"),
    ("POST", "/v2/models/a/infer", b"{", {}, 400, "malformed"),
    ("POST", "/v2/models/a/infer", b" " * (1 << 22), {}, 413, "too_large"),
    ("GET", "/v2", None, {"Origin": "http://elsewhere.test"}, 403, "forbidden"),
    ("GET", "/v2", None, {"Host": "elsewhere.test"}, 403, "forbidden"),
]


@pytest.mark.parametrize(
    "case", REFUSALS, ids=[f"{method} {path} {status}" for method, path, *_, status, _ in REFUSALS]
)
def test_a_refusal_is_a_sentence_with_a_reason(live: Any, case: Any) -> None:
    method, path, body, headers, status, reason = case
    with Rest(live.http) as client:
        found, said, got = client.call(method, path, body, headers)
    assert (found, said["reason"]) == (status, reason)
    assert len(said["error"]) > 5
    assert "x-request-id" in {key.lower() for key in got}


def test_head_has_the_head_of_get(live: Any) -> None:
    with Rest(live.http) as client:
        status, body, headers = client.call("HEAD", "/healthz")
    assert (status, body) == (200, b"")
    assert {key.lower(): one for key, one in headers.items()}["content-length"] == "3"


def test_metrics_and_metadata(live: Any) -> None:
    with Rest(live.http) as client:
        assert client.get("/v2/models/a")[1]["name"] == "a"
        assert client.get("/v2/models/a/versions/1/ready") == (200, {"ready": True})
        status, text = client.get("/metrics")
    assert status == 200
    assert b"agentzoo_ready 1.0" in text


def test_a_key_and_an_allowed_page(transport: Open) -> None:
    with transport(api_key="secret", allow_origins=("http://page.test",)) as live:
        with Rest(live.http) as client:
            assert client.get("/v2")[1]["reason"] == "unauthorized"
            assert client.get("/v2", Authorization="Bearer secret")[0] == 200
            assert client.get("/health")[0] == 200
            asked = {"Origin": "http://page.test", "Access-Control-Request-Method": "POST"}
            status, _, headers = client.call("OPTIONS", "/v2/models/a/infer", headers=asked)
        found = {key.lower(): one for key, one in headers.items()}
        assert (status, found["access-control-allow-origin"]) == (204, "http://page.test")
        with pytest.raises(InvalidStatus) as caught:
            Openpi(live.ws)
        assert caught.value.response.status_code == 401
        with Openpi(live.ws, Authorization="Bearer secret") as client:
            client.act(VECTORS[0])


@pytest.mark.parametrize("message", ["text", b"\xc1"], ids=["text", "no msgpack"])
def test_a_message_that_is_none_leaves_the_websocket_open(live: Any, message: bytes | str) -> None:
    with Openpi(live.ws) as client:
        client.send(message)
        assert client.receive().startswith("malformed: ")
        client.act(VECTORS[0])


def test_a_message_that_is_too_large_closes_the_websocket(live: Any) -> None:
    limit = live.service.message_limit(live.service.current(), "openpi")
    with Openpi(live.ws) as client:
        client.send(b"x" * (limit + 1))
        assert client.closed() == 1009


def test_sessions_end_with_their_websocket(live: Any) -> None:
    before = len(live.service.sessions)
    first, second = Openpi(live.ws), Openpi(live.ws)
    first.act(VECTORS[0])
    second.act(VECTORS[0])
    assert len(live.service.sessions) == before + 2
    first.close()
    second.socket.socket.close()  # without a goodbye
    assert settled(lambda: len(live.service.sessions) == before)


def test_idle_sessions_are_freed(transport: Open) -> None:
    with transport(session_ttl_s=0.05) as live, Rest(live.http) as client:
        client.act(VECTORS[0], 7, sequence_start=True)
        assert settled(lambda: not len(live.service.sessions))


# -- several replicas ----------------------------------------------------------------------------


def ask(client: Rest, session: str = "", **parameters: Any) -> tuple[int, Any, str]:
    """One step of the sequence 1: status, body, and the session id of the reply."""
    body = {"inputs": [tensor("observation", VECTORS[:1])],
            "parameters": {"sequence_id": 1, **parameters}}  # fmt: skip
    headers = {SESSION: session} if session else {}
    status, said, found = client.call("POST", "/v2/models/a/infer", body, headers)
    return status, said, {key.lower(): one for key, one in found.items()}.get(SESSION, "")


def test_a_sequence_names_its_replica(folder: Path) -> None:
    with over_asgi(folder, replica="left") as live, Rest(live.http) as client:
        status, _, session = ask(client, sequence_start=True)
        assert (status, session.split("-")[0]) == (200, "left")
        # the same number of another client is another sequence
        _, _, other = ask(client, sequence_start=True)
        assert other != session
        assert len(live.service.sessions) == 2
        status, _, again = ask(client, session)
        assert (status, again) == (200, session)
        status, said, _ = ask(client)
        assert (status, said["reason"]) == (400, "malformed")
        assert "x-session-id" in said["error"]
        status, said, _ = ask(client, "right-0123")
        assert (status, said["reason"]) == (409, "session_lost")
        assert "the replica that kept this sequence is gone" in said["error"]
        status, _, begun = ask(client, "right-0123", sequence_start=True)
        assert (status, begun.split("-")[0]) == (200, "left")
        assert ask(client, "left-" + "0" * 200)[1]["reason"] == "malformed"


def test_a_server_alone_gives_no_session_id(live: Any) -> None:
    with Rest(live.http) as client:
        status, _, session = ask(client, sequence_start=True, sequence_end=True)
        assert (status, session) == (200, "")


def test_an_application_whose_model_is_missing_does_not_start(tmp_path: Path) -> None:
    async def start() -> list[Any]:
        model = ModelSettings(name="a", source=str(tmp_path / "none"))
        app = AsgiApp(Service(ServerSettings(), [model], local_folder))
        told: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            told.append(message)

        await app({"type": "lifespan"}, receive, send)
        return told

    (said,) = asyncio.run(start())
    assert said["type"] == "lifespan.startup.failed"
    assert "none" in said["message"]


def test_a_server_without_denials_in_http_closes_the_handshake(folder: Path) -> None:
    """As Ray Serve's replicas do."""

    async def knock() -> list[Any]:
        model = ModelSettings(name="a", source=str(folder))
        service = Service(ServerSettings(api_key="secret"), [model], local_folder)
        told: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            told.append(message)

        scope = {"type": "websocket", "path": "/openpi", "headers": []}
        await AsgiApp(service)(scope, receive, send)
        return told

    assert asyncio.run(knock()) == [
        {"type": "websocket.close", "code": 1008, "reason": "unauthorized"}
    ]
