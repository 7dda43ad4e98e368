"""Faults stay where they happened, and are said in one sentence without a traceback."""

import io
import json
import logging
import re
import socket
import struct
import threading

import numpy as np
import pytest
from PIL import Image

from agentzoo.runtime import load_policy
from agentzoo.runtime.client.msgpack_arrays import pack
from agentzoo.runtime.errors import ServingError
from agentzoo.runtime.server import json_in_parts
from agentzoo.runtime.server.reserved_keys import OPENPI
from tests.unit_runtime.server.live import serving
from tests.unit_runtime.server.wires import Openpi, Rest, Vla, Wire, tensor

VECTORS = np.random.default_rng(1).standard_normal((12, 3)).astype(np.float32)
NAN = np.array([0, np.nan, 0], np.float32)


class Step:
    """A policy's own step that can be held and told to fail."""

    def __init__(self, step):
        self.step = step
        self.go, self.entered = threading.Event(), threading.Event()
        self.go.set()
        self.fault = ""

    def __call__(self, carry, obs, noise, deterministic):
        self.entered.set()
        assert self.go.wait(30)
        if self.fault == "raises":
            raise RuntimeError("/a/path/in/the/traceback")
        carry, action = self.step(carry, obs, noise, deterministic)
        if self.fault == "diverges":
            action = np.full_like(action, np.inf)
        return carry, action


@pytest.fixture
def folder(bundles):
    return bundles("vector")[0]


@pytest.fixture
def start(folder):
    """Start a server whose step can be held; everything is let go at the end."""
    running = []

    def make(**settings):
        context = serving(folder, **settings)
        live = context.__enter__()
        policy = live.service.models["a"].current.policy
        live.step = policy.step = Step(policy.step)
        running.append((context, live))
        return live

    yield make
    for context, live in running:
        live.step.go.set()
        context.__exit__(None, None, None)


def expected(folder, observations=VECTORS, seed=None):
    policy = load_policy(folder, provider="cpu", seed=seed)
    return np.array([policy.act(obs) for obs in observations])


def refused(live, protocol, reason):
    model = 'model="a",outcome="refused"'
    name = f'agentzoo_requests_total{{{model},protocol="{protocol}",reason="{reason}",version="1"}}'
    return live.metrics().get(name, 0)


# -- observations --------------------------------------------------------------------------------

