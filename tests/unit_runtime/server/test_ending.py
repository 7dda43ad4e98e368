"""A server ends within its time whoever is connected, and no step is lost to a swap or an end."""

import asyncio
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from agentzoo.runtime import load_policy
from agentzoo.runtime.client.msgpack_arrays import pack
from agentzoo.runtime.errors import ServingError
from agentzoo.runtime.server import ServerSettings
from agentzoo.runtime.server.models import local_folder
from agentzoo.runtime.server.service import Service
from soak.handmade_bundle import write_bundle
from soak.server_process import ServerProcess
from tests.unit_runtime.server.live import serving
from tests.unit_runtime.server.wires import Openpi, Rest

ROOT = Path(__file__).parents[3]
OBS = np.arange(4, dtype=np.float32) / 4
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PING = b"\x89\xfd" + bytes(4) + b"x" * 125
HEAD = b"POST /v2/models/a/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("handmade"))


class Held:
    """A policy's own step that waits until it is let go."""

    def __init__(self, policy):
        self.step, self.go, self.entered = policy.step, threading.Event(), threading.Event()
        policy.step = self

    def __call__(self, *arguments):
        self.entered.set()
        assert self.go.wait(30)
        return self.step(*arguments)


# -- ending --------------------------------------------------------------------------------------


SERVE = (
    "import sys; sys.modules['torch'] = None\n"
    "from agentzoo.cli.main import main\n"
    "main(['serve', *sys.argv[1:]])"
)
SLOWLY = (
    "import sys, time\n"
    "from agentzoo.cli import open_policy\n"
    "def locate(model):\n"
    "    print('loading', file=sys.stderr, flush=True)\n"
    "    time.sleep(600)\n"
    "open_policy.locate = locate\n"
    "from agentzoo.cli.main import main\n"
    "main(['serve', *sys.argv[1:]])"
)


def unread(port, content, again):
    """A connection that sends for as long as the server takes it, and never reads."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(0.3)
    one.connect(("127.0.0.1", port))
    one.sendall(content)
    with suppress(TimeoutError):
        for _ in range(500 if again else 0):
            one.sendall(again)
    return one


@pytest.mark.parametrize("has_session", [False, True], ids=["nobody acts", "somebody acts"])
def test_a_drain_ends_in_its_time_whoever_is_there(folder, tmp_path, has_session):
    log = tmp_path / "server.log"  # a pipe that nobody reads would hold the server up, too
    server = ServerProcess(folder, log, "--drain", "0.5", "--deadline", "0.5")
    batch = pack({"observation": np.zeros((16, 4), np.float32), "carried": None}, "openpi")
    frame = b"\x82\xfe" + struct.pack(">H", len(batch)) + bytes(4) + batch
    try:
        with ExitStack() as stack:
            for content, again in [
                *[(UPGRADE, PING * 1000)] * 3,
                *[(UPGRADE, frame * 20)] * 3,
                *[(b"", b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 50)] * 3,
                *[(b"GET / HT", b""), (HEAD, b""), (b"", b"")] * 3,
                *[(UPGRADE, b"")] * 60,
            ]:
                stack.enter_context(unread(server.port, content, again))
            if has_session:
                client = stack.enter_context(Openpi(f"ws://127.0.0.1:{server.port}"))
                client.act(OBS)
            # drain, deadline and a few seconds, on a machine however busy: goodbyes one after the
            # other would take more than a minute, and transports that flush first for ever
            assert server.stop() == 0
    finally:
        server.process.kill()
        server.process.wait(30)


class Goodbye:
    """An idle websocket whose goodbye takes until all have been begun."""

    is_answering, waiting_since = False, 0.0

    def __init__(self, service, begun):
        self.service, self.begun = service, begun

    async def close(self, code, reason=""):
        await self.begun.wait()
        self.service.channels.discard(self)

    def expire(self):
        raise AssertionError("it is closed by the end")

    forget_ended = expire


def test_goodbyes_are_said_at_once():
    """Each may take a second, where a client does not read."""

    async def drained():
        service = Service(ServerSettings(drain_s=0.0), [], local_folder)
        begun = asyncio.Barrier(5)
        service.channels |= {Goodbye(service, begun) for _ in range(5)}
        async with asyncio.timeout(10):
            await service.drain()
        return len(service.channels)

    assert asyncio.run(drained()) == 0


def test_an_end_lets_go_of_who_never_reads(folder, caplog):
    """Unread bytes would keep a client's connection open for as long as it likes."""
    caplog.set_level(logging.INFO, "agentzoo.access")
    request = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with serving(folder) as live:
        live.server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with unread(live.server.port, request * 25, b"") as client:
            limit = time.monotonic() + 60
            while sum('"/metrics"' in one.getMessage() for one in caplog.records) < 25:
                assert time.monotonic() < limit, "not all requests were answered"
                time.sleep(0.01)
            live.call(live.server.stop())
            client.settimeout(5)
            with pytest.raises(ConnectionError):  # and not a time-out
                client.sendall(request * 100_000)


UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc")


def can_be_first() -> bool:
    """Whether a process may be given a namespace of its own, in which it is process 1."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_be_first(), reason="no namespaces of processes here")
@pytest.mark.parametrize(
    ("script", "line"),
    [(SERVE, "ready on "), (SLOWLY, "loading")],
    ids=["once it is ready", "while it loads"],
)
def test_process_1_ends_when_it_is_told_to(folder, script, line):
    command = [*UNSHARE, sys.executable, "-c", script, str(folder), "--port", "0", "--drain", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        while not process.stderr.readline().startswith(line):
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        (first,) = children.read_text().split()
        assert Path(f"/proc/{first}/status").read_text().split("NSpid:")[1].split()[1] == "1"
        os.kill(int(first), signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate(timeout=30)


# -- swapping ------------------------------------------------------------------------------------


def test_a_step_without_a_session_is_answered_by_what_it_was_asked_of(
    folder, tmp_path, monkeypatch
):
    """Images are decoded beside the event loop, in which the policy may be replaced meanwhile."""
    source = shutil.copytree(folder, tmp_path / "a")
    other = write_bundle(tmp_path / "other", seed=1)
    with serving(source) as live, Openpi(live.ws) as client:
        old = load_policy(source, provider="cpu")
        new = load_policy(other, provider="cpu")
        from agentzoo.runtime.server import decoding

        real = decoding.observations

        async def replaced_meanwhile(specs, given):
            monkeypatch.setattr(decoding, "observations", real)
            shutil.rmtree(source)
            shutil.copytree(other, source)
            await live.service.load()
            return await real(specs, given)

        monkeypatch.setattr(decoding, "observations", replaced_meanwhile)
        said = client.ask(OBS[None], carried=None)
        assert (said["policy_version"], said["sha256"]) == ("1", old.digest)
        assert np.array_equal(said["actions"], old.predict(OBS[None], deterministic=None)[0])
        said = client.ask(OBS[None], carried=None)
        assert (said["policy_version"], said["sha256"]) == ("2", new.digest)
        while any('version="1"' in name for name in live.metrics() if "model_info" in name):
            live.loop.call_soon_threadsafe(live.service.expire)
            time.sleep(0.01)


def test_a_step_that_is_stuck_is_not_forgotten_with_its_policy(folder):
    with serving(folder, deadline_s=0.05) as live, Rest(live.http) as rest:
        held = Held(live.service.current().policy)
        assert rest.infer({"observation": OBS[None]})[0] == 504
        live.call(live.service.load())
        assert rest.infer({"observation": OBS[None]})[0] == 200  # what is served now answers
        for _ in range(3):
            live.loop.call_soon_threadsafe(live.service.expire)
            time.sleep(0.1)
        assert rest.get("/v2/health/ready")[0] == 200
        assert rest.get("/v2/health/live")[0] == 503  # it keeps a thread busy for ever
        assert live.call(live.service.close()) is False  # so that the process leaves it behind
        held.go.set()
        while live.service.models["a"].versions[0].batcher.is_running:
            time.sleep(0.01)
        live.loop.call_soon_threadsafe(live.service.expire)
        with pytest.raises(ServingError, match="no longer served"):
            live.call(live.service.predict(live.service.current(), {"observation": OBS[None]}))
