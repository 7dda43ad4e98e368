"""How long one Dreamer update from state takes: ours, and sheeprl's `dreamer_v1` at the same sizes.

    python benchmarks/dreamer_update.py --peer-python PEER/bin/python [--rounds 10] [--updates 2]

An update is one gradient step of model, actor and value on a prepared random batch, in float32,
without compilation. The peer runs in a process of its own, with the interpreter of an environment
that has it installed (benchmarks/README.md has the lines), and takes turns with ours. The floor is
what an update's matrix products alone would take at the rate of one large product, measured in the
same turns. Without --peer-python, ours is measured alone.
"""

import argparse
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from subjects import ACTION_SIZE, STATE_SIZE, WALKER_STATE, box, seconds, setting, untrained
from torch.utils.flop_counter import FlopCounterMode

from agentzoo.agents.dreamer import GROUPS, DreamerAlgorithm
from agentzoo.algorithm import Batch, NoiseSource

OURS, PEER, PRODUCT = "agentzoo", "sheeprl", "product"
SCRIPT = Path(__file__).parent / "peers" / "sheeprl_dreamer_v1.py"
HEAD = """\
| | parameters: model, actor, value | GFLOP | s: median (min) | over the floor | over ours |
|---|---|---:|---:|---:|---:|"""
BATCHES = 4  # prepared ones, taken in turn
SQUARE = 2048  # sides of the matrices whose product gives the floor's rate
PRODUCTS = 8  # of them in a turn
SIZES = ("batch_size", "batch_length", "horizon", "units", "state_layers", "reward_layers",
         "value_layers", "actor_layers", "stoch", "deter", "hidden")  # fmt: skip


def batch(algorithm: DreamerAlgorithm, seed: int) -> Batch:
    """Random rows as replay gives them; each window begins an episode."""
    draw = torch.Generator().manual_seed(seed)
    lead = algorithm.config.batch_size, algorithm.config.batch_length
    never = torch.zeros(lead, dtype=torch.bool)
    is_first = never.clone()
    is_first[:, 0] = True
    return {
        "state": torch.randn(*lead, STATE_SIZE, generator=draw),
        "prev_action": 2 * torch.rand(*lead, ACTION_SIZE, generator=draw) - 1,
        "reward": torch.rand(*lead, generator=draw),
        "is_first": is_first,
        "is_last": never,
        "is_terminal": never,
    }


@dataclass(frozen=True)
class About:
    """What a side says of its update.

    Attributes:
        parameters: their numbers, by group: model, actor, value.
        flops: floating point operations in the matrix products of one update.
        versions: of what it runs on, by package.
    """

    parameters: dict[str, int]
    flops: int
    versions: dict[str, str]


class Ours:
    """Our networks, and one call that trains them on the next batch."""

    def __init__(self) -> None:
        self.algorithm = untrained("dmc_state", WALKER_STATE, box(ACTION_SIZE))
        self.batches = [batch(self.algorithm, seed) for seed in range(BATCHES)]
        self.done = 0
        with FlopCounterMode(display=False) as counter:
            self()
        counts = dict.fromkeys(GROUPS, 0)
        for name, param in self.algorithm.named_parameters():
            group = next(g for g, parts in GROUPS.items() if name.split(".")[0] in parts)
            counts[group] += param.numel()
        self.about = About(counts, counter.get_total_flops(), {})

    def __call__(self) -> None:
        """One gradient step of model, actor and value."""
        data = self.batches[self.done % BATCHES]
        self.done += 1
        self.algorithm.update(data, NoiseSource(self.done))

    def run(self, count: int) -> list[float]:
        """Times of that many updates in seconds."""
        return [seconds(self) for _ in range(count)]

    def sizes(self) -> dict[str, int]:
        """What the peer has to be set to."""
        chosen = {name: getattr(self.algorithm.config, name) for name in SIZES}
        return {**chosen, "obs": STATE_SIZE, "action": ACTION_SIZE}


class Peer:
    """The peer's process, which answers line by line.

    Args:
        python: the interpreter of the environment in which it is installed.
        sizes: what to set it to.
        threads: of its torch.
    """

    def __init__(self, python: str, sizes: dict[str, int], threads: int) -> None:
        command = [python, str(SCRIPT), "--sizes", json.dumps(sizes), "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = About(**json.loads(self._line()))

    def run(self, count: int) -> list[float]:
        """Times of that many updates in seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"run {count}\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"the peer ended with exit status {self.process.wait()}; its message stands above, "
                "and benchmarks/README.md tells how to install it"
            )
        return line


def products(count: int) -> list[float]:
    """Times of that many large products in seconds, after one that warms up."""
    a, b = torch.randn(2, SQUARE, SQUARE)
    out = a @ b
    return [seconds(lambda: torch.mm(a, b, out=out)) for _ in range(count)]


Runs = dict[str, Callable[[], list[float]]]


def measure(runs: Runs, rounds: int) -> dict[str, list[list[float]]]:
    """Side -> rounds of times in seconds."""
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            block = run()
            if turn:  # the first round warms up
                times[name].append(block)
    return times


def ratio(times: list[list[float]], others: list[list[float]]) -> float:
    """How many times as long as the others, round by round."""
    return median(median(a) / median(b) for a, b in zip(times, others, strict=True))


def row(name: str, about: About, times: dict[str, list[list[float]]], rate: float) -> str:
    """One line of the table; `rate` is in FLOP/s."""
    every = [time for block in times[name] for time in block]
    cells = [
        " ".join([name, *about.versions.values()]),
        ", ".join(f"{count:,}" for count in about.parameters.values()),
        f"{about.flops / 1e9:.0f}",
        f"{median(every):.2f} ({min(every):.2f})",
        f"{median(every) * rate / about.flops:.2f}",
        f"{ratio(times[name], times[OURS]):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def report(sides: Mapping[str, Ours | Peer], times: dict[str, list[list[float]]]) -> str:
    """The table, with a line below it on the rate that the floor is taken from."""
    rate = 2 * SQUARE**3 / median(time for block in times[PRODUCT] for time in block)
    rows = [row(name, side.about, times, rate) for name, side in sides.items()]
    below = f"Products of {SQUARE} x {SQUARE} run at {rate / 1e9:.0f} GFLOP/s in the same turns."
    if PEER not in sides:
        below += " The peer was not run: give --peer-python (see benchmarks/README.md)."
    return "\n".join([HEAD, *rows, "", below])


def main() -> None:
    parser = argparse.ArgumentParser(description="How long one Dreamer update from state takes.")
    parser.add_argument("--peer-python", help="interpreter of the environment that has sheeprl")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=2, help="in a turn")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ours = Ours()
    sides: dict[str, Ours | Peer] = {OURS: ours}
    if given.peer_python:
        sides[PEER] = Peer(given.peer_python, ours.sizes(), given.threads)
    runs: Runs = {name: partial(side.run, given.updates) for name, side in sides.items()}
    times = measure({**runs, PRODUCT: partial(products, PRODUCTS)}, given.rounds)
    print(setting(given.threads, "torch"), "\n")
    print(report(sides, times))


if __name__ == "__main__":
    main()