BAD = [
    (NAN, "nonfinite"),
    (np.array([0, np.inf, 0]), "nonfinite"),
    (np.full(3, 1e300), "nonfinite"),
    (np.zeros(4), "malformed"),
    (np.zeros((1, 3)), "malformed"),
    (np.array(["a", "b", "c"]).tolist(), "malformed"),
    ({"a": 1}, "malformed"),
    (None, "malformed"),
    ([[1], [2, 3]], "malformed"),
    ([None, 0, 0], "malformed"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD, ids=range(len(BAD)))
def test_a_bad_observation_leaves_the_session_as_it_was(start, folder, bad, reason):
    live = start()
    with Openpi(live.ws) as openpi, Vla(live.ws) as vla:
        vla.tell("episode_start", {})
        for obs, action in zip(VECTORS[:4], expected(folder), strict=False):
            openpi.send(pack({"observation": bad}, "openpi"))
            text = openpi.receive()
            assert text.startswith(f"{reason}: "), text
            reply = vla.ask("observation", {"observation": bad})
            assert reply["type"] == "error"
            assert f"observation_failed: {reason}: " in reply["payload"]["error"]
            assert np.array_equal(openpi.act(obs), action)
            assert np.array_equal(vla.act(obs), action)
    assert refused(live, "openpi", reason) == 4
    assert refused(live, "vla-eval", reason) == 4


def test_a_bad_request_over_rest_leaves_the_sequence_as_it_was(start, folder):
    live = start()
    with Rest(live.http) as client:
        for t, action in enumerate(expected(folder)[:4]):
            if t:
                status, body = client.infer({"observation": NAN[None]}, sequence_id=1)
                assert (status, body["reason"]) == (400, "nonfinite")
            found = client.act(VECTORS[t], 1, sequence_start=t == 0)
            assert np.array_equal(found, action)


def test_a_bad_request_does_not_fail_its_neighbours_in_the_batch(start, folder):
    live = start()
    with Openpi(live.ws) as held, Openpi(live.ws) as good, Openpi(live.ws) as bad:
        live.step.go.clear()
        held.send(pack({"observation": VECTORS[0]}, "openpi"))
        assert live.step.entered.wait(30)
        good.send(pack({"observation": VECTORS[0]}, "openpi"))
        bad.send(pack({"observation": NAN}, "openpi"))
        assert bad.receive().startswith("nonfinite")  # refused while the others wait
        live.step.go.set()
        assert np.array_equal(good.receive()["actions"][0], expected(folder)[0])
        assert np.array_equal(held.receive()["actions"][0], expected(folder)[0])


# -- the policy ----------------------------------------------------------------------------------


def test_a_step_that_fails_leaves_the_state_and_says_nothing_of_itself(start, folder, caplog):
    live = start()
    with Rest(live.http) as client, Vla(live.ws) as vla, Openpi(live.ws) as openpi:
        client.act(VECTORS[0], 1, sequence_start=True)
        vla.tell("episode_start", {})
        live.step.fault = "raises"
        status, body = client.infer({"observation": VECTORS[1:2]}, sequence_id=1)
        reply = vla.ask("observation", {"observation": VECTORS[0]})
        text = openpi.ask(VECTORS[0])
        said = json.dumps([body, reply["payload"], text])
        assert (status, body["reason"]) == (500, "failed")
        assert "traceback" not in said.lower()
        assert "/a/path" not in said
        assert "/a/path" in caplog.text  # in the server's log
        assert openpi.closed() == 1011
        live.step.fault = ""
        assert np.array_equal(client.act(VECTORS[1], 1), expected(folder)[1])
        assert np.array_equal(vla.act(VECTORS[0]), expected(folder)[0])


def test_a_policy_that_diverges_closes_the_session_until_its_next_episode(start):
    live = start()
    with Openpi(live.ws) as client:
        client.act(VECTORS[0])
        live.step.fault = "diverges"
        assert client.ask(VECTORS[1]).startswith("diverged: ")
        live.step.fault = ""
        assert client.ask(VECTORS[1]).startswith("diverged: ")
        client.act(VECTORS[1], is_first=True)
        client.act(VECTORS[2])


def test_a_policy_that_diverges_is_said_over_every_protocol(start, folder):
    live = start()
    with Rest(live.http) as rest, Vla(live.ws) as vla:
        rest.act(VECTORS[0], 1, sequence_start=True)
        vla.tell("episode_start", {})
        vla.act(VECTORS[0])
        live.step.fault = "diverges"
        for fault in ("diverges", ""):  # and no further step of the episode, whatever it gives
            live.step.fault = fault
            status, body = rest.infer({"observation": VECTORS[1:2]}, sequence_id=1)
            assert (status, body["reason"]) == (500, "diverged")
            reply = vla.ask("observation", {"observation": VECTORS[1]})
            assert "diverged" in reply["payload"]["error"]
        rest.act(VECTORS[0], 1, sequence_start=True)
        vla.tell("episode_start", {"seed": 3})
        assert np.array_equal(vla.act(VECTORS[0]), expected(folder)[0])


# -- sessions ------------------------------------------------------------------------------------


def test_nobody_steps_without_a_beginning(start):
    live = start()
    with Rest(live.http) as client:
        status, body = client.infer({"observation": VECTORS[:1]}, sequence_id=5)
        assert (status, body["reason"]) == (409, "session_lost")
    with Vla(live.ws) as client:
        reply = client.ask("observation", {"observation": VECTORS[0]})
        assert reply["type"] == "error"
        assert "session_lost" in reply["payload"]["error"]
    with Openpi(live.ws) as client:
        assert client.ask(VECTORS[0], session_id="unknown").startswith("session_lost: ")


def test_idle_sessions_end_and_say_so(start):
    live = start(session_ttl_s=0.05)
    with Openpi(live.ws) as openpi, Rest(live.http) as rest:
        openpi.act(VECTORS[0])
        rest.act(VECTORS[0], 1, sequence_start=True)
        while len(live.service.sessions):
            threading.Event().wait(0.01)
        assert openpi.ask(VECTORS[1]).startswith("session_lost: ")
        status, body = rest.infer({"observation": VECTORS[:1]}, sequence_id=1)
        assert (status, body["reason"]) == (409, "session_lost")
        openpi.act(VECTORS[1], is_first=True)
    assert live.metrics()["agentzoo_sessions_expired_total"] >= 2


def test_a_connection_forgets_the_sessions_it_outlives(start):
    live = start(session_ttl_s=0.05)
    with Openpi(live.ws) as client:
        for name in ("a", "b", "c"):
            client.act(VECTORS[0], session_id=name, is_first=True)
        (channel,) = live.service.channels
        while len(live.service.sessions):
            threading.Event().wait(0.01)

        async def swept() -> None:
            live.service.expire()

        live.call(swept())
        assert not channel.keys
        client.act(VECTORS[0], session_id="d", is_first=True)
        assert {name for _, name in channel.keys} == {"d"}


def test_there_are_as_many_sessions_as_allowed(start):
    live = start(max_sessions=2)
    with Rest(live.http) as rest:
        for name in ("a", "b"):
            rest.act(VECTORS[0], name, sequence_start=True)
        full = {"sequence_id": "c", "sequence_start": True}
        status, body, headers = rest.infer_headers({"observation": VECTORS[:1]}, **full)
        assert (status, body["reason"]) == (429, "sessions_full")
        assert headers["Retry-After"] == "1"
        with Openpi(live.ws) as client:
            assert client.ask(VECTORS[0]).startswith("sessions_full: ")
            assert client.closed() == 1013
        with Vla(live.ws) as client:
            client.tell("episode_start", {})
            reply = client.ask("observation", {"observation": VECTORS[0]})
            assert "sessions_full" in reply["payload"]["error"]
        rest.act(VECTORS[0], "a", sequence_end=True)
        rest.act(VECTORS[0], "c", sequence_start=True)
        assert live.metrics()['agentzoo_sessions{model="a",version="1"}'] == 2


def test_a_client_that_leaves_frees_its_sessions(start):
    live = start()
    with Openpi(live.ws) as openpi, Vla(live.ws) as vla:
        openpi.act(VECTORS[0])
        openpi.act(VECTORS[0], session_id="other", is_first=True)
        vla.tell("episode_start", {})
        vla.act(VECTORS[0])
        assert len(live.service.sessions) == 3
    while len(live.service.sessions):
        threading.Event().wait(0.01)
    assert live.service.models["a"].current.sessions == 0


def test_a_sequence_has_one_step_at_a_time(start, folder):
    live = start()
    with Rest(live.http) as one, Rest(live.http) as two:
        one.act(VECTORS[0], 1, sequence_start=True)
        live.step.go.clear()
        live.step.entered.clear()
        found = []
        thread = threading.Thread(target=lambda: found.append(one.act(VECTORS[1], 1)))
        thread.start()
        assert live.step.entered.wait(30)
        status, body = two.infer({"observation": VECTORS[1:2]}, sequence_id=1)
        assert (status, body["reason"]) == (409, "session_busy")
        live.step.go.set()
        thread.join(30)
        assert np.array_equal(found[0], expected(folder)[1])
        assert np.array_equal(two.act(VECTORS[2], 1), expected(folder)[2])


def test_a_sequence_number_is_answered_once(start, folder):
    live = start()
    with Vla(live.ws) as client:
        client.tell("episode_start", {})
        first = client.ask("observation", {"observation": VECTORS[0]}, seq=9)
        again = client.ask("observation", {"observation": VECTORS[0]}, seq=9)
        assert (first["type"], first["seq"]) == ("action", 9)
        assert (again["type"], again["seq"]) == ("error", 9)
        assert np.array_equal(
            client.ask("observation", {"observation": VECTORS[1]}, seq=10)["payload"]["actions"],
            expected(folder)[1],
        )


SILENT = [
    ("episode_start", {}),
    ("episode_start", 3),
    ("episode_end", "done"),
    ("error", None),
]


@pytest.mark.parametrize(("kind", "payload"), SILENT, ids=range(len(SILENT)))
@pytest.mark.parametrize("seq", [None, -1, "x"])
def test_what_vla_eval_reads_no_answer_to_gets_none(start, folder, kind, payload, seq):
    live = start(max_sessions=1)
    with Openpi(live.ws) as other, Vla(live.ws) as client:
        other.act(VECTORS[0])  # no room for an episode
        client.send(pack({"type": kind, "payload": payload, "seq": seq}, "vla-eval"))
        for _ in range(2):
            reply = client.ask("observation", {"observation": VECTORS[0]})
            assert reply["type"] == "error"
        other.act(VECTORS[0], is_last=True)
        client.tell("episode_start", {"seed": 3})
        assert np.array_equal(client.act(VECTORS[0]), expected(folder)[0])


def test_an_episode_that_does_not_start_has_no_steps(start, folder):
    live = start(max_sessions=1)
    with Openpi(live.ws) as other, Vla(live.ws) as client:
        client.tell("episode_start", {})
        client.act(VECTORS[0])
        client.tell("episode_start", {"seed": "x" * 9} | {"seed": None})
        client.tell("episode_end", {})
        other.act(VECTORS[0])
        client.tell("episode_start", {})
        said = client.ask("observation", {"observation": VECTORS[0]})["payload"]["error"]
        assert said.startswith("observation_failed: sessions_full: the episode did not start: 1")


# -- load ----------------------------------------------------------------------------------------


def test_a_late_step_is_an_error_and_changes_nothing(start, folder):
    live = start(deadline_s=0.2)
    with Openpi(live.ws) as openpi, Rest(live.http) as rest:
        openpi.act(VECTORS[0])
        rest.act(VECTORS[0], 1, sequence_start=True)
        live.step.go.clear()
        assert openpi.ask(VECTORS[1]).startswith("deadline: ")
        status, body = rest.infer({"observation": VECTORS[1:2]}, sequence_id=1)
        assert (status, body["reason"]) == (504, "deadline")
        live.step.go.set()
        live.service.settings.__dict__["deadline_s"] = 30.0
        assert np.array_equal(openpi.act(VECTORS[1]), expected(folder)[1])
        assert np.array_equal(rest.act(VECTORS[1], 1), expected(folder)[1])


def test_a_client_may_ask_for_a_shorter_deadline(start):
    live = start()
    live.step.go.clear()
    with Openpi(live.ws) as openpi, Rest(live.http) as rest:
        assert openpi.ask(VECTORS[1], timeout_s=0.01).startswith("deadline: ")
        status, body = rest.infer({"observation": VECTORS[1:2]}, timeout=10_000)
        assert (status, body["reason"]) == (504, "deadline")


def test_health_answers_while_the_step_is_held(start):
    live = start()
    live.step.go.clear()
    with Openpi(live.ws) as client, Rest(live.http) as rest:
        client.send(pack({"observation": VECTORS[0]}, "openpi"))
        assert live.step.entered.wait(30)
        assert rest.get("/v2/health/live") == (200, {"live": True})
        assert rest.get("/v2/health/ready") == (200, {"ready": True})
        assert rest.get("/healthz") == (200, b"OK\n")
        assert rest.get("/health") == (200, {"status": "ok"})


def test_a_full_queue_is_said_and_counted(start):
    live = start()
    batcher = live.service.models["a"].current.batcher
    batcher.limits.__dict__["max_queue"] = 1
    with Openpi(live.ws) as held, Openpi(live.ws) as waits, Openpi(live.ws) as openpi:
        live.step.go.clear()
        held.send(pack({"observation": VECTORS[0]}, "openpi"))
        assert live.step.entered.wait(30)
        waits.send(pack({"observation": VECTORS[0]}, "openpi"))
        while len(batcher) < 1:
            threading.Event().wait(0.01)
        with Rest(live.http) as rest, Vla(live.ws) as vla:
            status, body, headers = rest.infer_headers({"observation": VECTORS[:1]})
            assert (status, body["reason"]) == (503, "overloaded")
            assert headers["Retry-After"] == "1"
            vla.tell("episode_start", {})
            reply = vla.ask("observation", {"observation": VECTORS[0]})
            assert "overloaded" in reply["payload"]["error"]
        assert openpi.ask(VECTORS[0]).startswith("overloaded: ")
        assert openpi.closed() == 1013
        live.step.go.set()
        assert waits.receive()["actions"].shape == (1, 2)
    for protocol in ("openpi", "vla-eval"):
        assert refused(live, protocol, "overloaded") == 1


def test_a_client_that_does_not_read_is_dropped(start):
    live = start(write_timeout_s=0.2, max_rows=64)
    live.server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    port = live.server.port
    with socket.socket() as raw, Openpi(live.ws) as healthy:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(30)
        raw.connect(("127.0.0.1", port))
        raw.sendall(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        message = pack({"observation": np.zeros((64, 3), np.float32), "carried": None}, "openpi")
        frame = b"\x82\xfe" + struct.pack(">H", len(message)) + b"\0\0\0\0" + message
        with pytest.raises(ConnectionError):
            raw.sendall(frame * 50_000)
        assert healthy.act(VECTORS[0]).shape == (2,)
    while len(live.service.channels):
        threading.Event().wait(0.01)
    metrics = live.metrics()
    name = 'agentzoo_requests_total{model="a",outcome="refused",protocol="openpi",'
    written = metrics.get(name + 'reason="slow_client",version="1"}', 0)
    watched = metrics.get('agentzoo_connections_dropped_total{reason="slow_client"}', 0)
    assert written + watched == 1


# -- sizes ---------------------------------------------------------------------------------------


def test_messages_are_as_large_as_the_observation_space_asks_for(start):
    live = start()
    version = live.service.current()
    limits = {one: live.service.message_limit(version, one) for one in ("openpi", "vla-eval", "v2")}
    assert 64 << 10 < limits["vla-eval"] < limits["openpi"] < limits["v2"] < 128 << 10
    with Openpi(live.ws) as client, Vla(live.ws) as vla:
        client.send(b"\0" * (limits["openpi"] + 1))
        assert client.closed() == 1009
        vla.send(b"\0" * (limits["vla-eval"] + 1))
        assert vla.closed() == 1009
    with Rest(live.http) as rest:
        body = b" " * (limits["v2"] + 1)
        status, found, _ = rest.call("POST", "/v2/models/a/infer", body)
        assert (status, found["reason"]) == (413, "too_large")


def bomb(side):
    """A PNG of many zeros in few bytes."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "png")
    entry = {"__image__": True, "format": "png", "shape": [side, side, 3]}
    return {**entry, "data": file.getvalue()}


@pytest.mark.parametrize("kind", ["vector", "box"])
def test_no_image_is_decoded_that_the_policy_does_not_read(bundles, monkeypatch, kind):
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    image = bomb(500)
    with serving(bundles(kind)[0]) as live, Openpi(live.ws) as openpi, Vla(live.ws) as vla:
        key = next(iter(openpi.metadata["observation_space"]))
        for message in ({"x": image}, {key: image}, {"image": image}, {"seed": image}):
            assert openpi.ask(**message).startswith("malformed: ")
        vla.tell("episode_start", {"camera": image})
        vla.tell("error", {"x": image})
        for payload in ({"images": {"front": image}}, {"image": image}, {"x": image}):
            assert vla.ask("observation", payload)["type"] == "error"
    assert not opened


def test_an_image_is_decoded_at_the_size_that_the_policy_reads_and_no_other(bundles):
    folder, _ = bundles("box")
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    vector = np.ones((2, 2))
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    sent = {"__image__": True, "format": "png", "shape": [6, 5, 3], "data": file.getvalue()}
    wanted = load_policy(folder, provider="cpu").act({"image": image, "Zoom/v": vector})
    says = r"an image has the shape \(7, 5, 3\), expected \(6, 5, 3\); send it so"
    with serving(folder) as live, Openpi(live.ws) as openpi, Vla(live.ws) as vla:
        other = {**bomb(7), "shape": [7, 5, 3]}
        assert re.search(says, openpi.ask(image=other, **{"Zoom/v": vector}))
        found = openpi.ask(image=sent, **{"Zoom/v": vector})
        assert np.array_equal(found["actions"][0], wanted)
        vla.tell("episode_start", {})
        payload = {"images": {"front": sent}, "Zoom/v": vector}
        found = vla.ask("observation", payload)["payload"]["actions"]
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("digits", [15, 30, 400])
def test_a_timeout_may_have_any_number_of_digits(live, folder, digits):
    with Rest(live.http) as rest, Openpi(live.ws) as openpi:
        for parameters in ({}, {"sequence_id": digits, "sequence_start": True}):
            status, body = rest.infer(
                {"observation": VECTORS[:1]}, timeout=10**digits, **parameters
            )
            assert status == 200, body
        seconds = 10.0 ** min(digits, 300)
        found = openpi.ask(observation=VECTORS[0], timeout_s=seconds)["actions"][0]
        assert np.array_equal(found, expected(folder)[0])
        assert "actions" in openpi.ask(observation=VECTORS[0], timeout_s=float("inf"))


def test_many_values_are_refused_and_the_connection_stays(live, folder):
    many = [[]] * 10_000
    with Openpi(live.ws) as openpi, Vla(live.ws) as vla, Rest(live.http) as rest:
        for message in ({"observation": many}, {"x": many}, {"carried": many}):
            assert openpi.ask(**message).startswith("malformed: ")
        vla.tell("episode_start", {"seed": 3})
        vla.send(pack({"type": "observation", "payload": {"x": many}, "seq": 9}, "vla-eval"))
        assert vla.receive()["type"] == "error"
        for body in ({"inputs": many}, {"inputs": [{**OBS, "data": many}]}):
            status, found, _ = rest.call("POST", "/v2/models/a/infer", body)
            assert (status, found["reason"]) == (400, "malformed")
            assert "too many lists" in found["error"]
        assert np.array_equal(openpi.act(VECTORS[0]), expected(folder)[0])
        assert np.array_equal(vla.act(VECTORS[0]), expected(folder)[0])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"[" + b"0," * 30_000 + b"0]", "too many values"),
        (b"[" + b'"",' * 20_000 + b"0]", "too many values"),
        (b"{" + b'"":0,' * 3_000 + b'"":0}', "too many"),
    ],
    ids=["numbers", "texts", "names"],
)
@pytest.mark.parametrize("where", [b'{"inputs":[%s]}', b'{"inputs":[],"parameters":{"a":%s}}'])
def test_a_body_of_many_values_is_not_read(start, monkeypatch, value, says, where):
    live = start()
    read = []
    monkeypatch.setattr(json_in_parts, "loads", lambda text: read.append(text) or {})
    monkeypatch.setattr("agentzoo.runtime.server.open_inference.SMALL", 0)
    with Rest(live.http) as client:
        status, body, _ = client.call("POST", "/v2/models/a/infer", where % value)
        assert (status, body["reason"]) == (400, "malformed")
        assert says in body["error"]
    assert not read


def test_a_sessions_step_is_one_element_large(start, folder):
    live = start(max_rows=1000)
    with Openpi(live.ws) as client, Rest(live.http) as rest:
        many = np.zeros((1000, 3), np.float32)
        assert client.ask(many, carried=None)["actions"].shape == (1000, 2)
        rest.act(VECTORS[0], 1, sequence_start=True)
        body = {"inputs": [tensor("observation", VECTORS[1:2])], "parameters": {"sequence_id": 1}}
        large = json.dumps(body).encode() + b" " * (70 << 10)
        status, said, _ = rest.call("POST", "/v2/models/a/infer", large)
        assert (status, said["reason"]) == (413, "too_large")
        assert np.array_equal(rest.act(VECTORS[1], 1), expected(folder)[1])
        body["parameters"] = {}
        large = json.dumps(body).encode() + b" " * (70 << 10)
        assert rest.call("POST", "/v2/models/a/infer", large)[0] == 200
        assert client.ask(VECTORS[0], x=bytes(70 << 10)).startswith("too_large: ")
        assert client.closed() == 1009


def test_a_frame_that_only_says_it_is_large_is_refused_at_its_header(start):
    live = start()
    with Wire(live.ws) as client:
        client.receive()
        client.socket.socket.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"\0\0\0\0")
        assert client.closed() == 1009


def test_a_compressed_body_is_unpacked_no_further_than_allowed(start):
    import gzip

    live = start()
    with Rest(live.http) as client:
        small = json.dumps({"inputs": [tensor("observation", VECTORS[:1])]}).encode()
        headers = {"Content-Encoding": "gzip"}
        path = "/v2/models/a/infer"
        assert client.call("POST", path, gzip.compress(small), headers)[0] == 200
        bomb = gzip.compress(b" " * (64 << 20))
        status, body, _ = client.call("POST", path, bomb, headers)
        assert (status, body["reason"]) == (413, "too_large")


def test_too_many_elements_are_refused(start):
    live = start(max_rows=4)
    with Rest(live.http) as client:
        status, body = client.infer({"observation": np.zeros((5, 3))})
        assert (status, body["reason"]) == (413, "too_large")


# -- requests ------------------------------------------------------------------------------------

OBS = tensor("observation", VECTORS[:1])
BODIES = [
    (b"", "not JSON"),
    (b"[" * 50_000, "too many lists"),
    (b"[" * 900, "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[1]", "the request is no object"),
    ({"inputs": 3}, "inputs is no list"),
    ({"inputs": [3]}, "an entry of inputs is no object"),
    ({"inputs": [OBS, OBS]}, "is there twice"),
    ({"inputs": [OBS], "extra": 1}, "the field 'extra'"),
    ({"inputs": [{**OBS, "datatype": "BYTES"}]}, "datatype 'BYTES'"),
    ({"inputs": [{**OBS, "datatype": ["FP32"]}]}, "the datatype"),
    ({"inputs": [{**OBS, "shape": [-1, 3]}]}, "no shape"),
    ({"inputs": [{**OBS, "shape": [1, 2]}]}, "not float32 of shape"),
    ({"inputs": [{**OBS, "data": "abc"}]}, "not float32"),
    ({"inputs": [{**OBS, "data": [1, [2, 3]]}]}, "no array"),
    ({"inputs": [{**OBS, "data": [1, 2, 10**400]}]}, "not float32"),
    ({"inputs": [{**OBS, "data": None}]}, "not float32"),
    ({"inputs": [{**OBS, "parameters": {"binary_data_size": 12}}]}, "binary_data_size"),
    ({"inputs": [OBS], "id": 7}, "the id is not a text"),
    ({"inputs": [OBS], "parameters": {"sequence_id": -1}}, "sequence_id"),
    ({"inputs": [OBS], "parameters": {"sequence_id": True}}, "sequence_id"),
    ({"inputs": [OBS], "parameters": {"sequence_id": 1, "sequence_start": 1}}, "sequence_start"),
    ({"inputs": [OBS], "parameters": {"seed": "x"}}, "seed"),
    ({"inputs": [OBS], "parameters": {"seed": -1}}, "seed"),
    ({"inputs": [OBS], "parameters": {"timeout": 0}}, "timeout"),
    ({"inputs": [{**OBS, "shape": [2**70, 0], "data": []}]}, "no shape"),
    ({"inputs": [{**OBS, "shape": [2**62, 0], "data": []}]}, "no shape"),
    ({"inputs": [{**OBS, "shape": [2**40, 2**40, 0], "data": []}]}, "no shape"),
    ({"inputs": [OBS, tensor("is_first", np.array([1.0]))]}, "is_first"),
    ({"inputs": [OBS, tensor("is_first", np.ones(2, bool))]}, "2 is_first"),
    ({"inputs": [OBS, tensor("noise_address", np.zeros((1, 3), np.int64))]}, "whose it is"),
    ({"inputs": [OBS, tensor("state_in_policy", np.zeros((1, 31), np.uint8))]}, "whose it is"),
    ({"inputs": [OBS, tensor("state_in_policy", np.zeros((0, 32), np.uint8))]}, "whose it is"),
    ({"inputs": [OBS, tensor("state_in_policy", np.zeros((1, 32), np.int64))]}, "whose it is"),
    ({"inputs": []}, "the keys none"),
]


@pytest.mark.parametrize(("body", "match"), BODIES, ids=range(len(BODIES)))
def test_other_bodies_are_answered_with_what_is_wrong(live, body, match):
    with Rest(live.http) as client:
        status, found, _ = client.call("POST", "/v2/models/a/infer", body)
    assert status == 400, found
    assert match in found["error"]
    assert found["reason"] == "malformed"


@pytest.fixture(scope="module")
def live(bundles):
    with serving(bundles("vector")[0]) as live:
        yield live


@pytest.mark.parametrize("length", ["-1", "abc", "9" * 30, "1000000", "3", "\xb2"], ids=range(6))
def test_a_header_length_is_a_number_that_fits(live, length):
    body = json.dumps({"inputs": [OBS]}).encode()
    headers = {"Inference-Header-Content-Length": length.encode("latin-1")}
    with Rest(live.http) as client:
        status, found, _ = client.call("POST", "/v2/models/a/infer", body, headers)
    assert (status, found["reason"]) == (400, "malformed")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/a/versions/2", 404),
        ("POST", "/v2/models/a/versions/2/infer", 404),
        ("POST", "/v2/models/none/infer", 404),
        ("DELETE", "/v2", 405),
        ("GET", "/vla", 426),
        ("POST", "/v2/repository/models/a/load", 403),
    ],
)
def test_paths_that_lead_nowhere_say_so_in_json(live, method, path, status):
    body = {"inputs": [OBS]} if path.endswith("infer") else None
    with Rest(live.http) as client:
        found, content, _ = client.call(method, path, body)
    assert found == status
    assert content["error"]


MESSAGES = [
    {"type": "observation"},
    {"type": 3, "payload": {}},
    {"type": "dance", "payload": {}},
    {"type": "hello", "payload": {"protocol_version": 9}},
    {"type": "observation", "payload": {}, "seq": -4},
    {"type": "observation", "payload": {}, "seq": "x"},
    ["observation"],
    7,
    None,
]


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_other_messages_are_errors_and_the_connection_stays(live, message):
    with Vla(live.ws) as client:
        client.send(pack(message, "vla-eval"))
        assert client.receive()["type"] == "error"
        client.tell("episode_start", {})
        assert client.act(VECTORS[0]).shape == (2,)


@pytest.mark.parametrize("name", OPENPI)
def test_every_key_of_openpi_is_read_by_its_name(live, name):
    with Openpi(live.ws) as client:
        found = client.ask(VECTORS[0], **{name: {"neither": "a flag nor a number"}})
    assert found.startswith("malformed: ")
    assert "the observation has the keys" not in found  # it was not taken for an observation


KEYS = [
    {"is_first": 1},
    {"is_first": "yes"},
    {"deterministic": 0.5},
    {"seed": 1.5, "is_first": True},
    {"seed": -1, "is_first": True},
    {"seed": 1 << 63, "is_first": True},
    {"step": -1, "seed": 1, "is_first": True},
    {"seed": 4},  # in the middle of an episode
    {"session_id": 3},
    {"session_id": "x" * 200},
    {"timeout_s": 0},
    {"timeout_s": float("nan")},
    {"carried": 3},
    {"carried": None, "deterministic": [[True], [True, False]]},
    {"carried": None, "is_first": [[True], [True, False]]},
    {"carried": {"carry": {}, "address": np.zeros((1, 3), np.int64)}},
    {"carried": {"carry": 4, "address": np.zeros((1, 3), np.int64)}},
    {"carried": {"carry": {}, "address": np.zeros((1, 3), np.float32)}},
    {"carried": {"address": np.zeros((1, 3), np.int64)}},
    {"unknown": 1},
]


@pytest.mark.parametrize("keys", KEYS, ids=range(len(KEYS)))
def test_other_keys_are_refused_and_the_session_is_as_it_was(live, folder, keys):
    with Openpi(live.ws) as client:
        client.act(VECTORS[0])
        assert client.ask(VECTORS[1], **keys).startswith("malformed: ")
        client.send("text")
        assert client.receive().startswith("malformed: ")
        assert np.array_equal(client.act(VECTORS[1]), expected(folder)[1])


@pytest.mark.parametrize("address", [None, np.zeros((1, 2), np.int64), np.zeros((1, 3), np.int64)])
def test_a_state_over_rest_is_whole_or_refused(live, address):
    with Rest(live.http) as client:
        status, body = client.infer({"observation": VECTORS[:1]})
        whose = next(one["data"] for one in body["outputs"] if one["name"] == "state_out_policy")
        inputs = {"observation": VECTORS[:1], "state_in_policy": np.array([whose], np.uint8)}
        if address is not None:
            inputs["noise_address"] = address
        status, body = client.infer(inputs)
    assert (status, body["reason"]) == (400, "malformed")
    assert "address" in body["error"] or "is not a float32 array" in body["error"]


def test_a_state_that_is_not_finite_is_refused(live):
    with Openpi(live.ws) as client:
        state = client.ask(VECTORS[:1], carried=None)["carried"]
        state["carry"]["deter"][0, 3] = np.nan
        assert client.ask(VECTORS[:1], carried=state).startswith("nonfinite: ")


# -- seen from outside ---------------------------------------------------------------------------


def test_the_log_says_who_and_how_it_ended_and_not_what(start, caplog):
    live = start(api_key="secret-key")
    caplog.set_level(logging.INFO, "agentzoo.access")
    key = {"Authorization": "Bearer secret-key"}
    with Openpi(live.ws, **key) as client:
        client.act([123456.0, 0, 0])
    with Rest(live.http) as rest:
        rest.call("GET", "/v2/models/a", headers=key)
    while len(live.service.channels):
        threading.Event().wait(0.01)
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name.endswith("access")]
    by_route = {line["route"]: line for line in lines}
    assert by_route["/"]["steps"] == 1
    assert by_route["/"]["protocol"] == "openpi"
    assert by_route["/v2/models/{model}"]["status"] == 200
    assert len({line["id"] for line in lines}) == len(lines)
    assert "secret-key" not in caplog.text
    assert "123456" not in caplog.text


def test_metrics_count_by_model_protocol_and_outcome_and_name_no_session(start):
    live = start()
    with Openpi(live.ws) as client, Rest(live.http) as rest:
        for obs in VECTORS:
            client.act(obs, session_id="mine", is_first=True)
        status, text = rest.get("/metrics")
    assert status == 200
    name = 'agentzoo_requests_total{model="a",outcome="ok",protocol="openpi",reason="",version="1"}'
    assert live.metrics()[name] == 12
    assert b"agentzoo_step_seconds_count" in text
    assert b"agentzoo_queue_seconds_count" in text
    metrics = live.metrics()
    assert metrics['agentzoo_batch_rows_sum{model="a"}'] == 12
    assert metrics['agentzoo_queue_seconds_count{model="a"}'] == 12
    sizes = [metrics[f'agentzoo_bytes_total{{direction="{one}",protocol="openpi"}}']
             for one in ("received", "sent")]  # fmt: skip
    message = pack({"observation": VECTORS[0], "session_id": "mine", "is_first": True}, "openpi")
    assert sizes[0] == 12 * len(message)
    assert sizes[1] > len(pack(client.metadata, "openpi"))
    assert b'provider="cpu"' in text
    assert b"mine" not in text


def test_every_reason_has_its_refusal():
    from agentzoo.runtime.server.error_codes import REFUSALS, refusal_of

    assert refusal_of(KeyError("x")).reason in REFUSALS
    assert str(refusal_of(KeyError("/secret"))).startswith("something failed inside the server")
    assert all(400 <= one.status < 600 for one in REFUSALS.values())
    assert ServingError("x").reason in REFUSALS
