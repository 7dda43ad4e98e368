"""Messages that are cheap to send and dear to read, and what they cost a server.

python soak/bombs.py [--minutes 20] [--log FILE]

Each bomb is sent a few times to `agentzoo serve` in a process of its own, beside a client that asks
for the server's health all the time. What a bomb costs is how much the server's memory grows at
most (Linux's high-water mark), and the longest that a call of health took. The same is measured
with as many messages that are sound, of the largest size that the policy may be sent.

One JSON object a bomb goes to the log; the last one sums up. The exit status is 1 if one made the
memory grow by more than `--memory` megabytes, or kept health waiting for longer than `--wait`.
"""

import argparse
import gzip
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from agentzoo.runtime import load_policy  # noqa: E402
from agentzoo.runtime.client.msgpack_arrays import pack  # noqa: E402
from agentzoo.runtime.server.message_limits import message_limit  # noqa: E402
from agentzoo.runtime.spec import PolicySpec  # noqa: E402
from soak.handmade_bundle import write_bundle  # noqa: E402
from soak.server_process import TIMEOUT_S, ServerProcess, write  # noqa: E402

TIMES = 3  # that each bomb is sent
SIDE = 11_000  # of an image of zeros: 363 MB in 350 kB
BATCH = 16  # elements that a stateless request may have
NUMBERS = 20_000  # in the observation of the policy with the largest messages
PATH = "/v2/models/a/infer"


@dataclass(frozen=True)
class Bomb:
    """A message, and how it is sent.

    Attributes:
        name: what is in it.
        protocol: "openpi", "vla-eval" or "v2".
        content: the message or body.
        is_packed: whether the body is gzip.
    """

    name: str
    protocol: str
    content: bytes
    is_packed: bool = False


def bombs(spec: PolicySpec, limits: dict[str, int]) -> Iterator[Bomb]:
    """Sound messages of one policy first, then all bombs.

    Args:
        spec: the policy's.
        limits: bytes of a message, by protocol.
    """
    yield from sound(spec)
    image = picture(SIDE)
    key, obs = next(iter(spec.obs.items()))
    for name, message in {
        "a huge image that is not read": {"x": image},
        "a huge image for the observation": {key: image},
        "a huge image that lies about its size": {key: {**image, "shape": list(obs.source)}},
        "a huge image as the prompt": {"prompt": image},
        "a huge image as a state": {"carried": image, key: image},
    }.items():
        content = pack(message, "openpi")
        if len(content) <= limits["openpi"]:
            yield Bomb(name, "openpi", content)
    for kind in ("error", "episode_start", "observation"):
        message = {"type": kind, "payload": {"images": {"a": image}, key: image}, "seq": 3}
        content = pack(message, "vla-eval")
        if len(content) <= limits["vla-eval"]:
            yield Bomb(f"a huge image in {kind}", "vla-eval", content)
    for protocol in ("openpi", "vla-eval"):
        for name, content in packed_values(limits[protocol] - 64):
            yield Bomb(name, protocol, content)
    for name, content in json_values(limits["v2"] - 256):
        for where, before, after in (
            ("inputs", b'{"inputs":[', b"]}"),
            ("parameters", b'{"inputs":[],"parameters":{"a":', b"}}"),
            ("data", b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP32","data":', b"}]}"),
        ):
            yield Bomb(f"{name} in {where}", "v2", before + content + after)
    spaces = gzip.compress(b" " * (1 << 30), 9)
    yield Bomb("a GiB of packed spaces", "v2", spaces[: limits["v2"]], is_packed=True)


