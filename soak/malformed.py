"""Malformed messages over all three protocols, beside a session that has to notice nothing.

python soak/malformed.py [--requests 100000] [--seed 0] [--minutes 90] [--log FILE]

A server in a process of its own is sent mutations of good messages, structures nobody asked for,
and bytes that are not even the transport's. It must answer each in time with a refusal that names
no file and no line, keep its memory and its sessions, and give a healthy client between them
exactly the actions of the policy in this process.

One JSON object every 1,000 requests goes to the log; the last one sums up. The exit status is 1 if
anything was lost, or was not sent by --minutes.
"""

import argparse
import json
import math
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TextIO

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402

from agentzoo.runtime import load_policy  # noqa: E402
from agentzoo.runtime.client.msgpack_arrays import pack, unpack  # noqa: E402
from soak.handmade_bundle import write_bundle  # noqa: E402
from soak.memory import GROWTH_MB, growth  # noqa: E402
from soak.server_process import TIMEOUT_S, ServerProcess, write  # noqa: E402

HEALTHY_EVERY = 25  # malformed requests between two steps of the healthy session
WARM = 0.2  # of the malformed requests, before the server's memory counts
LINE_EVERY = 1_000  # malformed requests between two lines of the log
TTL_S = 5.0  # of an idle session; sequences that nobody ends would be counted as growth
TELLTALE = re.compile(r"traceback|site-packages|File \"|\.py\b", re.IGNORECASE)

Rng = np.random.Generator


# -- what is sent --------------------------------------------------------------------------------


def junk(rng: Rng, depth: int = 0) -> object:
    """Some value that msgpack can hold; arrays of all kinds of lies among them."""
    kinds = 9 if depth < 4 else 6
    match int(rng.integers(kinds)):
        case 0:
            return [None, True, False][int(rng.integers(3))]
        case 1:
            return int(rng.choice(np.array([-(1 << 63), -1, 0, 1, 255, (1 << 63) - 1])))
        case 2:
            return float(rng.choice(np.array([np.nan, np.inf, -np.inf, 1e308, 0.0, -0.5])))
        case 3:
            return "".join(map(chr, rng.integers(32, 0x2FF, int(rng.integers(0, 40)))))
        case 4:
            return rng.bytes(int(rng.integers(0, 60)))
        case 5:
            return lying_array(rng)
        case 6:
            return [junk(rng, depth + 1) for _ in range(int(rng.integers(0, 5)))]
        case 7:
            return {str(junk(rng, 4))[:10]: junk(rng, depth + 1) for _ in range(3)}
        case _:
            value: object = 0
            for _ in range(int(rng.integers(1, 700))):
                value = [value]
            return value


def lying_array(rng: Rng) -> object:
    """An array whose data, type and shape need not fit each other."""
    dtypes = ["<f4", "|O", "O", "V8", "<U3", "f4,f4", "<M8[s]", ">f8", "|u1", "?", "c16", "", None]
    shapes: list[object] = [[4], [-1], [1 << 40], [0], [], [4, 1], "4", [4.0], [True] * 4, None]
    entries: list[tuple[str, object]] = [
        ("__ndarray__" if rng.random() < 0.8 else "__image__", True),
        ("data", rng.bytes(int(rng.choice(np.array([0, 15, 16, 32]))))),
        ("dtype", dtypes[int(rng.integers(len(dtypes)))]),
        ("shape", shapes[int(rng.integers(len(shapes)))]),
        ("format", ["png", "jpeg", "raw", "gif", None][int(rng.integers(5))]),
    ]
    kept = [entry for entry in entries if rng.random() < 0.95]
    if rng.random() < 0.5:
        return {key.encode(): value for key, value in kept}
    return dict(kept)


