"""Updates a second at the papers' sizes, as a CUDA graph and kernel by kernel.

    python benchmarks/gpu/updates.py [--agents dreamer ...] [--precisions fp32 tf32 bf16]
    python benchmarks/gpu/updates.py --device cpu --debug --updates 2 --rounds 1

Batches are random and on the device already; loop.py has the rest of a run. Graph and kernels take
turns, with networks of their own; the medians are of turns. The aim for `dreamer` on an H100 is 60.
"""

from statistics import median

import torch
from cases import CASES, Case, Pictures, arguments, clock, random_batch, setting

from agentzoo.agent import Agent
from agentzoo.algorithm import Batch
from agentzoo.device import find_device
from agentzoo.train.cuda_graph import WARM_UPS, Update, updater

WAYS = {"kernel by kernel": "off", "graph": "on"}
HEAD = """\
| agent | precision | way | updates/s: median (most) | times | first updates, s | memory, GB |
|---|---|---|---:|---:|---:|---:|"""


class Way:
    """An agent whose updates are made in one way.

    Attributes:
        first: seconds of the updates that warm up and record.
        rates: updates a second, one a round.
    """

    def __init__(self, agent: Agent, capture: str) -> None:
        self.device = agent.device
        self.update: Update = updater(agent.algorithm, agent.device, capture)
        self.batches: list[Batch] = [random_batch(agent, seed) for seed in range(2)]
        self.done = 0
        self.first = self.seconds(WARM_UPS + 1)
        self.rates: list[float] = []

    def seconds(self, updates: int) -> float:
        """Time of that many updates."""
        start = clock(self.device)
        for _ in range(updates):
            self.update(self.batches[self.done % len(self.batches)], self.done)
            self.done += 1
        return clock(self.device) - start

    def turn(self, updates: int) -> None:
        """One round's rate."""
        self.rates.append(updates / self.seconds(updates))


def measure(
    case: Case, precision: str, device: torch.device, rounds: int, updates: int, *, debug: bool
) -> list[str]:
    """The lines of one agent at one precision."""
    captures = WAYS if device.type == "cuda" else {"kernel by kernel": "off"}
    ways: dict[str, Way] = {}
    used: dict[str, float] = {}
    for name, capture in captures.items():
        before = allocated(device)
        agent = case.build(Pictures(), str(device), debug=debug, precision=precision)
        ways[name] = Way(agent, capture)
        used[name] = allocated(device) - before
    for _ in range(rounds):
        for way in ways.values():
            way.turn(updates)
    slowest = median(next(iter(ways.values())).rates)
    return [
        f"| {case.name} | {precision} | {name} | {median(way.rates):.2f} ({max(way.rates):.2f}) | "
        f"{median(way.rates) / slowest:.2f} | {way.first:.1f} | {used[name]:.1f} |"
        for name, way in ways.items()
    ]


def allocated(device: torch.device) -> float:
    """GB that this process has taken from the device."""
    return torch.cuda.memory_reserved(device) / 1e9 if device.type == "cuda" else 0.0


def main() -> None:
    parser = arguments("Updates a second at the papers' sizes.")
    parser.add_argument("--agents", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "tf32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=50, help="in a turn")
    given = parser.parse_args()
    device = find_device(given.device)
    print(f"{setting(device)}\n\n{HEAD}")
    for name in given.agents:
        for precision in given.precisions:
            if precision == "tf32" and device.type != "cuda":
                continue
            case, rounds, updates = CASES[name], given.rounds, given.updates
            lines = measure(case, precision, device, rounds, updates, debug=given.debug)
            print(*lines, sep="\n", flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
