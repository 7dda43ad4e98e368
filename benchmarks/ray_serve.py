"""Cost of Ray Serve over the bare server, and gain of a second replica: requests a second.

The bare server, an application of one replica and one of two stand side by side and are asked in
turns, so that a busy moment is everybody's. Clients are websockets that ask, wait and ask again;
the policy is the small one of `serving.py`, so that the way to it is measured. Run it with the
interpreter that `.ci/ray_tune` makes:

PYTHONPATH=. PYTHON_WITH_RAY benchmarks/ray_serve.py
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

try:
    import ray
    from ray import serve
except ModuleNotFoundError:
    print("Ray is not installed here; nothing was measured")  # `make bench` goes on
    raise SystemExit from None

from agentzoo.runtime.deploy import app  # noqa: E402
from benchmarks.serving import ACTIONS, DETER, OBSERVATIONS, loaded, measured  # noqa: E402
from soak.handmade_bundle import write_bundle  # noqa: E402
from soak.server_process import ServerProcess  # noqa: E402

SESSIONS = (1, 16, 64)
PORT = 8123
REPLICAS = {"one replica": 1, "two replicas": 2}


def in_turns(urls: Mapping[str, str], sessions: int, requests: int, turns: int) -> None:
    """One row of the table: median rates, and medians of each turn's ratios."""
    rates: dict[str, list[float]] = {name: [] for name in urls}
    for _ in range(turns):
        for name, url in urls.items():
            rates[name].append(measured(loaded(url, sessions, requests))["rate"])
    bare, one, two = rates.values()
    cells = [f"{statistics.median(each):,.0f}" for each in rates.values()]
    for below, above in ((bare, one), (one, two)):
        ratios = [b / a for a, b in zip(below, above, strict=True)]
        cells.append(f"{statistics.median(ratios):.2f}")
    print(f"| {sessions} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="in each turn")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as scratch:
        bundle = write_bundle(
            Path(scratch) / "bundle", observations=OBSERVATIONS, actions=ACTIONS, deter=DETER
        )
        server = ServerProcess(bundle, Path(scratch) / "server.log")
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False,
                 logging_level=logging.ERROR)  # fmt: skip
        try:
            quiet = {"log_level": "ERROR", "enable_access_log": False}
            serve.start(http_options={"port": PORT}, logging_config=quiet)
            urls = {"bare": f"ws://127.0.0.1:{server.port}"}
            for name, count in REPLICAS.items():
                prefix = f"/{count}"
                serve.run(app({"model": str(bundle), "replicas": count}), name=name,
                          route_prefix=prefix)  # fmt: skip
                urls[name] = f"ws://127.0.0.1:{PORT}{prefix}/openpi"
            print(f"| sessions | {': req/s | '.join(urls)}: req/s | one / bare | two / one |")
            print("|---:|---:|---:|---:|---:|---:|")
            for sessions in SESSIONS:
                in_turns(urls, sessions, options.requests, options.turns)
            serve.shutdown()
        finally:
            ray.shutdown()
            server.stop()
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