def mutated(rng: Rng, content: bytes) -> bytes:
    """A few bytes changed, cut off, put in or said twice."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, len(data) + 1)) if data else 0
        match int(rng.integers(4)):
            case 0 if at < len(data):
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                del data[at:]
            case 2:
                data[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case _:
                data[at:at] = data[:at][-20:]
    return bytes(data)


def openpi_message(rng: Rng) -> bytes | str:
    """A frame for openpi's protocol."""
    good = {"observation": rng.standard_normal(4), "is_first": bool(rng.random() < 0.3)}
    keys = ["observation", "is_first", "seed", "step", "session_id", "state", "deterministic",
            "timeout_s", "is_last", "prompt", "x"]  # fmt: skip
    match int(rng.integers(5)):
        case 0:
            return rng.bytes(int(rng.integers(0, 200)))
        case 1:
            return mutated(rng, pack(good, "openpi"))
        case 2:
            return packed({**good, keys[int(rng.integers(len(keys)))]: junk(rng)})
        case 3:
            return packed(junk(rng))
        case _:
            return str(junk(rng, 4))


def vla_message(rng: Rng) -> bytes | str:
    """A frame for vla-eval's protocol."""
    kinds = ["hello", "observation", "episode_start", "episode_end", "error", "action", "x"]
    payload: object = {"observation": rng.standard_normal(4).tolist(), "protocol_version": 1}
    good = {"type": kinds[int(rng.integers(7))], "payload": payload, "seq": 1, "timestamp": 0.0}
    match int(rng.integers(5)):
        case 0:
            return rng.bytes(int(rng.integers(0, 200)))
        case 1:
            return mutated(rng, packed(good))
        case 2:
            return packed({**good, ["type", "payload", "seq"][int(rng.integers(3))]: junk(rng)})
        case 3:
            return packed({**good, "payload": {"observation": junk(rng), "images": junk(rng)}})
        case _:
            return packed(junk(rng))


def packed(value: object) -> bytes:
    """Msgpack of a value, or of what is left of it where it is nested too deeply to be packed."""
    try:
        return pack(value, "openpi")
    except (ValueError, RecursionError):
        return b"\x91" * 2_000


def rest_request(rng: Rng) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers of a request."""
    tensor = {
        "name": "observation",
        "shape": [1, 4],
        "datatype": "FP32",
        "data": [0.1, 0.2, 0.3, 0.4],
    }
    body: dict[str, object] = {"inputs": [tensor], "parameters": {}, "outputs": []}
    path = ["/v2/models/a/infer", "/v2/models/a/versions/1/infer", "/v2/repository/index",
            "/v2/models/%00/infer", "/v2/repository/models/a/load"]  # fmt: skip
    chosen = path[int(rng.choice(5, p=[0.8, 0.05, 0.05, 0.05, 0.05]))]
    headers: dict[str, str] = {}
    if rng.random() < 0.3:
        lengths = ["0", "-1", "x", "99999999999999", "10", "1e3", ""]
        headers["Inference-Header-Content-Length"] = lengths[int(rng.integers(7))]
    if rng.random() < 0.05:
        headers["Content-Encoding"] = ["gzip", "deflate", "br", "x"][int(rng.integers(4))]
    match int(rng.integers(5)):
        case 0:
            return chosen, rng.bytes(int(rng.integers(0, 200))), headers
        case 1:
            return chosen, mutated(rng, json.dumps(body).encode()), headers
        case 2:
            part = ["name", "shape", "datatype", "data", "parameters"][int(rng.integers(5))]
            body["inputs"] = [{**tensor, part: plain(junk(rng))}]
        case 3:
            names = ["sequence_id", "sequence_start", "sequence_end", "timeout", "seed", "x"]
            body["parameters"] = {names[int(rng.integers(6))]: plain(junk(rng))}
        case _:
            body[["inputs", "outputs", "id", "parameters"][int(rng.integers(4))]] = plain(junk(rng))
    return chosen, json.dumps(body).encode(), headers


def plain(value: object) -> object:
    """The value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value] if len(str(value)) < 500 else [[[[0]]]]
    return value.hex() if isinstance(value, bytes) else value


