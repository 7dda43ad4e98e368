"""Speed of environments in processes of their own, against one after another in this one.

    python benchmarks/collection.py [--envs 1 4 16] [--rounds 5] [--seconds 2] [--env NAME ...]

Random actions through the adapter that collection uses; no agent acts and none learns. The two ways
take turns, and the table holds medians over the rounds.
"""

import argparse
import os
import time
from statistics import median

import numpy as np
from models import processor

from agentzoo.runtime.envs import Adapter

ENVS = (
    "dmc:walker-walk?render=fast&repeat=2",
    "dmc:walker-walk?obs=state&repeat=2",
    "gym:CartPole-v1",
)
WAYS = {"serial": False, "processes": True}


class Player:
    """Environments under random actions, begun anew as their episodes end."""

    def __init__(self, env: str, envs: int, *, parallel: bool) -> None:
        self.adapter = Adapter.open(env, envs, parallel=parallel)
        self.rng, self.inside, self.episodes = np.random.default_rng(0), [], 0

    def decide(self) -> int:
        """One step or reset of every environment; how many stepped."""
        adapter, inside = self.adapter, self.inside
        outside = [i for i in range(len(adapter)) if i not in inside]
        seeds = range(self.episodes, self.episodes + len(outside))
        self.episodes += len(outside)
        adapter.send(inside, self.actions(len(inside)), outside, seeds)
        envs, seen = adapter.receive()
        self.inside = [env for env, last in zip(envs, seen["is_last"], strict=True) if not last]
        return len(inside)

    def actions(self, count: int) -> np.ndarray:
        """Uniform in [-1, 1], or among the classes."""
        spec = self.adapter.action
        if spec.kind == "box":
            return self.rng.uniform(-1, 1, (count, *spec.shape))
        return self.rng.integers(0, spec.nvec[0], (count, *spec.shape))

    def rate(self, seconds: float) -> float:
        """Environment steps a second, action repeat included."""
        start, decisions = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            decisions += self.decide()
        return decisions * self.adapter.repeat / spent


def measure(env: str, envs: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Way -> environment steps a second, one a round."""
    players = {way: Player(env, envs, parallel=parallel) for way, parallel in WAYS.items()}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way, player in players.items():
            rate = player.rate(seconds)
            if turn:  # the first round warms up
                rates[way].append(rate)
    for player in players.values():
        player.adapter.close()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description="Environments in processes, and one by one.")
    parser.add_argument("--env", nargs="+", default=ENVS)
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn")
    given = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores")
    print("| environment steps a second | envs | serial | processes | times |")
    print("|---|---:|---:|---:|---:|")
    for env in given.env:
        for envs in given.envs:
            rates = measure(env, envs, given.rounds, given.seconds)
            times = median(b / a for a, b in zip(*rates.values(), strict=True))
            cells = " | ".join(f"{median(rate):,.0f}" for rate in rates.values())
            print(f"| `{env}` | {envs} | {cells} | {times:.2f} |", flush=True)


if __name__ == "__main__":
    main()
