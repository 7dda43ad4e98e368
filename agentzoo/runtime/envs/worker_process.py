"""A new interpreter with a connection to it, on systems that hand descriptors on and on others.

Where a process inherits descriptors (POSIX), the connection is a pipe of which it gets one end.
Where it does not (Windows), it connects to a socket of this machine and shows a secret first, which
it was told on its standard input; before that nothing it sends is read as anything else.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from ..errors import WorkerError

INHERITS = os.name == "posix"
LOOPBACK = "127.0.0.1"
SECRET = 32  # bytes
CONNECT_S = 60.0  # from a process's start to its connection
BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from agentzoo.runtime.envs.worker import serve
serve(sys.argv[2], infos=sys.argv[3] == "infos")
"""


def start(kept: str, environ: dict[str, str]) -> tuple["subprocess.Popen[bytes]", Any]:
    """Start a worker and connect to it.

    Args:
        kept: what it sends of infos, "infos" or "transitions".
        environ: its environment variables.

    Returns:
        The process, out of reach of the terminal's Ctrl-C, and the `Connection`.

    Raises:
        WorkerError: if it does not connect.
    """
    if not INHERITS:
        return _start_at_a_socket(kept, environ)
    ours, theirs = Pipe()
    process = subprocess.Popen(
        _command(f"descriptor:{theirs.fileno()}", kept),
        stdin=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
        env=environ,
        start_new_session=True,  # the terminal's Ctrl-C is the learner's to handle
    )
    theirs.close()
    return process, ours


def _command(where: str, kept: str) -> Sequence[str]:
    return [sys.executable, "-c", BOOT, json.dumps(sys.path), where, kept]


def _start_at_a_socket(
    kept: str, environ: dict[str, str]
) -> tuple["subprocess.Popen[bytes]", "Connection[Any, Any]"]:
    secret = secrets.token_bytes(SECRET)
    with socket.create_server((LOOPBACK, 0)) as server:
        process = subprocess.Popen(
            _command(f"port:{server.getsockname()[1]}", kept),
            stdin=subprocess.PIPE,
            env=environ,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it died; who waits for its connection tells
            process.stdin.write(secret)
            process.stdin.flush()
        try:
            return process, _accepted(server, secret, process)
        except BaseException:
            end(process)
            process.stdin.close()
            raise


def _accepted(
    server: socket.socket, secret: bytes, process: "subprocess.Popen[bytes]"
) -> "Connection[Any, Any]":
    deadline = time.monotonic() + CONNECT_S
    server.settimeout(0.2)
    while time.monotonic() < deadline and process.poll() is None:
        try:
            found, _ = server.accept()
        except TimeoutError:
            continue
        if secrets.compare_digest(_read(found, SECRET), secret):
            found.settimeout(None)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Connection(found.detach())
        found.close()  # somebody else
    raise WorkerError(
        f"process {process.pid} for an environment did not connect within {CONNECT_S:g} s; look at "
        "what it says on standard error"
    )


def _read(found: socket.socket, size: int) -> bytes:
    """Read bytes: as many as asked, or fewer where the other side ends or takes too long."""
    found.settimeout(2.0)
    content = b""
    with suppress(TimeoutError, ConnectionError):
        while len(content) < size and (more := found.recv(size - len(content))):
            content += more
    return content


def connect(where: str, stdin: int) -> Any:
    """The worker's end of the connection that `start` made.

    Args:
        where: from its command line.
        stdin: descriptor of its standard input.
    """
    kind, _, number = where.partition(":")
    if kind == "descriptor":
        # what the environment starts must not hold the connection open when this process is gone
        os.set_inheritable(int(number), False)
        return Connection(int(number))
    secret = b""
    while len(secret) < SECRET and (more := os.read(stdin, SECRET - len(secret))):
        secret += more
    found = socket.create_connection((LOOPBACK, int(number)), timeout=CONNECT_S)
    found.settimeout(None)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.sendall(secret)
    return Connection(found.detach())


def end(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and, where there are process groups, what it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