def transport_bytes(rng: Rng) -> bytes:
    """Bytes for a bare connection: broken HTTP, or a handshake and broken frames after it."""
    handshake = (
        b"GET /%s HTTP/1.1\r\nHost: [::1]\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ) % [b"", b"vla"][int(rng.integers(2))]
    frames = [
        b"\x82\xff" + struct.pack(">Q", 1 << 62) + b"\0\0\0\0",  # says it is huge
        b"\x82\x05hello",  # not masked
        b"\xf2\x80\0\0\0\0",  # reserved bits
        b"\x8b\x80\0\0\0\0",  # a kind that does not exist
        b"\x80\x80\0\0\0\0",  # goes on with nothing
        b"\x89\xfe\x00\x80\0\0\0\0" + b"x" * 128,  # a ping that is too long
        b"\x88\x81\0\0\0\0x",  # a goodbye with half a code
        b"\x81\x82\0\0\0\0\xff\xfe",  # text that is not UTF-8
    ]
    requests = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + rng.bytes(80),  # a TLS hello
        b"POST /v2/models/a/infer HTTP/1.1\r\nHost: [::1]\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2/models/a/infer HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /v2/models/a/infer HTTP/1.1\r\nHost: [::1]\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: [::1]\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]\r\n" + b"A: " + b"x" * 20_000 + b"\r\n\r\n",
        rng.bytes(100),
        mutated(rng, handshake),
    ]
    if rng.random() < 0.6:
        frame = frames[int(rng.integers(len(frames)))]
        return handshake + (mutated(rng, frame) if rng.random() < 0.5 else frame)
    return requests[int(rng.integers(len(requests)))]


# -- how it is sent ------------------------------------------------------------------------------


@dataclass
class Attack:
    """Malformed requests to one server, and what came back.

    Attributes:
        port: of the server on loopback.
        seed: the same one sends the same bytes.
        seen: how often each kind of answer came.
    """

    port: int
    seed: int = 0
    seen: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        """Open nothing yet."""
        self.rng = np.random.default_rng(self.seed)
        self.sockets: dict[str, tuple[ExitStack, ClientConnection]] = {}
        self.rest = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)

    def send(self) -> None:
        """One malformed request of a random kind.

        Raises:
            AssertionError: if the answer tells of the server's inside.
            TimeoutError: if there is none.
        """
        kind = self.rng.random()
        if kind < 0.4:
            self._message("openpi", openpi_message(self.rng))
        elif kind < 0.7:
            self._message("vla", vla_message(self.rng))
        elif kind < 0.97:
            self._request(*rest_request(self.rng))
        else:
            self._transport(transport_bytes(self.rng))

    def close(self) -> None:
        """Close every connection."""
        self.rest.close()
        for path in list(self.sockets):
            self._close(path)

    def _message(self, path: str, content: bytes | str) -> None:
        if path not in self.sockets:
            stack = ExitStack()
            url = f"ws://127.0.0.1:{self.port}/{path}"
            opened = connect(url, compression=None, max_size=None, close_timeout=1.0)
            self.sockets[path] = stack, stack.enter_context(opened)
            if path == "openpi":
                self.sockets[path][1].recv(TIMEOUT_S)
        socket_ = self.sockets[path][1]
        try:
            socket_.send(content)
            if path == "vla":  # some messages have no answer; this one has
                socket_.send(packed({"type": "hello", "payload": {}, "seq": 77}))
            while not self._judge(path, socket_.recv(TIMEOUT_S)):
                pass
        except ConnectionClosed:
            self.seen[f"{path} closed"] += 1
            self._close(path)

    def _judge(self, path: str, reply: str | bytes) -> bool:
        """Count an answer, and say whether it was the last to this message."""
        value = reply if isinstance(reply, str) else unpack(reply)
        text = str(value)
        assert not TELLTALE.search(text), text
        refused = isinstance(reply, str) or "error" in text
        self.seen[f"{path} {'refused' if refused else 'answered'}"] += 1
        return path == "openpi" or (isinstance(value, dict) and value.get("seq") == 77)

    def _close(self, path: str) -> None:
        self.sockets.pop(path)[0].close()

    def _request(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        try:
            self.rest.request("POST", path, body, headers)
            response = self.rest.getresponse()
            text = response.read().decode(errors="replace")
        except (HTTPException, ConnectionError):
            self.rest.close()
            self.seen["rest closed"] += 1
            return
        assert not TELLTALE.search(text), text
        self.seen[f"rest {response.status}"] += 1

    def _transport(self, content: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S) as raw:
            raw.sendall(content)
            raw.shutdown(socket.SHUT_WR)
            received = b"".join(drain(raw))
        # frames of the metadata are in it, too; only what follows an error is looked at
        assert b"Traceback" not in received
        self.seen["transport"] += 1


def drain(raw: socket.socket) -> Iterator[bytes]:
    """The bytes that come until the other side closes."""
    while True:
        try:
            part = raw.recv(65_536)
        except ConnectionError:
            return
        if not part:
            return
        yield part


class Healthy:
    """A session that is served properly meanwhile."""

    def __init__(self, port: int, folder: Path) -> None:
        """Begin beside a policy of this process."""
        self.stack = ExitStack()
        opened = connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None)
        self.socket = self.stack.enter_context(opened)
        self.socket.recv(TIMEOUT_S)
        self.local = load_policy(folder, provider="cpu")
        self.rng = np.random.default_rng(99)
        self.steps = 0

    def step(self) -> None:
        """One step on both sides.

        Raises:
            AssertionError: if the actions differ.
        """
        obs = self.rng.standard_normal(4)
        self.socket.send(pack({"observation": obs}, "openpi"))
        reply = self.socket.recv(TIMEOUT_S)
        assert isinstance(reply, bytes), reply
        found = unpack(reply)["actions"][0]
        expected = self.local.act(obs)
        assert np.array_equal(found, expected), (self.steps, found, expected)
        self.steps += 1


