"""Run a served policy as if it were here.

agentzoo serve cartpole &
python examples/act_over_the_network.py ws://127.0.0.1:8000
"""

import sys

from agentzoo.runtime import RemotePolicy, evaluate


def main(url: str = "ws://127.0.0.1:8000", episodes: int = 4) -> float:
    policy = RemotePolicy(url)
    result = evaluate(policy, episodes=episodes, envs=2)  # in the environment it was trained in
    policy.close()
    print(f"{policy.spec.agent} at {url} on {result.env}: mean {result.mean:.1f}")
    return result.mean


if __name__ == "__main__":
    main(*sys.argv[1:2])
