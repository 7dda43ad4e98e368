"""The policy server on loopback: latency at batch 1, and requests a second at 1 to 1,000 sessions.

Server and load run in processes of their own. The policy is a small recurrent one from state, so
that what is measured is the server.

python benchmarks/serving.py
python benchmarks/serving.py --peer ws://127.0.0.1:9000   # peers/openpi_server.py
"""

import argparse
import asyncio
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import uvloop  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from agentzoo.runtime import RemotePolicy, load_policy  # noqa: E402
from agentzoo.runtime.client.msgpack_arrays import pack  # noqa: E402
from agentzoo.runtime.client.websocket import Connection  # noqa: E402
from soak.handmade_bundle import write_bundle  # noqa: E402
from soak.server_process import ServerProcess  # noqa: E402

OBSERVATIONS, ACTIONS, DETER = 24, 6, 200  # dmc:walker-walk from state, PlaNet's recurrent size
SESSIONS = (1, 4, 16, 64, 256, 1000)
BINARY, KEY = 0x82, "AAAAAAAAAAAAAAAAAAAAAA=="  # of a websocket: RFC 6455
WARM = 200  # requests before the first that counts
TURN = 50  # requests until it is the next one's turn
ECHO = """
import asyncio, socket
from aiohttp import web
async def echo(request):
    channel = web.WebSocketResponse(compress=False)
    await channel.prepare(request)
    async for message in channel:
        await channel.send_bytes(message.data)
    return channel
app = web.Application()
app.router.add_get("/", echo)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
web.run_app(app, sock=listener, access_log=None, print=None)
"""


# -- load, in a process of its own ---------------------------------------------------------------


class Asker(asyncio.Protocol):
    """One session: asks, waits for the answer and asks again, with as little as that takes.

    A client of a package would take as much of the machine as the servers that are measured.
    """

    def __init__(self, url: str, message: bytes) -> None:
        self.url, self.message, self.rest = urlsplit(url), _masked(message), bytearray()
        loop = asyncio.get_running_loop()
        self.ready, self.done = loop.create_future(), loop.create_future()
        self.is_open, self.left, self.times, self.asked = False, 0, list[float](), 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands."""
        self.transport = cast(asyncio.Transport, transport)
        head = f"GET {self.url.path or '/'} HTTP/1.1\r\nHost: {self.url.netloc}\r\n"
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        self.transport.write(f"{head}{upgrade}Sec-WebSocket-Key: {KEY}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Look for the end of what is awaited: the handshake's answer, or a frame."""
        self.rest += data
        if not self.is_open:
            if b"\r\n\r\n" not in self.rest:
                return
            head, _, self.rest = self.rest.partition(b"\r\n\r\n")
            assert b" 101 " in head, head
            self.is_open = True
        while size := _frame(self.rest):
            assert self.rest[0] == BINARY, self.rest[:200]
            del self.rest[:size]
            self._answered()

    def _answered(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)  # the server speaks first
            return
        self.times.append(time.perf_counter() - self.asked)
        self.left -= 1
        if self.left:
            self._ask()
        else:
            self.done.set_result(None)

    def _ask(self) -> None:
        self.asked = time.perf_counter()
        self.transport.write(self.message)

    async def ask(self, count: int) -> list[float]:
        """The times of so many requests."""
        self.left, self.times = count, []
        self.done = asyncio.get_running_loop().create_future()
        self._ask()
        await self.done
        return self.times


def _masked(message: bytes) -> bytes:
    """A client's frame, masked with zeros: RFC 6455, section 5.2."""
    assert 126 <= len(message) < 1 << 16, len(message)
    return struct.pack(">BBH4x", BINARY, 0x80 | 126, len(message)) + message


