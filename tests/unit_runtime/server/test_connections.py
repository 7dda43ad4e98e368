"""Connections that keep the server waiting are closed and counted; health always answers."""

import json
import logging
import socket
import struct
import time

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from agentzoo.cli.open_policy import named
from agentzoo.runtime import RemotePolicy, load_policy
from agentzoo.runtime.client.msgpack_arrays import pack
from agentzoo.runtime.errors import ConfigError, ObservationError
from agentzoo.runtime.server import ServerSettings, model_settings
from agentzoo.runtime.server.log_lines import OneLine
from soak.handmade_bundle import write_bundle
from tests.unit_runtime.server.live import serving
from tests.unit_runtime.server.wires import Openpi, Rest, Vla, Wire

OBS = np.arange(4, dtype=np.float32) / 4
UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("handmade"))


def raw(live, content=b""):
    """A connection that has sent these bytes."""
    one = socket.create_connection(("127.0.0.1", live.server.port), 30)
    one.sendall(content)
    return one


def ended(one):
    """Wait until the server has closed it, reading what comes."""
    try:
        while one.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    one.close()


def dropped(live, reason):
    return live.metrics().get(f'agentzoo_connections_dropped_total{{reason="{reason}"}}', 0)


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "silent"),
        (b"GET /healthz HT", "slow_headers"),
        (HEALTH, "idle"),
    ],
    ids=range(3),
)
def test_who_keeps_the_server_waiting_is_closed(folder, caplog, content, reason):
    caplog.set_level(logging.INFO, "agentzoo.access")
    with serving(folder, header_timeout_s=0.2, idle_timeout_s=0.2) as live:
        with Openpi(live.ws) as client:
            ended(raw(live, content))
            assert client.act(OBS).shape == (2,)  # a websocket is at work for as long as it lives
        assert dropped(live, reason) == 1
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name.endswith("access")]
    assert [line["closed"] for line in lines if "closed" in line] == [reason]


def test_a_second_request_has_to_come_in_time_too(folder):
    with serving(folder, header_timeout_s=0.2) as live:
        one = raw(live, HEALTH)
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        one.sendall(b"GET /heal")
        ended(one)
        assert dropped(live, "slow_headers") == 1


def test_silent_connections_make_room_for_others(folder):
    with serving(folder, max_connections=4) as live:
        silent = [raw(live) for _ in range(30)]
        with Rest(live.http) as rest:
            assert rest.get("/v2/health/ready")[0] == 200
            assert rest.infer({"observation": OBS[None]})[0] == 200
        assert dropped(live, "evicted") >= 26
        assert live.metrics()["agentzoo_connections"] <= 5
        for one in silent:
            one.close()


def test_health_answers_where_all_connections_are_at_work(folder):
    with serving(folder, max_connections=2) as live, Openpi(live.ws) as one, Vla(live.ws) as two:
        for _ in range(40):
            with Rest(live.http) as rest:
                assert rest.get("/v2/health/ready")[0] == 200
        with Rest(live.http) as rest:
            status, body, headers = rest.call("GET", "/metrics")
            assert (status, body["reason"], headers["Retry-After"]) == (503, "overloaded", "1")
        with pytest.raises(InvalidStatus, match="503"):
            Wire(live.ws)
        assert one.act(OBS).shape == (2,)
        two.tell("episode_start", {})
        assert two.act(OBS).shape == (2,)


