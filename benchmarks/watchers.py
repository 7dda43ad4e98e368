"""Cost of 20 watchers of an episode for the policy's other clients.

One client asks for action after action, with and without 20 page visitors who watch an episode, in
turns; each turn's median and 99th percentile are compared with its neighbour's. One line of JSON.

python benchmarks/watchers.py tests/unit_runtime/server/page/cartpole_pixels --turns 6
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import aiohttp
import numpy as np

from agentzoo.runtime import RemotePolicy

TURN_S = 8.0


async def watch(port: int, count: int, seconds: float) -> list[int]:
    """Frames that each of some visitors was shown."""
    seen = [0] * count

    async def one(i: int, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(f"http://127.0.0.1:{port}/page/socket") as socket:
            await socket.send_str(json.dumps({"key": ""}))
            message = {"do": "watch", "model": "watched", "seed": 0, "deterministic": None}
            await socket.send_str(json.dumps(message))
            limit = time.monotonic() + seconds
            while time.monotonic() < limit:
                received = await socket.receive(timeout=60)
                seen[i] += received.type is aiohttp.WSMsgType.BINARY

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(one(i, session) for i in range(count)))
    return seen


def latencies(policy: RemotePolicy, seconds: float) -> list[float]:
    spec = policy.spec
    obs = {key: np.zeros(one.source, one.dtype) for key, one in spec.obs.items()}
    found, limit = [], time.monotonic() + seconds
    while time.monotonic() < limit:
        begun = time.perf_counter()
        policy.act(obs)
        found.append(time.perf_counter() - begun)
        time.sleep(0.005)
    return found


def visitors(port: int, count: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, "--visit", str(port), "--count", str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def measure(bundle: str, port: int, turns: int, count: int) -> dict[str, object]:
    policy = RemotePolicy(f"ws://127.0.0.1:{port}")
    latencies(policy, 2.0)
    alone: list[list[float]] = []
    watched: list[list[float]] = []
    frames = 0.0
    for turn in range(turns):
        for with_watchers in (turn % 2 == 0, turn % 2 == 1):
            if with_watchers:
                crowd = visitors(port, count)
                time.sleep(6.0)  # the episode has begun
                watched.append(latencies(policy, TURN_S))
                out, _ = crowd.communicate()
                frames += sum(json.loads(out)) / (TURN_S + 8.0) / count / turns
            else:
                time.sleep(4.0)  # the episode has ended
                alone.append(latencies(policy, TURN_S))
    policy.close()

    def of(samples: Sequence[Sequence[float]], share: float) -> list[float]:
        return [float(np.quantile(one, share)) for one in samples]

    ratios = {
        name: statistics.median(
            b / a for a, b in zip(of(alone, share), of(watched, share), strict=True)
        )
        for name, share in (("median_ratio", 0.5), ("p99_ratio", 0.99))
    }
    return {
        "watchers": count,
        "turns": turns,
        "frames_per_s_each": round(frames, 1),
        "median_ms": round(1e3 * statistics.median(of(alone, 0.5)), 3),
        "median_ms_watched": round(1e3 * statistics.median(of(watched, 0.5)), 3),
        "p99_ms": round(1e3 * statistics.median(of(alone, 0.99)), 3),
        "p99_ms_watched": round(1e3 * statistics.median(of(watched, 0.99)), 3),
        **{name: round(value, 3) for name, value in ratios.items()},
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--port", type=int, default=8377)
    parser.add_argument("--visit", type=int, help="be the watchers of the server on this port")
    given = parser.parse_args()
    if given.visit:
        print(json.dumps(asyncio.run(watch(given.visit, given.count, TURN_S + 8.0))))
        return
    command = [sys.executable, "-m", "agentzoo.cli.main", "serve", f"watched={given.bundle}"]
    server = subprocess.Popen([*command, "--port", str(given.port)], stderr=subprocess.PIPE)
    try:
        assert server.stderr
        while b"ready on" not in (line := server.stderr.readline()):
            assert line, "the server has ended"
        print(json.dumps(measure(given.bundle, given.port, given.turns, given.count)))
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    main()