def sound(spec: PolicySpec) -> Iterator[Bomb]:
    """The largest messages of each protocol that are answered."""
    key, obs = next(iter(spec.obs.items()))
    kind = np.uint8 if obs.kind == "image" else np.float32
    batch = np.full((BATCH, *obs.source), 1, kind)
    yield Bomb("sound", "openpi", pack({key: batch, "carried": None}, "openpi"))
    message = {"type": "observation", "payload": {key: batch[0]}, "seq": 3}
    yield Bomb("sound", "vla-eval", pack(message, "vla-eval"))
    datatype = "UINT8" if obs.kind == "image" else "FP32"
    data = [1 if obs.kind == "image" else 0.123456789] * batch.size
    tensor = {"name": key, "shape": batch.shape, "datatype": datatype, "data": data}
    yield Bomb("sound", "v2", json.dumps({"inputs": [tensor]}).encode())


def picture(side: int) -> dict[str, object]:
    """A PNG of zeros, which packs to a thousandth."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "png")
    return {"__image__": True, "format": "png", "shape": [side, side, 3], "data": file.getvalue()}


def packed_values(size: int) -> Iterator[tuple[str, bytes]]:
    """Msgpack of about this size that makes many values of few bytes."""
    values = {"lists": b"\x90", "maps": b"\x80", "numbers": b"\x01", "texts": b"\xa0"}
    values |= {"nested lists": b"\x91", "floats": b"\xcb" + b"\1" * 8}
    for name, value in values.items():
        count = size // len(value)
        head = b"" if name.startswith("nested") else b"\xdd" + count.to_bytes(4, "big")
        yield name, b"\x81\xa1x" + head + value * count
    count = size // 6
    keys = b"".join(b"\xa4%04x\1" % (i % 65536) for i in range(count))
    yield "keys", b"\xdf" + count.to_bytes(4, "big") + keys
    yield "a text", b"\x81\xa1x\xdb" + (size - 8).to_bytes(4, "big") + b"x" * (size - 8)
    yield "lists that are not there", b"\x81\xa1x" + b"\xdd\xff\xff\xff\xff" * (size // 5)


def json_values(size: int) -> Iterator[tuple[str, bytes]]:
    """JSON of about this size that makes many values of few bytes."""
    for name, value in {"numbers": b"0", "floats": b"1e5", "long floats": b"0.1234567890123456",
                        "texts": b'""', "lists": b"[]", "objects": b"{}", "truths": b"true",
                        "digits": b"1" * 4000}.items():  # fmt: skip
        yield name, b"[" + b",".join([value] * (size // (len(value) + 1))) + b"]"
    yield "keys", b"{" + b",".join(b'"%x":0' % i for i in range(size // 11)) + b"}"
    yield "escapes", b'"' + b"\\u1234" * (size // 6) + b'"'
    yield "nested lists", b"[" * (size // 2) + b"]" * (size // 2)


# -- what they cost ------------------------------------------------------------------------------


class Health(threading.Thread):
    """A client that asks for health all the time, and notes how long that took."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.longest, self.asked = port, 0.0, 0
        self.is_over = threading.Event()

    def run(self) -> None:
        """Ask until told to stop."""
        client = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        while not self.is_over.is_set():
            started = time.monotonic()
            client.request("GET", "/v2/health/ready")
            client.getresponse().read()
            self.longest = max(self.longest, time.monotonic() - started)
            self.asked += 1
            time.sleep(0.001)
        client.close()