def flood(live, first, again):
    """Send without reading until the server has had enough."""
    live.server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(30)
        one.connect(("127.0.0.1", live.server.port))
        one.sendall(first)
        with pytest.raises(ConnectionError):
            one.sendall(again * (50_000_000 // len(again)))


def frame(opcode, content):
    head = bytes([0x80 | opcode])
    size = len(content)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    return head + length + bytes(4) + content


BATCH = pack({"observation": np.zeros((16, 4), np.float32), "carried": None}, "openpi")
HELLO = pack({"type": "hello", "payload": {"protocol_version": 1}, "seq": 1}, "vla-eval")
FLOODS = {
    "openpi": (UPGRADE % b"/", frame(2, BATCH)),
    "openpi pings": (UPGRADE % b"/", frame(9, b"x" * 125)),
    "vla": (UPGRADE % b"/vla", frame(2, HELLO)),
    "vla pings": (UPGRADE % b"/vla", frame(9, b"x" * 125)),
    "rest": (b"", b"GET /v2/models/a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_who_never_reads_is_dropped_whatever_it_speaks(folder, kind):
    with serving(folder, write_timeout_s=0.3, idle_timeout_s=60) as live:
        flood(live, *FLOODS[kind])
        requests = [v for n, v in live.metrics().items() if 'reason="slow_client"' in n]
        assert sum(requests) >= 1
        with Rest(live.http) as rest:
            assert rest.get("/healthz")[0] == 200


def test_a_websocket_that_says_nothing_for_long_is_closed(folder):
    with serving(folder, session_ttl_s=0.2, idle_timeout_s=0.2) as live, Openpi(live.ws) as client:
        client.act(OBS)
        assert client.closed() == 1001


def test_a_policy_that_predicts_after_a_pause_connects_again(folder):
    with serving(folder, session_ttl_s=0.2, idle_timeout_s=0.2) as live:
        policy = RemotePolicy(live.ws)
        first, state = policy.predict(OBS)
        while live.service.channels:
            time.sleep(0.01)
        second, _ = policy.predict(OBS, state)
        local = load_policy(folder, provider="cpu")
        expected, carried = local.predict(OBS)
        assert np.array_equal(first, expected)
        assert np.array_equal(second, local.predict(OBS, carried)[0])
        policy.close()


# -- web pages, names and keys -------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
def test_a_name_that_anybody_could_point_here_is_refused(folder, host):
    with serving(folder, allow_hosts=("robot.local",)) as live, Rest(live.http) as rest:
        for path in ("/metrics", "/v2/models/a", "/v2"):
            status, body, _ = rest.call("GET", path, headers={"Host": host})
            assert (status, body["reason"]) == (403, "forbidden")
            assert "--allow-host" in body["error"]
        for good in ("localhost:1", "127.0.0.1", "[::1]:80", "10.1.2.3:9", "robot.local:80"):
            assert rest.call("GET", "/metrics", headers={"Host": good})[0] == 200
        assert rest.call("GET", "/healthz", headers={"Host": host})[0] == 200


def test_a_key_guards_whatever_the_name(folder):
    with serving(folder, api_key="right") as live, Rest(live.http) as rest:
        headers = {"Host": "gateway.example", "Authorization": "Bearer right"}
        assert rest.call("GET", "/v2/models/a", headers=headers)[0] == 200


def test_an_origin_that_is_allowed_may_ask(folder):
    origin = "http://robot.local:3000"
    with serving(folder, allow_origins=(origin,)) as live, Rest(live.http) as rest:
        status, _, headers = rest.call("GET", "/v2/models/a", headers={"Origin": origin})
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, origin)
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        status, _, headers = rest.call("OPTIONS", "/v2/models/a/infer", headers=asked)
        assert (status, headers["Access-Control-Allow-Methods"]) == (204, "GET, POST")
        for other in ("http://robot.local", "null", "", "http://robot.local:3000.evil.example"):
            assert rest.call("GET", "/v2/models/a", headers={"Origin": other})[0] == 403
            asked = {**asked, "Origin": other}
            assert rest.call("OPTIONS", "/v2/models/a/infer", headers=asked)[0] == 403
        with Openpi(live.ws, Origin=origin) as client:
            assert client.act(OBS).shape == (2,)


def test_sequences_are_those_of_a_key(folder):
    body = {"observation": OBS[None]}
    with serving(folder) as live, Rest(live.http) as rest:
        rest.act(OBS, 1, sequence_start=True)
        inputs = [{"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0.0] * 4}]
        other = {"inputs": inputs, "parameters": {"sequence_id": 1, "sequence_end": True}}
        status, found, _ = rest.call(
            "POST", "/v2/models/a/infer", other, {"Authorization": "Bearer of somebody else"}
        )
        assert (status, found["reason"]) == (409, "session_lost")
        assert rest.infer(body, sequence_id=1)[0] == 200


def test_a_key_from_a_file_opens_the_door(folder, caplog):
    with serving(folder, api_key="right\n") as live:
        for key in ("right", "right\n"):
            policy = RemotePolicy(live.ws, api_key=key)
            assert policy.act(OBS).shape == (2,)
            policy.close()
        with Rest(live.http) as rest:
            for spaces, status in ((" ", 200), ("  ", 200), (" wrong ", 401)):
                headers = {"Authorization": f"Bearer{spaces}right"}
                assert rest.call("GET", "/v2/models/a", headers=headers)[0] == status
    for key in (" \n", "a b", "sch\u00fcssel", "a\x1bb"):
        with pytest.raises(ConfigError, match="the key") as caught:
            ServerSettings(api_key=key)
        assert key not in str(caught.value)
    with pytest.raises(ConfigError, match="the key holds letters") as caught:
        RemotePolicy("ws://127.0.0.1:9", api_key="sekr\x1bit")
    assert "sekr" not in str(caught.value)


# -- words, counters, lines ----------------------------------------------------------------------


def test_a_source_is_named_by_what_may_be_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "lr=1e-4,seed=0"
    run.mkdir(parents=True)
    (tmp_path / "lr=3e-4").mkdir()  # which a name could stand in front of
    found = {
        given: (model_settings(given).name, model_settings(given).source)
        for given in (str(run), f"w={run}", "zoo:dreamer-dmc-cartpole-swingup", "w=zoo:x",
                      "runs/lr=1e-4,seed=0", "lr=3e-4", "/not/here/lr=3e-4/export")
    }  # fmt: skip
    assert found == {
        str(run): ("lr-1e-4-seed-0", str(run)),
        f"w={run}": ("w", str(run)),
        "zoo:dreamer-dmc-cartpole-swingup": (
            "dreamer-dmc-cartpole-swingup",
            "zoo:dreamer-dmc-cartpole-swingup",
        ),
        "w=zoo:x": ("w", "zoo:x"),
        "runs/lr=1e-4,seed=0": ("lr-1e-4-seed-0", "runs/lr=1e-4,seed=0"),
        "lr=3e-4": ("lr-3e-4", "lr=3e-4"),
        "/not/here/lr=3e-4/export": ("export", "/not/here/lr=3e-4/export"),
    }


def test_folders_with_an_equals_sign_can_be_compared(tmp_path):
    run = tmp_path / "lr=1e-4"
    run.mkdir()
    given = [str(run), f"w={run}", "runs/lr=3e-4/export", "a=b"]
    assert named(given) == {
        str(run): str(run),
        "w": str(run),
        "runs/lr=3e-4/export": "runs/lr=3e-4/export",
        "a": "b",
    }


def test_refusals_are_counted_and_logged_with_their_model_and_reason(folder, caplog):
    caplog.set_level(logging.INFO, "agentzoo.access")
    with serving(folder) as live, Rest(live.http) as rest:
        assert rest.infer({"observation": OBS[None] * np.nan})[0] == 400
        with pytest.raises(InvalidStatus, match="403"):
            Wire(f"{live.ws}/vla", Origin="http://x")
        with Openpi(live.ws) as client:
            client.send(bytes(1 << 20))
            assert client.closed() == 1009
        ending = Openpi(live.ws)
        while len(live.service.channels) != 1:
            time.sleep(0.01)
        metrics = live.metrics()
    assert ending.closed() == 1001
    ending.close()
    for protocol, reason in (
        ("v2", "nonfinite"),
        ("vla-eval", "forbidden"),
        ("openpi", "too_large"),
    ):
        labels = f'model="a",outcome="refused",protocol="{protocol}",reason="{reason}",version="1"'
        assert metrics[f"agentzoo_requests_total{{{labels}}}"] == 1
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name.endswith("access")]
    said = [(one.get("model"), one.get("reason")) for one in lines]
    assert {("a", "nonfinite"), ("a", "forbidden"), ("a", "too_large")} <= set(said)
    assert [one["close"] for one in lines if "close" in one] == [1009, 1001]


def test_a_refused_sequence_start_opens_nothing(folder):
    with serving(folder) as live, Rest(live.http) as rest:
        rest.act(OBS, 1, sequence_start=True)
        for reason, inputs in (
            ("malformed", {"observation": OBS[None], "is_first": np.ones(1, np.float32)}),
            ("malformed", {"observation": OBS[None], "deterministic": np.ones(2, bool)}),
            ("malformed", {"observation": OBS[None], "noise_address": np.zeros((1, 3), np.int64)}),
            ("malformed", {"observation": np.zeros((2, 4), np.float32)}),
            ("malformed", {"observation": np.zeros((1, 5), np.float32)}),
            ("nonfinite", {"observation": OBS[None] * np.nan}),
        ):
            status, body = rest.infer(inputs, sequence_id=2, sequence_start=True)
            assert (status, body["reason"]) == (400, reason)
            assert len(live.service.sessions) == 1


def test_an_output_that_is_not_there_changes_no_state(folder):
    policy = load_policy(folder, provider="cpu")
    with serving(folder) as live, Rest(live.http) as rest:
        assert np.array_equal(rest.act(OBS, 1, sequence_start=True), policy.act(OBS))
        inputs = [{"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0.0] * 4}]
        for output in ({"name": "x"}, {"name": "action", "parameters": {"classification": 2}}):
            body = {"inputs": inputs, "outputs": [output], "parameters": {"sequence_id": 1}}
            assert rest.call("POST", "/v2/models/a/infer", body)[0] == 400
        assert np.array_equal(rest.act(OBS, 1), policy.act(OBS))


def test_what_others_wrote_stays_text_in_the_log():
    record = logging.LogRecord(
        "x", logging.INFO, "", 0, "%s is ready\n\x1b[2Jready on\ud800", ("a",), None
    )
    assert OneLine().format(record) == r"a is ready\n\x1b[2Jready on\ud800"


def test_what_reset_gives_is_told_from_an_observation(folder):
    policy = load_policy(folder, provider="cpu")
    with serving(folder) as live:
        for one in (policy, RemotePolicy(live.ws)):
            for call in (one.predict, one.act):
                with pytest.raises(ObservationError, match=r"obs, info = env\.reset\(\)"):
                    call((OBS, {}))


def test_a_policy_that_cannot_be_described_closes_its_websocket_in_order(folder, caplog):
    with serving(folder) as live:
        version = live.service.models["a"].current
        version.revision = "\ud800"  # no text that msgpack can hold
        with Wire(live.ws) as client:
            assert client.closed() == 1011
        version.revision = ""
        assert RemotePolicy(live.ws).digest == version.policy.digest
    assert "a request failed" in caplog.text
