"""DreamerV3 updates with imagination compiled, beside eager ones on a CPU; what compiling takes.

    OMP_NUM_THREADS=1 python benchmarks/compiled.py [--cases dreamer_v3-cpu ...] [--rounds 15]

Time is processor time of one thread, so that it holds on a machine that others use: an update of
each side in every round, on the same prepared random batches. Compiling is timed on an empty cache
in a process of its own, then in another one that finds the cache filled; its compilers' processes
count. `compile="auto"` goes by this table (agentzoo/compiling.py).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from bf16 import CASES, Updates
from models import seconds, setting

from agentzoo.algorithm import module
from agentzoo.blocks.compiled import FOLDER
from agentzoo.train.cuda_graph import EagerUpdate

NAMES = ("dreamer_v3-cpu", "dreamer_v3-1m-state")
SIDES = {"eager": False, "compiled": True}
HEAD = """\
| case | eager, s: median (min) | compiled, s | times: median (least, most) | \
compiling: CPU s (wall) | with a cache | repaid after | apart after 5 updates |
|---|---:|---:|---:|---:|---:|---:|---:|"""


def spent() -> float:
    """Processor time of this process and of those that it waited for, in seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + children.ru_utime + children.ru_stime


class Side:
    """An agent's updates on two random batches in turn, eager or compiled."""

    def __init__(self, name: str, on: bool) -> None:
        self.updates = Updates(CASES[name], "fp32")
        algorithm = self.updates.agent.algorithm
        self.update, self.done = EagerUpdate(algorithm, torch.device("cpu"), compiled=on), 0

    def __call__(self) -> None:
        """One update."""
        self.update(self.updates.batches[self.done % 2], self.done)
        self.done += 1

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the weights and other state that is not of integers."""
        state = module(self.update.algorithm).state_dict()
        return {name: x.clone() for name, x in state.items() if x.is_floating_point()}


def work(name: str, rounds: int) -> None:
    """Print what this process measures: compiling, then the times of each side."""
    sides = {side: Side(name, on) for side, on in SIDES.items()}
    sides["eager"]()
    begun, wall = spent(), perf_counter()
    sides["compiled"]()
    compiling = [spent() - begun, perf_counter() - wall]
    for _ in range(4):
        for side in sides.values():
            side()
    states = [side.state() for side in sides.values()]
    apart = max((states[1][name] - x).abs().max().item() for name, x in states[0].items())
    times = {side: [0.0] * rounds for side in sides}
    for turn in range(rounds):
        for side, update in sides.items():
            times[side][turn] = seconds(update, process_time)
    print(json.dumps({"compiling": compiling, "apart": apart, "times": times}))


def measured(name: str, rounds: int, cache: str) -> dict[str, Any]:
    """The measurements of a process of its own."""
    command = [sys.executable, __file__, "--work", name, "--rounds", str(rounds)]
    environment = {**os.environ, FOLDER: cache}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, rounds: int) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as cache:
        first = measured(name, rounds, cache)
        again = measured(name, 1, cache)
    times = first["times"]
    ratios = [a / b for a, b in zip(times["eager"], times["compiled"], strict=True)]
    saved = median(times["eager"]) - median(times["compiled"])
    cells = [
        name,
        *(f"{median(times[side]):.3f} ({min(times[side]):.3f})" for side in SIDES),
        f"{median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})",
        *(f"{cpu:.0f} ({wall:.0f})" for cpu, wall in (first["compiling"], again["compiling"])),
        f"{first['compiling'][0] / saved:,.0f}" if saved > 0 else "never",
        f"{first['apart']:.0e}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compiled updates beside eager ones on a CPU.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=NAMES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.work:
        work(given.work, given.rounds)
        return
    print(setting(1, "torch"), "\n")
    print(HEAD, flush=True)
    for name in given.cases:
        print(row(name, given.rounds), flush=True)


if __name__ == "__main__":
    main()