def cost(server: ServerProcess, send: Callable[[], None]) -> tuple[float, float]:
    """Megabytes that the memory grew by at most, and the longest call of health in seconds."""
    health = Health(server.port)
    health.start()
    while health.asked < 20:
        time.sleep(0.01)
    health.longest = 0.0
    process = Path(f"/proc/{server.process.pid}")
    (process / "clear_refs").write_text("5")  # the mark starts from now
    before = server.memory_mb()
    send()
    time.sleep(0.05)
    lines = (process / "status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    health.is_over.set()
    health.join()
    return peak - before, health.longest


def send(port: int, bomb: Bomb, said: list[str]) -> None:
    """Send a bomb some times, and note what each answer began with."""
    for _ in range(TIMES):
        said.append(_posted(port, bomb) if bomb.protocol == "v2" else _told(port, bomb))


def _posted(port: int, bomb: Bomb) -> str:
    client = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    headers = {"Content-Encoding": "gzip"} if bomb.is_packed else {}
    with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it has read all
        client.request("POST", PATH, bomb.content, headers)
    try:
        response = client.getresponse()
        return f"{response.status} {response.read(60)!r}"
    except (TimeoutError, ConnectionError) as error:
        return type(error).__name__
    finally:
        client.close()


def _told(port: int, bomb: Bomb) -> str:
    path = "vla" if bomb.protocol == "vla-eval" else ""
    url = f"ws://127.0.0.1:{port}/{path}"
    try:
        with connect(url, compression=None, max_size=None, close_timeout=1) as client:
            if not path:
                client.recv(TIMEOUT_S)
            client.send(bomb.content)
            if b"episode_start" in bomb.content or b"error" in bomb.content:
                message = {"type": "hello", "payload": {"protocol_version": 1}, "seq": 9}
                client.send(pack(message, "vla-eval"))
            return repr(client.recv(TIMEOUT_S)[:60])
    except ConnectionClosed as error:
        return f"closed with {error.rcvd.code if error.rcvd else 'nothing'}"


# -- all of it -----------------------------------------------------------------------------------


def run(
    folder: Path,
    log: TextIO,
    minutes: float,
    memory: float,
    wait: float,
    policies: Sequence[str] = ("numbers", "image", "many numbers"),
) -> dict[str, object]:
    """Send every bomb to a server of each kind of policy.

    Returns:
        The summary.
    """
    limit = time.monotonic() + 60 * minutes
    kinds: dict[str, dict[str, Any]] = {
        "numbers": {},
        "image": {"image": (64, 64, 3)},
        "many numbers": {"observations": NUMBERS},
    }
    worst: dict[str, float] = {"megabytes": 0.0, "seconds": 0.0}
    lost: list[str] = []
    count = 0
    for kind in policies:
        bundle = write_bundle(folder / kind, **kinds[kind])
        server = ServerProcess(bundle, folder / "server.log", "--no-page")
        try:
            spec = load_policy(bundle, provider="cpu").spec
            limits = {one: message_limit(spec, one, BATCH) for one in ("openpi", "v2")}
            limits["vla-eval"] = message_limit(spec, "vla-eval")
            for bomb in bombs(spec, limits):
                if time.monotonic() > limit:
                    lost.append(f"{minutes} minutes were not enough")
                    break
                said: list[str] = []
                grown, waited = cost(server, partial(send, server.port, bomb, said))
                count += 1
                line = {"policy": kind, "protocol": bomb.protocol, "bomb": bomb.name,
                        "kilobytes": round(len(bomb.content) / 1e3, 1),
                        "grown_mb": round(grown, 1), "health_ms": round(1e3 * waited, 1),
                        "said": said[-1]}  # fmt: skip
                write(log, line)
                worst["megabytes"] = max(worst["megabytes"], grown)
                worst["seconds"] = max(worst["seconds"], waited)
                if grown > memory or waited > wait:
                    lost.append(f"{kind}, {bomb.protocol}: {bomb.name}")
            if code := server.stop():
                lost.append(f"{kind}: the server ended with {code}")
        finally:
            server.process.kill()
            server.process.wait()
    found = {"bombs": count, **{name: round(one, 3) for name, one in worst.items()}, "lost": lost}
    write(log, found)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Bombs, and what they cost a server.")
    parser.add_argument("--minutes", type=float, default=20.0, help="after which none are sent")
    parser.add_argument("--memory", type=float, default=64.0, help="megabytes that one may cost")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds that health may take")
    parser.add_argument("--log", type=Path, default=Path("soak-bombs.jsonl"))
    given = parser.parse_args()
    with given.log.open("w") as log, tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), log, given.minutes, given.memory, given.wait)
    return 1 if found["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