def run(
    requests: int,
    seed: int,
    folder: Path,
    log: TextIO,
    minutes: float = math.inf,
) -> dict[str, object]:
    """Send malformed requests, and check everything that has to hold.

    Args:
        requests: how many.
        seed: of what is sent.
        folder: to work in.
        log: gets a line every 1,000 requests.
        minutes: after which no more are sent.

    Returns:
        The summary: how many were sent, how often each kind of answer came, the server's growth.

    Raises:
        AssertionError: naming what did not hold.
    """
    bundle = write_bundle(folder / "bundle")
    server = ServerProcess(bundle, folder / "server.log", "--session-ttl", str(TTL_S))
    started, sent, samples = time.monotonic(), 0, list[float]()
    try:
        healthy, attack = Healthy(server.port, bundle), Attack(server.port, seed)
        while sent < requests and time.monotonic() - started < 60 * minutes:
            if sent % HEALTHY_EVERY == 0:
                healthy.step()
                if sent >= WARM * requests:
                    samples.append(server.memory_mb())
            attack.send()
            sent += 1
            if sent % LINE_EVERY == 0:
                write(log, {"sent": sent, "seconds": round(time.monotonic() - started, 1),
                            "server_mb": round(server.memory_mb(), 1),
                            "sessions": int(server.metric("agentzoo_sessions")),
                            "healthy_steps": healthy.steps})  # fmt: skip
        attack.close()
        healthy.step()
        limit = time.monotonic() + TIMEOUT_S
        # sequences of REST have no connection to end with, and expire; all others end with theirs
        while server.metric("agentzoo_sessions") > 1:
            assert time.monotonic() < limit, "sessions outlived their connections and their time"
            time.sleep(TTL_S / 10)
            healthy.step()
        grown = growth(samples)
        assert grown <= GROWTH_MB, f"the server grew by {grown:.1f} MB"
        assert server.stop() == 0, "the server did not end in order"
    finally:
        server.process.kill()
        server.process.wait(30)
    return {"asked": requests, "sent": sent, "seconds": round(time.monotonic() - started, 1),
            "seed": seed, "healthy_steps": healthy.steps, "grown_mb": round(grown, 2),
            "seen": dict(sorted(attack.seen.items()))}  # fmt: skip


def main() -> int:
    """Run it; the last line sums up, and says what was lost if anything was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=90.0, help="after which no more are sent")
    parser.add_argument("--log", type=Path, default=Path("soak-malformed.jsonl"))
    options = parser.parse_args()
    with options.log.open("w") as log, tempfile.TemporaryDirectory() as folder:
        try:
            found = run(options.requests, options.seed, Path(folder), log, options.minutes)
        except Exception as error:
            write(log, {"asked": options.requests, "lost": f"{type(error).__name__}: {error}"})
            raise
        write(log, {**found, "lost": None})
    return 0 if found["sent"] == options.requests else 1


if __name__ == "__main__":
    sys.exit(main())
