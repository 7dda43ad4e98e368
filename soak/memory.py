"""A million requests to one server, whose memory has to stay as it is.

python soak/memory.py [--requests 1000000] [--minutes 90] [--log FILE]

A server in a process of its own is asked over all three protocols: sessions that act and are reset,
connections that come and go, sequences, stateless steps, and now and then an observation that is
refused. What it holds is sampled from outside; once warm, the median of the last quarter of the
samples may be above that of the first by no more than a few megabytes (4 MB over 800,000 requests
are 5 bytes each).

One JSON object every 1,000 requests, or 100 samples in all if that is less, goes to the log; the
last one sums up. The exit status is 1 if memory grew, or if not everything was asked by --minutes.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import TextIO

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agentzoo.runtime import RemotePolicy  # noqa: E402
from agentzoo.runtime.client.msgpack_arrays import pack, unpack  # noqa: E402
from agentzoo.runtime.client.websocket import Connection  # noqa: E402
from soak.handmade_bundle import write_bundle  # noqa: E402
from soak.server_process import TIMEOUT_S, ServerProcess, write  # noqa: E402

SESSIONS = 16  # of RemotePolicy
EPISODE = 100  # steps until a session is reset, or ends and another begins
WARM = 0.2  # of the requests, before the server's memory counts
GROWTH_MB = 4.0  # that it may have by the end
LINES = 100  # samples at least
LINE_EVERY = 1_000  # requests between two samples at most
OBS = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
NAN = np.full(4, np.nan, np.float32)


def sessions(port: int) -> Generator[int, None, None]:
    """Sessions that act together; each in turn is reset, or leaves for a new connection.

    Yields:
        How many requests that were.
    """
    with ExitStack() as stack:
        first = RemotePolicy(f"ws://127.0.0.1:{port}", timeout_s=TIMEOUT_S)
        open_ = [first.session(seed) for seed in range(SESSIONS)]
        stack.callback(lambda: [one.close() for one in (first, *open_)])
        for step in count(1):
            actions = RemotePolicy.act_batch(open_, [OBS[step % len(OBS)]] * SESSIONS)
            assert all(np.isfinite(action).all() for action in actions)
            turn, is_over = divmod(step, EPISODE)
            if is_over == 0:
                leaving = turn % SESSIONS
                open_[leaving].close()
                open_[leaving] = first.session(seed=turn)
                open_[(turn + 1) % SESSIONS].reset()
            yield SESSIONS


def episodes(port: int) -> Generator[int, None, None]:
    """Episodes of vla-eval on one connection; each has one observation that is refused."""
    opened = Connection(f"ws://127.0.0.1:{port}/vla", headers={}, timeout_s=TIMEOUT_S)
    seq = 0

    def tell(kind: str, payload: dict[str, object]) -> None:
        nonlocal seq
        seq += 1
        message = {"type": kind, "payload": payload, "seq": seq, "timestamp": 0.0}
        opened.send(pack(message, "vla-eval"))

    with closing(opened):
        while True:
            tell("episode_start", {})
            for step in range(EPISODE):
                is_bad = step == EPISODE // 2
                tell("observation", {"observation": NAN if is_bad else OBS[step % len(OBS)]})
                reply = unpack(opened.receive(TIMEOUT_S))
                assert isinstance(reply, dict)
                assert reply["type"] == ("error" if is_bad else "action"), reply
                yield 1
            tell("episode_end", {})


def sequences(port: int) -> Generator[int, None, None]:
    """Sequences over REST, each followed by a stateless step."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def infer(step: int, **parameters: object) -> None:
        data = OBS[step % len(OBS)].tolist()
        tensor = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": data}
        body = json.dumps({"inputs": [tensor], "parameters": parameters})
        connection.request("POST", "/v2/models/a/infer", body)
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, text

    with closing(connection):
        for name in count(1):
            for step in range(EPISODE):
                is_end = step == EPISODE - 1
                infer(step, sequence_id=name, sequence_start=step == 0, sequence_end=is_end)
                yield 1
            infer(name)
            yield 1


def run(requests: int, folder: Path, log: TextIO, minutes: float = math.inf) -> dict[str, object]:
    """Ask, and look at the server's memory.

    Args:
        requests: how many.
        folder: to work in.
        log: gets the samples.
        minutes: after which nothing more is asked.

    Returns:
        The summary.

    Raises:
        AssertionError: if an answer is none, the server grew, or did not end in order.
    """
    server = ServerProcess(write_bundle(folder / "bundle"), folder / "server.log")
    started, asked, samples = time.monotonic(), 0, list[tuple[int, float]]()
    every, stack = max(1, min(LINE_EVERY, requests // LINES)), ExitStack()
    try:
        clients = [stack.enter_context(closing(ask(server.port)))
                   for ask in (sessions, episodes, sequences)]  # fmt: skip
        while asked < requests and time.monotonic() - started < 60 * minutes:
            before = asked
            asked += sum(next(client) for client in clients)
            if asked // every > before // every:
                samples.append((asked, server.memory_mb()))
                write(log, {"asked": asked, "seconds": round(time.monotonic() - started, 1),
                            "server_mb": round(samples[-1][1], 2)})  # fmt: skip
        answered = server.metric("agentzoo_requests_total")
        grown = growth([mb for at, mb in samples if at >= WARM * requests])
        stack.close()
        assert server.stop() == 0, "the server did not end in order"
    finally:
        stack.close()
        server.process.kill()
        server.process.wait(30)
    summary = {"requests": requests, "asked": asked, "counted": int(answered),
               "seconds": round(time.monotonic() - started, 1),
               "grown_mb": round(grown, 2)}  # fmt: skip
    assert answered >= asked, summary
    assert grown <= GROWTH_MB, f"the server's memory grew: {summary}"
    return summary


def growth(samples: list[float]) -> float:
    """Median of the last quarter above that of the first, in MB; NaN for fewer than 4 samples."""
    quarter = len(samples) // 4
    if not quarter:
        return math.nan
    return statistics.median(samples[-quarter:]) - statistics.median(samples[:quarter])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=90.0, help="after which none are asked")
    parser.add_argument("--log", type=Path, default=Path("soak-memory.jsonl"))
    options = parser.parse_args()
    with options.log.open("w") as log, tempfile.TemporaryDirectory() as folder:
        try:
            found = run(options.requests, Path(folder), log, options.minutes)
        except Exception as error:
            write(log, {"requests": options.requests, "lost": f"{type(error).__name__}: {error}"})
            raise
        write(log, {**found, "lost": None})
    return 0 if found["asked"] >= options.requests else 1


if __name__ == "__main__":
    sys.exit(main())
