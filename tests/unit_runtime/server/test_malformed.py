"""Malformed messages: a few thousand of what `make soak` sends a hundred thousand of."""

import gzip
import json
import socket
import time
import zlib

import pytest

from soak.handmade_bundle import write_bundle
from soak.malformed import run
from soak.memory import GROWTH_MB
from tests.unit_runtime.server.live import serving
from tests.unit_runtime.server.wires import Rest


def attacked(requests, seed, folder):
    """The findings of a short soak, and its log."""
    with (folder / "log.jsonl").open("w") as log:
        found = run(requests, seed, folder, log)
    return found, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_healthy_session_notices_nothing(tmp_path):
    found, lines = attacked(1_000, 1, tmp_path)
    seen = found["seen"]
    assert found["sent"] == 1_000
    assert found["healthy_steps"] > 1_000 // 25
    assert found["grown_mb"] <= GROWTH_MB
    assert [line["sent"] for line in lines] == [1_000]
    assert {"openpi refused", "vla refused", "rest 400", "transport"} <= seen.keys()
    assert "rest 500" not in seen  # whatever it was, the client was at fault


@pytest.mark.slow
def test_a_healthy_session_notices_nothing_for_longer(tmp_path):
    seen = attacked(6_000, 2, tmp_path)[0]["seen"]
    assert seen["openpi refused"] > 1_000
    assert "rest 500" not in seen


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with serving(write_bundle(tmp_path_factory.mktemp("handmade"))) as live:
        yield live


@pytest.mark.parametrize(
    ("encoding", "content", "says"),
    [
        ("gzip", b"no gzip", "not gzip"),
        ("gzip", gzip.compress(b"{}" * 999)[:-9], "not one whole gzip stream"),
        ("gzip", b"", "not one whole gzip stream"),
        ("gzip", gzip.compress(b"{}") + b"more", "not one whole gzip stream"),
        ("deflate", zlib.compress(b"{}" * 999)[:1], "not one whole deflate stream"),
        ("deflate", zlib.compress(b"{}" * 999)[:5], "not one whole deflate stream"),
        ("deflate", b"\xff" * 9, "not deflate"),
        ("br", b"{}", 'encoding is "br"; send it as gzip, deflate or plain'),
    ],
    ids=[  # gzip's bytes hold the time
        *("no gzip", "torn gzip", "empty gzip", "more than gzip"),
        *("cut deflate", "torn deflate", "no deflate", "unknown"),
    ],
)
def test_a_body_that_does_not_unpack_is_the_clients_fault(live, caplog, encoding, content, says):
    with Rest(live.http) as client:
        headers = {"Content-Encoding": encoding}
        status, body, _ = client.call("POST", "/v2/models/a/infer", content, headers)
        assert (status, body["reason"]) == (400, "malformed")
        assert says in body["error"]
        assert client.call("GET", "/v2/health/live")[0] == 200  # the connection is of use
    assert not caplog.records


@pytest.mark.parametrize("bits", [31, 15, -15])
def test_a_body_is_unpacked_whichever_way_it_was_packed(live, bits):
    tensor = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0.0] * 4}
    packing = zlib.compressobj(wbits=bits)
    content = packing.compress(json.dumps({"inputs": [tensor]}).encode()) + packing.flush()
    headers = {"Content-Encoding": "gzip" if bits == 31 else "deflate"}
    with Rest(live.http) as client:
        assert client.call("POST", "/v2/models/a/infer", content, headers)[0] == 200


@pytest.mark.parametrize("path", ["/", "/vla", "/v2"])
def test_a_client_that_leaves_in_its_handshake_leaves_no_trace(live, caplog, path):
    with socket.create_connection(("127.0.0.1", live.server.port)) as raw:
        raw.sendall(
            f"GET {path} HTTP/1.1\r\nHost: [::1]\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            .encode()
        )  # fmt: skip
    with Rest(live.http) as client:
        assert client.get("/v2/health/live")[0] == 200
    while live.service.channels:
        time.sleep(0.01)
    assert not caplog.records


def test_an_answer_in_json_holds_numbers_only(live):
    with Rest(live.http) as client:
        body = json.dumps({"inputs": [{"name": "observation", "shape": [1, 4],
                                       "datatype": "FP32", "data": [1e39, 0, 0, 0]}]})  # fmt: skip
        status, found, _ = client.call("POST", "/v2/models/a/infer", body.encode())
    assert (status, found["reason"]) == (400, "nonfinite")
