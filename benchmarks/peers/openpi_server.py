"""openpi's published websocket server, unmodified, in front of a policy of ours.

A peer of benchmarks/serving.py. Its server has no sessions: all connections share one policy, whose
state they mix; what a step costs is the same.

git clone https://github.com/Physical-Intelligence/openpi && git -C openpi checkout 15a9616
python benchmarks/serving.py --bundle /somewhere/bundle
python benchmarks/peers/openpi_server.py openpi /somewhere/bundle --port 9000
python benchmarks/serving.py --peer ws://127.0.0.1:9000

Source: Physical-Intelligence/openpi at 15a9616 (2026-06-15),
src/openpi/serving/websocket_policy_server.py.
"""

import argparse
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from agentzoo.runtime import load_policy  # noqa: E402

SERVER = "src/openpi/serving/websocket_policy_server.py"
CLIENT = "packages/openpi-client/src"


class Shared:
    """A policy as openpi's server calls one."""

    def __init__(self, bundle: Path) -> None:
        """Open the bundle on the CPU, with one thread, as our server does."""
        self.policy = load_policy(bundle, provider="cpu")

    def infer(self, obs: dict[str, np.ndarray]) -> dict[str, object]:
        """One step of the session that everybody shares."""
        return {"actions": self.policy.act(obs)[None]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="of openpi's repository")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=9000)
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout / CLIENT))
    spec = spec_from_file_location("websocket_policy_server", options.checkout / SERVER)
    assert spec is not None, options.checkout
    assert spec.loader is not None, options.checkout
    server = module_from_spec(spec)
    spec.loader.exec_module(server)
    server.WebsocketPolicyServer(Shared(options.bundle), "127.0.0.1", options.port).serve_forever()


if __name__ == "__main__":
    main()