def _frame(content: bytearray) -> int:
    """Bytes of the whole frame that begins here; 0 if it has not all come."""
    if len(content) < 2:
        return 0
    size, head = content[1], 2
    if size >= 126:
        head = 4 if size == 126 else 10
        if len(content) < head:
            return 0
        size = int.from_bytes(content[2:head], "big")
    return head + size if len(content) >= head + size else 0


async def load(url: str, sessions: int, requests: int) -> dict[str, float]:
    """Sessions that each ask, wait for the answer and ask again; milliseconds, and the rate."""
    obs = np.random.default_rng(0).standard_normal(OBSERVATIONS).astype(np.float32)
    message, loop = pack({"observation": obs}, "openpi"), asyncio.get_running_loop()
    host, port = urlsplit(url).hostname, urlsplit(url).port
    askers = [
        (await loop.create_connection(lambda: Asker(url, message), host, port))[1]
        for _ in range(sessions)
    ]
    await asyncio.gather(*(one.ready for one in askers))
    await asyncio.gather(*(one.ask(5) for one in askers))
    started = time.perf_counter()
    each = max(1, requests // sessions)
    found = await asyncio.gather(*(one.ask(each) for one in askers))
    seconds = time.perf_counter() - started
    for one in askers:
        one.transport.close()
    times = [time for own in found for time in own]
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1e3
    return {"rate": len(times) / seconds, "p50": float(p50), "p99": float(p99)}


def loaded(url: str, sessions: int, requests: int) -> "subprocess.Popen[str]":
    """Start the load."""
    command = [sys.executable, __file__, "--load", url, str(sessions), str(requests)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measured(process: "subprocess.Popen[str]") -> dict[str, float]:
    """The findings of a load."""
    out, _ = process.communicate()
    return json.loads(out)


# -- tables --------------------------------------------------------------------------------------


def latency(
    bundle: Path, server: ServerProcess, threaded: ServerProcess, echo: str, requests: int
) -> None:
    """One client: the policy here, the same behind the server, and bytes sent back bare.

    The servers are asked by the same clients: ours, and that of the websockets package, which
    openpi's client is made of. `threaded` computes no lone step in its event loop.
    """
    obs = np.random.default_rng(0).standard_normal(OBSERVATIONS).astype(np.float32)
    local = load_policy(bundle, provider="cpu")
    url = f"ws://127.0.0.1:{server.port}"
    message = pack({"observation": obs}, "openpi")
    with ExitStack() as stack:
        remote = stack.enter_context(closing(RemotePolicy(url)))
        aside = f"ws://127.0.0.1:{threaded.port}"
        other = stack.enter_context(closing(RemotePolicy(aside)))
        bare = stack.enter_context(closing(Connection(echo, headers={}, timeout_s=30)))
        plain = [stack.enter_context(connect(one, compression=None)) for one in (url, echo)]
        plain[0].recv()  # the metadata
        times = in_turns(
            {
                "policy.act": lambda: local.act(obs),
                "RemotePolicy.act": lambda: remote.act(obs),
                "RemotePolicy.act, steps in the thread": lambda: other.act(obs),
                "echo, the same client": lambda: (bare.send(message), bare.receive(30)),
                "websockets, our server": lambda: (plain[0].send(message), plain[0].recv()),
                "websockets, echo": lambda: (plain[1].send(message), plain[1].recv()),
            },
            requests,
        )
    print("| one session, ms | p50 | p99 | p99, warm |\n|---|---:|---:|---:|")
    for name, (p50, p99, warm) in times.items():
        print(f"| {name} | {p50:.3f} | {p99:.3f} | {warm:.3f} |")
    added = times["RemotePolicy.act"][0] - times["policy.act"][0]
    ours = [times["RemotePolicy.act"][i] / times["echo, the same client"][i] for i in (1, 2)]
    theirs = [times["websockets, our server"][i] / times["websockets, echo"][i] for i in (1, 2)]
    print(
        f"\nadded p50 {added:.3f} ms (aim 0.3); p99 over the echo's (aim 3): with our client "
        f"{ours[0]:.2f}, warm {ours[1]:.2f}; with websockets' {theirs[0]:.2f}, "
        f"warm {theirs[1]:.2f}\n"
    )


def in_turns(subjects: dict[str, Callable[[], object]], requests: int) -> dict[str, list[float]]:
    """Milliseconds of each: p50, p99, and p99 without the first call of each turn.

    A busy moment is everybody's. A turn's first call finds the caches full of the others' things:
    one in fifty, so that the first p99 is that of cold calls.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in subjects}
    for act in subjects.values():
        for _ in range(WARM):
            act()
    for _ in range(-(-requests // TURN)):
        for name, act in subjects.items():
            times[name].append([_timed(act) for _ in range(TURN)])
    return {
        name: [*np.quantile(turns, [0.5, 0.99]) * 1e3, np.quantile(turns[:, 1:], 0.99) * 1e3]
        for name, turns in ((name, np.array(one)) for name, one in times.items())
    }


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def throughput(urls: dict[str, str], requests: int) -> None:
    """Requests a second and p99 at each number of sessions, side by side."""
    names = list(urls)
    print("| sessions | " + " | ".join(f"{n}: req/s | p99 ms" for n in names) + " | ratio |")
    print("|---:|" + "---:|" * (2 * len(names) + 1))
    for sessions in SESSIONS:
        found = [measured(loaded(url, sessions, requests)) for url in urls.values()]
        cells = " | ".join(f"{one['rate']:,.0f} | {one['p99']:.1f}" for one in found)
        print(f"| {sessions} | {cells} | {found[0]['rate'] / found[-1]['rate']:.2f} |", flush=True)
    print()


def health(server: ServerProcess, requests: int) -> None:
    """Time of a health check while 64 sessions ask as fast as they can."""
    from http.client import HTTPConnection

    client, times = HTTPConnection("127.0.0.1", server.port), list[float]()
    process = loaded(f"ws://127.0.0.1:{server.port}", 64, requests)
    while process.poll() is None:
        started = time.perf_counter()
        client.request("GET", "/v2/health/ready")
        assert client.getresponse().read()
        times.append(time.perf_counter() - started)
        time.sleep(0.01)
    measured(process)
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1e3
    print(f"health beside 64 sessions: p50 {p50:.1f} ms, p99 {p99:.1f} ms (aim 250)\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="of each measurement")
    parser.add_argument("--peer", help="another server of openpi's protocol, for the same policy")
    parser.add_argument("--bundle", type=Path, help="write the policy's bundle here, and end")
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        url, sessions, requests = options.load
        print(json.dumps(uvloop.run(load(url, int(sessions), int(requests)))))
        return
    size = {"observations": OBSERVATIONS, "actions": ACTIONS, "deter": DETER}
    if options.bundle:
        write_bundle(options.bundle, **size)
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundle = write_bundle(Path(folder) / "bundle", **size)
        on = ServerProcess(bundle, Path(folder) / "on.log", "--max-sessions", "2000")
        stack.callback(on.stop)
        off = ServerProcess(bundle, Path(folder) / "off.log", "--max-sessions", "2000",
                            "--max-batch", "1")  # fmt: skip
        stack.callback(off.stop)
        threaded = ServerProcess(bundle, Path(folder) / "threaded.log", "--lone-steps", "thread")
        stack.callback(threaded.stop)
        command = [sys.executable, "-c", ECHO]
        echo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        stack.callback(echo.terminate)
        assert echo.stdout is not None
        address = f"ws://127.0.0.1:{int(echo.stdout.readline())}"
        latency(bundle, on, threaded, address, options.requests)
        urls = {"batching": f"ws://127.0.0.1:{on.port}", "one by one": f"ws://127.0.0.1:{off.port}"}
        if options.peer:
            urls["peer"] = options.peer
        throughput(urls, options.requests)
        health(on, options.requests)


if __name__ == "__main__":
    main()
